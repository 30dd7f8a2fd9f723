"""What one who speaks may do: the permissions that are held, for which pipelines, and what a token narrows of them.

A pattern is a text in which ``*`` stands for any text, as in ``moonyard.pattern_fits``. One pattern that fits another
one's text covers it: ``deploy-*`` covers ``deploy-*`` and ``deploy-eu-*``, for no name of a pipeline holds a ``*``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Final

import msgspec

from orchestrator.problems import RequestInvalid
from schema.permissions import PERMISSIONS, PIPELINE_PERMISSIONS, ROLES, Permission, needs_installation

ALL: Final = "*"
PATTERN_LENGTH_MAXIMUM: Final = 200
_PATTERN: Final = re.compile(r"[A-Za-z0-9._*-]+")


class Holding(msgspec.Struct, frozen=True):
    """Permissions that are held for the pipelines of a pattern."""

    pipelines: str
    permissions: frozenset[Permission]


class Visible(msgspec.Struct, frozen=True):
    """For which pipelines a permission is held: those that fit one of ``held``, and one of ``within``.

    Both are patterns; ``within`` is None where nothing narrows. The two are what ``moonyard.names_fit`` takes.
    """

    held: list[str]
    within: list[str] | None

    @property
    def is_everything(self) -> bool:
        return ALL in self.held and self.within is None


class Rights(msgspec.Struct, frozen=True):
    holdings: tuple[Holding, ...]
    scope: frozenset[Permission] | None = None
    """The permissions that a token has at most; None for all that its account has."""
    within: tuple[str, ...] | None = None
    """Patterns of the pipelines that a token is for; None for all of its account's."""

    @property
    def is_narrowed(self) -> bool:
        """Whether a token may do less than its account."""
        return self.scope is not None or self.within is not None

    def may(self, permission: Permission, pipelines: str = ALL) -> bool:
        """Whether a permission is held for a pipeline, or for all that fit a pattern; by default for all there are."""
        if self.scope is not None and permission not in self.scope:
            return False
        if self.within is not None and not any(fits(pattern, pipelines) for pattern in self.within):
            return False
        return any(
            permission in holding.permissions and fits(holding.pipelines, pipelines) for holding in self.holdings
        )

    def may_somewhere(self, permission: Permission) -> bool:
        """Whether a permission is held for any pipeline at all; one for the installation, for that."""
        if needs_installation(permission):
            return self.may(permission)
        return (self.scope is None or permission in self.scope) and any(
            permission in holding.permissions for holding in self.holdings
        )

    def visible(self, permission: Permission) -> Visible:
        """Say for which pipelines a permission is held, as statements take it."""
        if self.scope is not None and permission not in self.scope:
            return Visible([], None)
        held = sorted({holding.pipelines for holding in self.holdings if permission in holding.permissions})
        return Visible([ALL] if ALL in held else held, None if self.within is None else list(self.within))

    def of(self, pipelines: str) -> list[Permission]:
        """List what is held for a pattern of pipelines."""
        return [permission for permission in PERMISSIONS if self.may(permission, pipelines)]


EVERYTHING: Final = Rights((Holding(ALL, frozenset(PERMISSIONS)),))
NOTHING: Final = Rights(())


def holding(role: str, own_permissions: Iterable[str] | None, pipelines: str) -> Holding:
    """Say what a role gives for pipelines: one that comes along, or one of this installation's own.

    What is for the whole installation is held by a role that is given for all pipelines alone. A permission that is
    not known here, since a later version stored it, gives nothing.
    """
    stored: frozenset[str] = {str(name): held for name, held in ROLES.items()}.get(role) or frozenset(
        own_permissions or ()
    )
    permissions = frozenset[Permission](permission for permission in PERMISSIONS if permission in stored)
    if pipelines != ALL:
        permissions &= frozenset(PIPELINE_PERMISSIONS)
    return Holding(pipelines, permissions)


def fits(pattern: str, text: str) -> bool:
    """Whether a text is what a pattern says, in time that grows with the text alone."""
    first, *rest = pattern.split("*")
    if not rest:
        return pattern == text
    *middle, last = rest
    position, end = len(first), len(text) - len(last)
    if position > end or not text.startswith(first) or not text.endswith(last):
        return False
    for part in middle:
        position = text.find(part, position, end)
        if position < 0:
            return False
        position += len(part)
    return True


def check_pattern(pattern: str) -> None:
    """Refuse what no pipeline's name can fit.

    :raises RequestInvalid: saying what a pattern is.
    """
    if not 0 < len(pattern) <= PATTERN_LENGTH_MAXIMUM or not _PATTERN.fullmatch(pattern):
        raise RequestInvalid(
            f"{pattern[:60]!r} names no pipelines",
            code="pattern_invalid",
            hint="A name, or a pattern in which * stands for any text: build, deploy-*, *.",
        )


def check_permissions(permissions: Sequence[str]) -> list[str]:
    """Give permissions in their order, each once.

    :raises RequestInvalid: for one that there is not.
    """
    for name in permissions:
        if name not in PERMISSIONS:
            raise RequestInvalid(
                f"there is no permission {name[:40]!r}",
                code="permission_unknown",
                hint=f"There are: {', '.join(PERMISSIONS)}.",
            )
    return [known for known in PERMISSIONS if known in permissions]
