"""Checks what a stage says of the approval that it waits for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, Protocol

from sandbox.frames import lua_type
from sandbox.locations import Path, Telling
from schema.definition import APPROVAL_SECONDS, APPROVALS_MAXIMUM, ApprovalDefinition

APPROVAL_FIELDS: Final = ("count", "message", "timeout")


class Whole(Protocol):
    """Reads a field that is a whole number."""

    def __call__(self, path: Path, of: str, value: object, least: int, most: int) -> int: ...


class ApprovalChecker:
    """Makes an approval of what a file says."""

    def __init__(
        self,
        *,
        problem: Telling,
        unknown_fields: Callable[[Path, Mapping[Any, object], tuple[str, ...], str], None],
        whole: Whole,
        duration: Callable[[Path, object], float | None],
        text: Callable[[Path, object], str | None],
    ) -> None:
        self._problem = problem
        self._unknown_fields = unknown_fields
        self._whole = whole
        self._duration = duration
        self._text = text

    def approval(self, path: Path, of: str, value: object) -> ApprovalDefinition | None:
        """Check that of a stage; None where it waits for none."""
        if value is None or value is False:
            return None
        if value is True or value == {}:
            return ApprovalDefinition()
        if not isinstance(value, dict):
            self._problem(
                path,
                f"`approval` of {of} must be true or a table, got {lua_type(value)}",
                'Write `approval = { message = "To production?" }`.',
            )
            return None
        table: dict[str, Any] = value  # pyright: ignore[reportUnknownVariableType]  # its fields are looked at here
        self._unknown_fields(path, table, APPROVAL_FIELDS, "stage's `approval`")
        return ApprovalDefinition(
            count=self._whole((*path, "count"), of, table.get("count", 1), 1, APPROVALS_MAXIMUM),
            message=self._text((*path, "message"), table.get("message")),
            timeout=self._duration((*path, "timeout"), table.get("timeout")) or APPROVAL_SECONDS,
        )
