from __future__ import annotations

from tests.orchestrator.conftest import installation

__all__ = ["installation"]
