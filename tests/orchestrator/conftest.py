"""An installation for each test that wants one."""

from __future__ import annotations

from collections.abc import AsyncGenerator

import pytest

from tests.orchestrator.installation import Installation
from tests.orchestrator.installation import installation as opened


@pytest.fixture
async def installation(database_url: str) -> AsyncGenerator[Installation]:
    """A database with an admin token and no replica yet."""
    async with opened(database_url) as made:
        yield made
