"""The settings of a container engine, for all commands that make containers."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

from cli import settings

if TYPE_CHECKING:
    from runner.engine.allowances import Allowance
    from runner.engine.settings import EngineSettings

Result = TypeVar("Result")

NAMES: Final = (
    "default_image",
    "engine_socket",
    "pull_policy",
    "auth_file",
    "images_allowed",
    "images_denied",
    "image_budget",
    "container_memory",
    "container_cpus",
    "container_pids",
    "container_tmp",
)


class EngineOptions:
    """What was said about the engine; ``settings`` makes of it what the engine takes."""

    def __init__(self, values: dict[str, Any]) -> None:
        self._values = values

    def settings(self, state_folder: Path, *, warm_containers: int = 0) -> EngineSettings:
        # Imported late: a command line that only shows its help needs no engine.
        from runner.engine.settings import EngineSettings

        values = self._values
        return EngineSettings(
            state_folder=state_folder,
            socket=values["engine_socket"],
            image_map=settings.image_map(),
            default_image=values["default_image"],
            pull_policy=values["pull_policy"],
            auth_file=values["auth_file"],
            images_allowed=list(values["images_allowed"]),
            images_denied=list(values["images_denied"]),
            allow=_allowances(state_folder, values),
            image_budget=values["image_budget"],
            memory_bytes=values["container_memory"],
            cpus=values["container_cpus"],
            pids=values["container_pids"],
            tmp_bytes=values["container_tmp"],
            warm_containers=warm_containers,
        )


def _allowances(state_folder: Path, values: dict[str, Any]) -> list[Allowance]:
    """Read what the settings file lets containers have beyond what all have.

    :raises SettingsInvalid: when it cannot be used.
    """
    from runner.engine import allowances, credentials, sockets

    written = settings.file_settings().get("allow")
    if written is None:
        return []
    file = settings.settings_file()
    chosen = sockets.chosen(values["engine_socket"], os.environ)
    engine = chosen[0].removeprefix("unix://") if chosen is not None else ""
    files = [file, values["auth_file"], Path(engine) if engine.startswith("/") else None, settings.Credentials.path()]
    private = [
        state_folder,
        *allowances.ENGINES,
        *sockets.usual(),
        *credentials.usual(os.environ),
        *filter(None, files),
    ]
    try:
        return allowances.read(written, private)
    except ValueError as error:
        raise settings.SettingsInvalid(
            f"`allow` in settings file {file} cannot be used: {error}",
            hint='For instance: [[allow]]\nimages = ["registry.example/builder"]\nmounts = ["/var/cache/build:/cache"]',
        ) from error


def options(command: Callable[..., Result]) -> Callable[..., Result]:
    """Give a command all settings of the engine, as its argument ``engine``."""

    @functools.wraps(command)
    def collecting(**values: Any) -> Result:
        chosen = EngineOptions({name: values.pop(name) for name in NAMES})
        return command(engine=chosen, **values)

    for name in reversed(NAMES):
        collecting = settings.setting(name)(collecting)
    return collecting
