"""Versions of plugins, and what a pipeline says of which it takes.

A range is the beginning of a version: ``1`` takes any 1.x.y, ``1.2`` any 1.2.x, ``1.2.3`` that one. A version before a
release (``1.3.0-rc.1``) is taken only by its whole name, and without a range the newest release is.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from semver import Version

_RANGE: Final = re.compile(r"(0|[1-9]\d{0,8})(\.(0|[1-9]\d{0,8})){0,1}")


def is_version(text: str) -> bool:
    """Tell whether a text is a version, as semver.org has it. What would not tell two apart, the build, is refused."""
    return len(text) <= 64 and Version.is_valid(text) and "+" not in text


def is_range(text: str) -> bool:
    return _RANGE.fullmatch(text) is not None or is_version(text)


def fits(version: str, wanted: str | None) -> bool:
    """Tell whether a range takes a version."""
    parsed = Version.parse(version)
    if wanted is None:
        return parsed.prerelease is None
    if is_version(wanted):
        return version == wanted
    return parsed.prerelease is None and f"{version}.".startswith(f"{wanted}.")


def newest(versions: Iterable[str], wanted: str | None) -> str | None:
    """Give the newest version that a range takes, if there is one."""
    return max((version for version in versions if fits(version, wanted)), key=Version.parse, default=None)


def in_order(versions: Iterable[str]) -> list[str]:
    """Sort versions, the newest first."""
    return sorted(versions, key=Version.parse, reverse=True)
