"""Checks what a stage or a service asks for its container beyond what all have.

Whether it gets that is for the runner to say.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final, Protocol

from sandbox.frames import lua_type
from sandbox.locations import Path, Telling
from schema.definition import Rights

RIGHTS_FIELDS: Final = ("privileged", "mounts", "devices", "capabilities")
RIGHTS_MAXIMUM: Final = 50
"""Of a kind, for one container."""
_EXAMPLES: Final = {"mounts": "/cache", "devices": "/dev/kvm", "capabilities": "NET_ADMIN"}
_FORMS: Final = {
    "mounts": (re.compile(r"/[^\0:]+"), "places in the container"),
    "devices": (re.compile(r"/dev/[^\0:]+"), "devices"),
    "capabilities": (re.compile(r"(?!CAP_)[A-Z][A-Z0-9_]*"), "capabilities"),
}


class Boolean(Protocol):
    """Reads a field that is true or false."""

    def __call__(self, path: Path, of: str, value: object, *, default: bool) -> bool: ...


class RightsChecker:
    """Makes rights of what a file says."""

    def __init__(self, *, problem: Telling, boolean: Boolean) -> None:
        self._problem = problem
        self._boolean = boolean

    def rights(self, path: Path, of: str, table: Mapping[str, object]) -> Rights | None:
        """Check those of a stage or service; None where it asks for nothing."""
        rights = Rights(
            privileged=self._boolean((*path, "privileged"), of, table.get("privileged"), default=False),
            mounts=self._words((*path, "mounts"), "mounts", of, table.get("mounts")),
            devices=self._words((*path, "devices"), "devices", of, table.get("devices")),
            capabilities=self._words((*path, "capabilities"), "capabilities", of, table.get("capabilities")),
        )
        return None if rights == Rights() else rights

    def _words(self, path: Path, field: str, of: str, value: object) -> list[str]:
        if value is None or value == {}:
            return []
        form, what = _FORMS[field]
        hint = f'Write `{field} = {{ "{_EXAMPLES[field]}" }}`, as the runner\'s owner has named them.'
        entries: list[object] = []
        got = lua_type(value)
        if isinstance(value, list):
            entries = value  # pyright: ignore[reportUnknownVariableType]  # its entries are looked at below
            got = str(len(entries))
        if not entries or len(entries) > RIGHTS_MAXIMUM:
            self._problem(path, f"`{field}` of {of} must be a list of up to {RIGHTS_MAXIMUM} {what}, got {got}", hint)
            return []
        words = [entry for entry in entries if isinstance(entry, str) and form.fullmatch(entry)]
        if len(words) < len(entries):
            wrong = next(entry for entry in entries if entry not in words)
            shown = f"`{wrong}`" if isinstance(wrong, str) else lua_type(wrong)
            self._problem(path, f"`{field}` of {of} is a list of {what}, and {shown} is none", hint)
        return words
