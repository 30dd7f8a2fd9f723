"""Reads the lock files that ``make lock`` writes: which packages in which versions, and what their files hash to."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import msgspec
from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

CHECKOUT: Final = Path(__file__).resolve().parent.parent
RUNTIME: Final = CHECKOUT / "requirements.lock"
"""What Moonyard runs with, and what builds it."""
DEVELOPMENT: Final = CHECKOUT / "requirements-dev.lock"
"""The same with what tests and checks need."""


class LockInvalid(Exception):
    """A line of a lock file that locks nothing."""


class Locked(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    """In its canonical spelling (PEP 503)."""
    version: str
    marker: str | None
    """Where it is installed at all (PEP 508); None for everywhere."""
    sha256: tuple[str, ...]
    """Of the files that may be installed: any one of them."""

    @property
    def is_for_here(self) -> bool:
        """Whether it is installed with this Python, on this machine."""
        return self.marker is None or Requirement(f"{self.name} ; {self.marker}").marker.evaluate()  # pyright: ignore[reportOptionalMemberAccess]  # it has one


def read(path: Path) -> list[Locked]:
    """Read a lock file.

    :raises LockInvalid: when a package in it has no version, or no hash.
    """
    logical = path.read_text(encoding="utf-8").replace("\\\n", " ").splitlines()
    return [_locked(path, line) for line in logical if line.strip() and not line.startswith("#")]


def _locked(path: Path, line: str) -> Locked:
    words = line.split(" --hash=")
    hashes = tuple(word.strip().removeprefix("sha256:") for word in words[1:] if word.startswith("sha256:"))
    try:
        requirement = Requirement(words[0].strip())
    except InvalidRequirement as error:
        raise LockInvalid(f"{path.name}: `{words[0].strip()}` is no requirement ({error})") from error
    pins = [pin.version for pin in requirement.specifier if pin.operator == "=="]
    if len(pins) != 1 or len(requirement.specifier) != 1 or "*" in pins[0] or requirement.url is not None:
        raise LockInvalid(f"{path.name}: `{requirement}` is not held to one version")
    if not hashes or len(hashes) != len(words) - 1:
        raise LockInvalid(f"{path.name}: `{requirement}` has no SHA-256, or other hashes")
    return Locked(
        name=canonicalize_name(requirement.name),
        version=pins[0],
        marker=None if requirement.marker is None else str(requirement.marker),
        sha256=hashes,
    )
