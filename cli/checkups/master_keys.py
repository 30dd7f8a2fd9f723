"""Whether the master keys of secrets are those that the database's values are under, and in a copy somewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import anyio

from cli import key_copies
from cli.checkups import database
from orchestrator.master_keys import MasterKeys
from orchestrator.sql import checkup as checkup_sql
from schema.errors import MoonyardError, single_error
from schema.findings import Finding, State, failed, listed

PART: Final = "secrets"


def unusable(error: MoonyardError) -> Finding:
    """Say that keys which are named cannot be read."""
    return failed(
        "master keys",
        error,
        part=PART,
        why="No orchestrator with these settings starts.",
        hint="docs/secrets.md says what a file of master keys looks like.",
    )


async def examine(
    keys: MasterKeys, state_folder: Path, database_url: str | None, listen_url: str | None
) -> list[Finding]:
    """Look at the keys that were named here, and at what is stored under which in the database, if one was named."""
    stored: dict[str, int] | None = None
    if database_url is not None:
        try:
            stored = await _stored(database_url, listen_url)
        except (MoonyardError, TimeoutError):
            stored = None  # what is wrong with the database is told where that is looked at
    if not keys.ids:
        return [_none(stored)]
    return [*_fitting(keys, stored), *_copied(keys, state_folder)]


async def _stored(url: str, listen_url: str | None) -> dict[str, int] | None:
    """Give how many values are under each key; None where this login may not look."""
    with single_error(), anyio.fail_after(database.EXAMINE_SECONDS):
        async with database.reached(url, listen_url) as reaching:
            if "moonyard.secret_versions" not in await database.readable(reaching):
                return None
            return {row["key_id"]: row["secrets"] for row in await reaching.rows(checkup_sql.MASTER_KEYS)}


def _none(stored: dict[str, int] | None) -> Finding:
    if stored is None:
        return _finding("master keys", "ok", "none are named here, and nothing is known of values that would need one")
    if not stored:
        return _finding("master keys", "ok", "none are named here, and no secrets are stored")
    return _finding(
        "master keys",
        "broken",
        f"none are named here, and {sum(stored.values())} values are stored under {_keys(list(stored))}",
        "An orchestrator with these settings delivers no secret: jobs that ask for one fail.",
        "Name them as for the orchestrators: `secret_key_file`, `secret_key_command` or MOONYARD_SECRET_KEYS.",
    )


def _fitting(keys: MasterKeys, stored: dict[str, int] | None) -> list[Finding]:
    if stored is None:
        return [_finding("master keys", "ok", f"{_keys(keys.ids)}: the first is in use")]
    lacking = {key: count for key, count in stored.items() if key not in keys.ids}
    if lacking:
        return [
            _finding(
                "master keys",
                "broken",
                f"{sum(lacking.values())} values are under {_keys(list(lacking))}, and here is {_keys(keys.ids)}",
                "Nobody reads these values without it: jobs that ask for them fail.",
                "Give all orchestrators the same keys: the one in use first, the older ones after it.",
            )
        ]
    older = sum(count for key, count in stored.items() if key != keys.current.id)
    if older:
        return [
            _finding(
                "master keys",
                "weak",
                f"{older} values are still under older keys than {keys.current.id}, which is in use",
                "If an older key was replaced because somebody saw it, it still opens these.",
                "Run: moonyard secret rewrap. Then take the older keys out of the files.",
            )
        ]
    if len(keys.ids) > 1:
        others = [key for key in keys.ids if key != keys.current.id]
        text = f"all values are under {keys.current.id}; nothing needs {_keys(others)} any more"
        return [_finding("master keys", "ok", text)]
    return [_finding("master keys", "ok", f"all values are under {keys.current.id}")]


def _copied(keys: MasterKeys, state_folder: Path) -> list[Finding]:
    copies = key_copies.known(state_folder)
    lacking = [key for key in keys.ids if key not in copies]
    if not lacking:
        oldest = min(copies[key] for key in keys.ids)
        return [_finding("copy of the master keys", "ok", f"one was read at {oldest}, and had them all")]
    return [
        _finding(
            "copy of the master keys",
            "weak",
            f"nobody has shown one that has {_keys(lacking)}",
            "Without its master key nobody reads a secret again: the database's backups do not have it.",
            "Keep a copy, where those backups are not, and run: moonyard secret key verify COPY",
        )
    ]


def _keys(ids: list[str]) -> str:
    return f"{'the key' if len(ids) == 1 else 'the keys'} {listed(ids)}"


def _finding(check: str, state: State, text: str, why: str | None = None, hint: str | None = None) -> Finding:
    return Finding(part=PART, check=check, state=state, text=text, why=why, hint=hint)
