"""Checks the ``registries`` of a pipeline: whom its jobs are at registries of images, and which secrets say so."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from sandbox.frames import lua_type
from sandbox.locations import Path, Telling
from schema import secrets
from schema.definition import REGISTRIES_MAXIMUM, REGISTRY_PATTERN, RegistryLogin

REGISTRY_FIELDS: Final = ("username", "password_secret")
USERNAME_LENGTH_MAXIMUM: Final = 256
REGISTRY_LENGTH_MAXIMUM: Final = 255
DOCKER_HUB: Final = ("index.docker.io", "registry-1.docker.io", "hub.docker.com")
EXAMPLE: Final = (
    'Write `registries = { ["registry.example.org"] = { username = "robot", password_secret = "REGISTRY_TOKEN" } }`.'
)


class RegistryChecker:
    """Makes definitions of what a file says of registries.

    :param unknown_fields: tells of fields that a table may not have.
    """

    def __init__(
        self,
        *,
        problem: Telling,
        unknown_fields: Callable[[Path, Mapping[Any, object], tuple[str, ...], str], None],
    ) -> None:
        self._problem = problem
        self._unknown_fields = unknown_fields

    def registries(self, path: Path, value: object) -> dict[str, RegistryLogin]:
        """Check the registries of the pipeline."""
        if value is None or value == {}:
            return {}
        if not isinstance(value, dict):
            self._problem(path, f"`registries` must be a table of logins by registry, got {lua_type(value)}", EXAMPLE)
            return {}
        table: dict[Any, object] = value  # pyright: ignore[reportUnknownVariableType]  # keys are looked at here
        if len(table) > REGISTRIES_MAXIMUM:
            self._problem(path, f"a pipeline has at most {REGISTRIES_MAXIMUM} registries, got {len(table)}")
            return {}
        found: dict[str, RegistryLogin] = {}
        for name, declared in table.items():
            where = (*path, name)
            if (why := _fault(name)) is not None:
                self._problem(where, f"`{str(name)[:120]}` in `registries` {why}", EXAMPLE)
            elif not isinstance(declared, dict):
                self._problem(where, f"registry `{name}` must be a table, got {lua_type(declared)}", EXAMPLE)
            else:
                fields: dict[str, Any] = declared  # pyright: ignore[reportUnknownVariableType]  # the same
                if (login := self._login(where, f"registry `{name}`", fields)) is not None:
                    found[name] = login
        return found

    def _login(self, path: Path, label: str, table: Mapping[str, object]) -> RegistryLogin | None:
        self._unknown_fields(path, table, REGISTRY_FIELDS, "registry")
        username = self._text(path, "username", label, table)
        secret = self._text(path, "password_secret", label, table)
        if username is not None and (
            not 0 < len(username) <= USERNAME_LENGTH_MAXIMUM or ":" in username or not username.isprintable()
        ):
            self._problem(
                (*path, "username"),
                f"`username` of {label} must be up to {USERNAME_LENGTH_MAXIMUM} printable characters without a colon",
            )
            return None
        if secret is not None and not secrets.NAME_PATTERN.fullmatch(secret):
            self._problem(
                (*path, "password_secret"),
                # What was meant as the password itself is not shown.
                f"`password_secret` of {label} must be a secret's name: letters, digits and `_`, at most 100, no digit "
                "first",
                "It names the secret that holds the password: `moonyard secret set REGISTRY_TOKEN` stores one.",
            )
            return None
        return None if username is None or secret is None else RegistryLogin(username=username, password_secret=secret)

    def _text(self, path: Path, field: str, label: str, table: Mapping[str, object]) -> str | None:
        value = table.get(field)
        if isinstance(value, str):
            return value
        if value is None:
            self._problem(path, f"{label} has no `{field}`", EXAMPLE)
        else:
            self._problem((*path, field), f"`{field}` of {label} must be a string, got {lua_type(value)}")
        return None


def _fault(name: object) -> str | None:
    """Say why something is no registry's name; None where it is one."""
    if name in DOCKER_HUB:
        return "is written `docker.io`"
    if isinstance(name, str) and len(name) <= REGISTRY_LENGTH_MAXIMUM and REGISTRY_PATTERN.fullmatch(name):
        return None
    return (
        "is no registry's name: a host name in small letters, with a port or not, as images' names begin with it, and "
        "what follows there where it is for a part of the registry"
    )
