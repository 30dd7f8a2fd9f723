"""Checks the ``services`` of a pipeline or stage: the containers that run beside its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from sandbox.frames import lua_type
from sandbox.locations import Path, Telling
from sandbox.rights import RIGHTS_FIELDS, RightsChecker
from schema.definition import (
    READY_SECONDS,
    SERVICE_NAME_PATTERN,
    SERVICES_MAXIMUM,
    Readiness,
    ServiceDefinition,
)

SERVICE_FIELDS: Final = ("image", "command", "env", "ready", *RIGHTS_FIELDS)
READY_FIELDS: Final = ("port", "command", "timeout")
PORT_MAXIMUM: Final = 65535
TAKEN_NAMES: Final = ("localhost",)
EXAMPLE: Final = 'Write `services = { db = { image = "docker.io/library/postgres:16", ready = { port = 5432 } } }`.'


class ServiceChecker:
    """Makes definitions of what a file says of services.

    :param unknown_fields: tells of fields that a table may not have.
    :param image: checks an image's name.
    :param duration: reads a duration in seconds.
    :param rights: reads what a service asks for beyond what all containers have.
    """

    def __init__(
        self,
        *,
        problem: Telling,
        unknown_fields: Callable[[Path, Mapping[Any, object], tuple[str, ...], str], None],
        image: Callable[[Path, str, object], str | None],
        duration: Callable[[Path, object], float | None],
        rights: RightsChecker,
    ) -> None:
        self._problem = problem
        self._unknown_fields = unknown_fields
        self._image = image
        self._duration = duration
        self._rights = rights

    def services(self, path: Path, of: str, value: object) -> dict[str, ServiceDefinition]:
        """Check the services of a part of the pipeline, which ``of`` names."""
        if value is None:
            return {}
        if not isinstance(value, dict):
            self._problem(
                path, f"`services` of {of} must be a table of services by name, got {lua_type(value)}", EXAMPLE
            )
            return {}
        table: dict[Any, object] = value  # pyright: ignore[reportUnknownVariableType]  # keys are looked at here
        if len(table) > SERVICES_MAXIMUM:
            self._problem(path, f"{of} has at most {SERVICES_MAXIMUM} services, got {len(table)}")
            return {}
        found: dict[str, ServiceDefinition] = {}
        for name, declared in table.items():
            if not isinstance(name, str) or not SERVICE_NAME_PATTERN.fullmatch(name) or name in TAKEN_NAMES:
                self._problem(
                    (*path, name),
                    f"`{name}` cannot be a service's name: it is a host name, up to 63 small letters, digits, `-`",
                    EXAMPLE,
                )
            elif not isinstance(declared, dict):
                self._problem(
                    (*path, name), f"service `{name}` of {of} must be a table, got {lua_type(declared)}", EXAMPLE
                )
            else:
                fields: dict[str, Any] = declared  # pyright: ignore[reportUnknownVariableType]  # the same
                if (service := self._service((*path, name), f"service `{name}`", fields)) is not None:
                    found[name] = service
        return found

    def _service(self, path: Path, label: str, table: Mapping[str, object]) -> ServiceDefinition | None:
        self._unknown_fields(path, table, SERVICE_FIELDS, "service")
        if table.get("image") is None:
            self._problem(path, f"{label} has no `image`", EXAMPLE)
        image = self._image((*path, "image"), label, table.get("image"))
        command = self._command((*path, "command"), label, table.get("command"))
        env = self.env((*path, "env"), label, table.get("env"))
        ready = self._ready((*path, "ready"), label, table.get("ready"))
        rights = self._rights.rights(path, label, table)
        if image is None:
            return None
        return ServiceDefinition(image=image, command=command, env=env, ready=ready, rights=rights)

    def _command(self, path: Path, label: str, value: object) -> list[str] | None:
        if value is None:
            return None
        given = lua_type(value)
        if isinstance(value, list) and value:
            entries: list[object] = value  # pyright: ignore[reportUnknownVariableType]  # looked at one by one
            words = [_word(entry) for entry in entries]
            if None not in words and words[0]:
                return [word for word in words if word is not None]
        self._problem(
            path,
            f"`command` of {label} must be a list of the program and its arguments, got {given}",
            'Write `command = { "server", "--port", "8080" }`.',
        )
        return None

    def env(self, path: Path, label: str, value: object) -> dict[str, str]:
        """Check variables of an environment."""
        if value is None or value == {}:
            return {}
        if not isinstance(value, dict):
            self._problem(
                path,
                f"`env` of {label} must be a table of texts by name, got {lua_type(value)}",
                'Write `env = { NAME = "value" }`.',
            )
            return {}
        table: dict[Any, object] = value  # pyright: ignore[reportUnknownVariableType]  # keys are looked at here
        env: dict[str, str] = {}
        for name, entry in table.items():
            text = _word(entry)
            if not isinstance(name, str) or not name or not name.isprintable() or "=" in name:
                self._problem((*path, name), f"`{name}` cannot be a variable's name in `env` of {label}")
            elif text is None:
                self._problem(
                    (*path, name), f"`{name}` in `env` of {label} must be a string or a number, got {lua_type(entry)}"
                )
            else:
                env[name] = text
        return env

    def _ready(self, path: Path, label: str, value: object) -> Readiness | None:
        if value is None:
            return None
        if not isinstance(value, dict):
            self._problem(
                path,
                f"`ready` of {label} must be a table, got {lua_type(value)}",
                'Write `ready = { port = 5432 }` or `ready = { command = { "pg_isready" } }`.',
            )
            return None
        table: dict[str, Any] = value  # pyright: ignore[reportUnknownVariableType]  # keys are looked at here
        of = f"`ready` of {label}"
        self._unknown_fields(path, table, READY_FIELDS, "`ready` table")
        port, command = table.get("port"), table.get("command")
        if (port is None) == (command is None):
            self._problem(
                path, f"{of} must name a `port` or a `command`, and " + ("has neither" if port is None else "has both")
            )
            return None
        timeout = self._duration((*path, "timeout"), table.get("timeout"))
        if port is not None and (isinstance(port, bool) or not isinstance(port, int) or not 0 < port <= PORT_MAXIMUM):
            shown = f"`{port}`" if isinstance(port, str | int | float) else lua_type(port)
            self._problem(
                (*path, "port"), f"`port` in {of} must be a whole number from 1 to {PORT_MAXIMUM}, got {shown}"
            )
            return None
        return Readiness(
            port=port,
            command=self._command((*path, "command"), of, command),
            timeout=READY_SECONDS if timeout is None else timeout,
        )


def _word(value: object) -> str | None:
    """Take what can stand in a command line or an environment."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return None
    text = str(value)
    return None if "\x00" in text else text
