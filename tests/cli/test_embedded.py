"""The Postgres that comes in a wheel."""

from __future__ import annotations

import shutil
import stat
import tempfile
from pathlib import Path

from cli import embedded
from tests.postgres import psql


def test_folders_above_an_embedded_postgres_can_be_passed_and_not_read_by_others():
    # Below a folder that is for its owner alone, as a home often is.
    above = Path(tempfile.mkdtemp(prefix="moonyard-embedded-"))
    try:
        (above / "open").mkdir(mode=0o755)
        with embedded.postgres(above / "open" / "state" / "postgres") as url:
            assert psql(url, "SELECT 'there'", "-At") == "there\n"
            modes = [stat.S_IMODE(folder.stat().st_mode) for folder in (above, above / "open")]
        assert modes[0] & 0o066 == 0
        assert modes[1] == 0o755
    finally:
        shutil.rmtree(above)
