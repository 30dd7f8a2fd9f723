"""The settings of jobs' own HTTP requests, for all commands that run jobs."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, TypeVar

from cli import settings

if TYPE_CHECKING:
    from runner.web.exchange import WebSettings

Result = TypeVar("Result")

NAMES: Final = ("http_allowed", "http_denied", "http_rate")


class WebOptions:
    """What was said about HTTP; ``settings`` makes of it what a runner takes."""

    def __init__(self, values: dict[str, Any]) -> None:
        self._values = values

    def settings(self) -> WebSettings:
        """Give the settings.

        :raises SettingsInvalid: when one cannot be read.
        """
        # Imported late: a command line that only shows its help sends no requests.
        from runner.web import rates
        from runner.web.destinations import Destinations
        from runner.web.exchange import WebSettings

        allowed, denied, rate = (self._values[name] for name in NAMES)
        try:
            Destinations(allowed, denied)
            rates.rate(rate)
        except ValueError as error:
            raise settings.SettingsInvalid(
                f"a setting for HTTP cannot be used: {error}",
                hint='For instance: http_allowed = ["127.0.0.1:8080", "*.example.org"], http_denied = ["10.0.0.0/8"], '
                'http_rate = "50/s".',
            ) from error
        return WebSettings(allowed=list(allowed), denied=list(denied), rate=rate)


def options(command: Callable[..., Result]) -> Callable[..., Result]:
    """Give a command all settings of HTTP, as its argument ``web``."""

    @functools.wraps(command)
    def collecting(**values: Any) -> Result:
        chosen = WebOptions({name: values.pop(name) for name in NAMES})
        return command(web=chosen, **values)

    for name in reversed(NAMES):
        collecting = settings.setting(name)(collecting)
    return collecting
