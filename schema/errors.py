"""The one shape of an error, from the engine up through Lua, the job, the API and the command line.

``MoonyardError`` is the base of each package's own hierarchy. What it holds is what a reader needs: a stable ``code``,
a ``message`` that says what failed, on what and why, a ``hint`` that says what to do next, ``where`` in the user's Lua
where that is known, and the ``cause`` it arose from.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import msgspec


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
        self.message = message
        self.code = code or type(self).code
        self.hint = hint
        self.where = where
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
        """Rebuild an error that arrived as data; the class is lost, the code is kept."""
        return cls(
            info.message,
            code=info.code,
            hint=info.hint,
            where=info.where,
            cause=info.cause,
            trace=info.trace,
        )


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

    A group of several different errors stays a group.
    """
    try:
        yield
    except BaseExceptionGroup as group:
        error = _only_error(group)
        if error is None:
            raise
        raise error from error.__cause__


def _only_error(group: BaseExceptionGroup[Any]) -> BaseException | None:
    if len(group.exceptions) != 1:
        return None
    only: BaseException = group.exceptions[0]
    return _only_error(only) if isinstance(only, BaseExceptionGroup) else only  # pyright: ignore[reportUnknownArgumentType]
