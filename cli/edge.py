"""The settings of an orchestrator's own connections: TLS, proxies, and how much anybody may ask."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, TypeVar

from cli import settings

if TYPE_CHECKING:
    from orchestrator.settings import EdgeSettings

Result = TypeVar("Result")

NAMES: Final = (
    "tls_certificate",
    "tls_key",
    "trusted_proxies",
    "allowed_hosts",
    "client_connections",
    "client_connections_per_address",
    "request_rate",
    "anonymous_rate",
)


class EdgeOptions:
    """What was said about connections; ``settings`` makes of it what a replica takes."""

    def __init__(self, values: dict[str, Any]) -> None:
        self._values = values

    def settings(self) -> EdgeSettings:
        """Give the settings.

        :raises SettingsInvalid: when one cannot be read.
        """
        # Imported late: a command line that only shows its help serves nobody.
        from orchestrator import addresses
        from orchestrator.settings import EdgeSettings

        given = self._values
        if given["tls_key"] is not None and given["tls_certificate"] is None:
            raise settings.SettingsInvalid(
                "there is a `tls_key`, and no certificate to it", hint="`tls_certificate` names its file."
            )
        try:
            proxies = tuple(addresses.network(text) for text in given["trusted_proxies"])
        except ValueError as error:
            raise settings.SettingsInvalid(
                f"`trusted_proxies` cannot be used: {error}",
                hint='They are addresses and networks: trusted_proxies = ["10.0.0.5", "192.168.7.0/24"].',
            ) from error
        return EdgeSettings(
            tls_certificate=given["tls_certificate"],
            tls_key=given["tls_key"],
            trusted_proxies=proxies,
            hosts=frozenset(host.lower() for host in given["allowed_hosts"]),
            connections=given["client_connections"],
            connections_per_address=given["client_connections_per_address"],
            request_rate=given["request_rate"],
            anonymous_rate=given["anonymous_rate"],
        )


def options(command: Callable[..., Result]) -> Callable[..., Result]:
    """Give a command all settings of connections, as its argument ``edge``."""

    @functools.wraps(command)
    def collecting(**values: Any) -> Result:
        chosen = EdgeOptions({name: values.pop(name) for name in NAMES})
        return command(edge=chosen, **values)

    for name in reversed(NAMES):
        collecting = settings.setting(name)(collecting)
    return collecting
