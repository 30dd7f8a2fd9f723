"""What is told of an attack: whether it was stopped, got through, or could not be tried on this machine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import msgspec

Result = Literal["stopped", "got through", "not tried"]


class Attempt(msgspec.Struct, frozen=True, kw_only=True):
    """One attack that was tried, or not."""

    name: str
    result: Result
    how: str
    """What stopped it, what it got, or why it was not tried."""


class ClassFound(msgspec.Struct, frozen=True, kw_only=True):
    """What came of one class of attacks."""

    tried: int
    stopped: int
    not_tried: dict[str, str]
    """With the reason."""
    got_through: list[str]
    seconds: float


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """What came of all of them."""

    classes: dict[str, ClassFound]
    tried: int
    stopped: int
    not_tried: int
    got_through: list[str]
    seconds: float


def stopped(name: str, how: str) -> Attempt:
    return Attempt(name=name, result="stopped", how=_short(how))


def through(name: str, how: str) -> Attempt:
    return Attempt(name=name, result="got through", how=_short(how))


def not_tried(name: str, why: str) -> Attempt:
    return Attempt(name=name, result="not tried", how=_short(why))


def judged(name: str, got: str | None, how: str) -> Attempt:
    """Say that an attack got something, or how it was stopped."""
    return stopped(name, how) if got is None else through(name, got)


def of_class(attempts: Sequence[Attempt], seconds: float) -> ClassFound:
    """Count a class's attempts."""
    tried = [attempt for attempt in attempts if attempt.result != "not tried"]
    got = [f"{attempt.name}: {attempt.how}" for attempt in tried if attempt.result == "got through"]
    return ClassFound(
        tried=len(tried),
        stopped=len(tried) - len(got),
        not_tried={attempt.name: attempt.how for attempt in attempts if attempt.result == "not tried"},
        got_through=got,
        seconds=round(seconds, 2),
    )


def in_all(classes: dict[str, ClassFound], seconds: float) -> Found:
    """Add the classes up."""
    return Found(
        classes=classes,
        tried=sum(found.tried for found in classes.values()),
        stopped=sum(found.stopped for found in classes.values()),
        not_tried=sum(len(found.not_tried) for found in classes.values()),
        got_through=[f"{name}: {got}" for name, found in classes.items() for got in found.got_through],
        seconds=round(seconds, 2),
    )


def _short(text: str) -> str:
    return " ".join(text.split())[:300]
