"""The one shape of an error, from the engine up through Lua, the job, the API and the command line.

``MoonyardError`` is the base of each package's own hierarchy. What it holds is what a reader needs: a stable ``code``,
a ``message`` that says what failed, on what and why, a ``hint`` that says what to do next, ``where`` in the user's Lua
where that is known, and the ``cause`` it arose from.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any, Final

import msgspec

TEXT_LENGTH_MAXIMUM: Final = 16 * 1024
"""Of a message or hint: a script can raise megabytes, and what an error quotes can be as long."""
CODE_LENGTH_MAXIMUM: Final = 100
TRACE_LENGTH_MAXIMUM: Final = 60
"""A Lua process tells 51 places of a call chain."""
PLACE_LENGTH_MAXIMUM: Final = 500


class ErrorInfo(msgspec.Struct, frozen=True, kw_only=True):
    """An error as programs read it: in events, API answers and database rows."""

    code: str
    message: str
    where: str | None = None
    cause: ErrorInfo | None = None
    hint: str | None = None
    trace: list[str] | None = None
    """The Lua call chain, innermost first, each as ``file:line: in function 'name'``."""


class MoonyardError(Exception):
    """An error that somebody outside the code reads.

    :param message: what failed, on what and why, without a final full stop.
    :param code: stable, in ``snake_case``; by default the class's own ``code``.
    :param hint: what to do next, as a sentence.
    :param where: ``file:line`` in the user's Lua.
    :param cause: the error that this one arose from; an ``__cause__`` that is a MoonyardError serves too.
    """

    code = "internal_error"

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        hint: str | None = None,
        where: str | None = None,
        cause: ErrorInfo | None = None,
        trace: list[str] | None = None,
    ) -> None:
        super().__init__(message)
        self.message = _readable(message)
        self.code = code or type(self).code
        self.hint = None if hint is None else _readable(hint)
        self.where = None if where is None else _readable(where)
        self._cause = cause
        self.trace = trace

    @property
    def cause(self) -> ErrorInfo | None:
        if self._cause is not None:
            return self._cause
        if isinstance(self.__cause__, MoonyardError):
            return self.__cause__.info
        return None

    @property
    def info(self) -> ErrorInfo:
        return ErrorInfo(
            code=self.code,
            message=self.message,
            where=self.where,
            cause=self.cause,
            hint=self.hint,
            trace=self.trace,
        )

    @classmethod
    def from_info(cls, info: ErrorInfo) -> MoonyardError:
        """Rebuild an error that arrived as data, which may be hostile: no part of it stays longer than it may be. The
        class is lost, the code is kept.
        """
        return cls(
            info.message,
            code=_readable(info.code[:CODE_LENGTH_MAXIMUM]),
            hint=info.hint,
            where=info.where,
            cause=None if info.cause is None else cls.from_info(info.cause).info,
            trace=info.trace and [_readable(text[:PLACE_LENGTH_MAXIMUM]) for text in info.trace[:TRACE_LENGTH_MAXIMUM]],
        )


def _readable(text: str) -> str:
    """Make a text fit for JSON and Postgres, whatever it quotes: file names and Lua strings can be any bytes."""
    if len(text) > TEXT_LENGTH_MAXIMUM:
        text = f"{text[:TEXT_LENGTH_MAXIMUM]}... ({len(text) - TEXT_LENGTH_MAXIMUM} more characters)"
    if text.isascii():
        return text.replace("\x00", "\\x00")
    try:
        data = text.encode(errors="surrogateescape")
    except UnicodeEncodeError:
        data = text.encode(errors="backslashreplace")
    return data.decode(errors="backslashreplace").replace("\x00", "\\x00")


def chain(info: ErrorInfo) -> list[ErrorInfo]:
    """List an error and its causes, outermost first."""
    links: list[ErrorInfo] = []
    link: ErrorInfo | None = info
    while link is not None:
        links.append(link)
        link = link.cause
    return links


@contextmanager
def single_error() -> Generator[None]:
    """Unwrap the groups that task groups put around the one error that ended them.

    Several tasks that met the same trouble tell it once; a group of different errors stays a group.
    """
    try:
        yield
    except BaseExceptionGroup as group:
        error = _only_error(group)
        if error is None:
            raise
        raise error from error.__cause__


def _only_error(group: BaseExceptionGroup[Any]) -> BaseException | None:
    first, *others = leaves(group)
    same = isinstance(first, MoonyardError) and all(
        isinstance(other, MoonyardError) and other.info == first.info for other in others
    )
    return first if same or not others else None


def leaves(group: BaseExceptionGroup[Any]) -> list[BaseException]:
    """List the errors in a group, and in the groups in it."""
    found: list[BaseException] = []
    for error in group.exceptions:
        found += leaves(error) if isinstance(error, BaseExceptionGroup) else [error]  # pyright: ignore[reportUnknownArgumentType]
    return found
