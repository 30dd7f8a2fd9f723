"""What a process is at work on, for the lines of its log: the job and attempt, the runner, the request.

Whoever begins a piece of work says what it is about, once; everything logged in it, and in the tasks that it starts, is
told with that. Nothing is looked up or written down unless something is logged.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from types import MappingProxyType
from typing import Final

Fact = str | int

_NOTHING: Final[Mapping[str, Fact]] = MappingProxyType({})
_facts: Final[ContextVar[Mapping[str, Fact]]] = ContextVar("moonyard_log_context", default=_NOTHING)


@contextmanager
def about(**facts: Fact) -> Generator[None]:
    """Tell what is logged in a block with these facts, besides those of the blocks around it."""
    token = _facts.set({**_facts.get(), **facts})
    try:
        yield
    finally:
        _facts.reset(token)


def note(**facts: Fact) -> None:
    """Add facts that became known within a block, until its end."""
    _facts.set({**_facts.get(), **facts})


def current() -> Mapping[str, Fact]:
    """Give the facts that hold here."""
    return _facts.get()
