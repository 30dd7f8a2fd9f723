"""Holds a job's plugins to what their manifests say: images, secrets by name, and hosts.

The Lua side gives a plugin no module that it did not declare; here it is seen to what only arguments tell. The Lua
process says whose code made a call, so this keeps a plugin to its word, and is no wall against a process that lies:
the walls are around that (``sandbox.wall``), and what the pipeline's own code may do is the runner's owner's to say.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Final

from plugins import Plugin
from runner.engine import image_rules
from sandbox.frames import Value
from schema.errors import MoonyardError

_PORT: Final = re.compile(r"(.+):(\d{1,5})")


class PluginUndeclared(MoonyardError):
    """A plugin does something that its manifest does not say."""

    code = "plugin_undeclared"


class PluginRights:
    """What the plugins of a job may do."""

    def __init__(self, plugins: Mapping[str, Plugin]) -> None:
        self._plugins = plugins

    def check(self, name: str, call: str, arguments: Sequence[Value]) -> None:
        """See that a plugin may make a call.

        :raises PluginUndeclared: when its manifest does not say so; with the line to add.
        """
        manifest = self._plugin(name).manifest
        if call == "container.open" and arguments and isinstance(arguments[0], str) and arguments[0]:
            image = arguments[0]
            if not any(image_rules.fits(image, pattern) for pattern in manifest.images):
                raise _undeclared(name, "image", "images", image)
        for secret in _secrets(call, arguments):
            if secret not in manifest.secrets:
                raise _undeclared(name, "secret", "secrets", secret)

    def check_host(self, name: str, host: str, port: int) -> None:
        """See that a plugin may ask a host.

        :raises PluginUndeclared: when its manifest does not name it.
        """
        if not any(_fits_host(pattern, host, port) for pattern in self._plugin(name).manifest.hosts):
            raise _undeclared(name, "host", "hosts", host)

    def _plugin(self, name: str) -> Plugin:
        plugin = self._plugins.get(name)
        if plugin is None:
            raise PluginUndeclared(f"there is no plugin `{name[:60]}` in this job")
        return plugin


def _fits_host(pattern: str, host: str, port: int) -> bool:
    wanted = pattern
    if found := _PORT.fullmatch(pattern):
        wanted = found[1]
        if int(found[2]) != port:
            return False
    return image_rules.wildcards(wanted.lower().strip("[]")).fullmatch(host.lower().rstrip(".").strip("[]")) is not None


def _secrets(call: str, arguments: Sequence[Value]) -> list[str]:
    """List the secrets that a call asks for by name."""
    if call == "secret.get":
        given = arguments[0] if arguments else None
        name = given.get("name") if isinstance(given, dict) else given
        return [name] if isinstance(name, str) else []
    options = arguments[1] if call == "process.run" and len(arguments) > 1 else None
    named = options.get("secrets") if isinstance(options, dict) else None
    if isinstance(named, dict):  # by the variables that get them
        named = list(named.values())
    return [name for name in named if isinstance(name, str)] if isinstance(named, list) else []


def _undeclared(plugin: str, kind: str, field: str, what: str) -> PluginUndeclared:
    return PluginUndeclared(
        f"plugin `{plugin}` uses the {kind} `{what[:200]}` and does not declare it",
        hint=f'Its plugin.toml has to say: {field} = ["{what[:200]}"].',
    )
