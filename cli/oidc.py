"""The settings of an orchestrator's identity provider, by which people log in beside passwords."""

from __future__ import annotations

import functools
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar
from urllib.parse import urlsplit

from cli import settings

if TYPE_CHECKING:
    from orchestrator.settings import OidcSettings

Result = TypeVar("Result")

_LOOPBACK: Final = frozenset({"localhost", "127.0.0.1", "::1"})
NAMES: Final = ("oidc_issuer", "oidc_client_id", "oidc_client_secret_file", "oidc_name", "oidc_claim", "oidc_creates")


class OidcOptions:
    """What was said about the identity provider; ``settings`` makes of it what a replica takes."""

    def __init__(self, values: dict[str, Any]) -> None:
        self._values = values

    def settings(self) -> OidcSettings | None:
        """Give the settings; None where there is no provider.

        :raises SettingsInvalid: when it is named without all that belongs to it.
        """
        given = self._values
        if given["oidc_issuer"] is None:
            return None
        # Imported late: a command line that only shows its help serves nobody.
        from orchestrator.settings import OidcSettings

        issuer: str = given["oidc_issuer"]
        if not issuer.startswith("https://") and urlsplit(issuer).hostname not in _LOOPBACK:
            raise settings.SettingsInvalid(
                f"`oidc_issuer` is {issuer}: whoever is on the way to it could say who logs in",
                hint="It has an https address.",
            )
        secret = os.environ.pop("MOONYARD_OIDC_CLIENT_SECRET", "").strip() or _read(given["oidc_client_secret_file"])
        if not given["oidc_client_id"] or not secret:
            raise settings.SettingsInvalid(
                "`oidc_issuer` names an identity provider, and who Moonyard is there is missing",
                hint="`oidc_client_id`, and `oidc_client_secret_file` or MOONYARD_OIDC_CLIENT_SECRET, say it.",
            )
        return OidcSettings(
            issuer=issuer,
            client_id=given["oidc_client_id"],
            client_secret=secret,
            name=given["oidc_name"],
            claim=given["oidc_claim"],
            creates=given["oidc_creates"],
        )


def options(command: Callable[..., Result]) -> Callable[..., Result]:
    """Give a command all settings of the identity provider, as its argument ``oidc``."""

    @functools.wraps(command)
    def collecting(**values: Any) -> Result:
        chosen = OidcOptions({name: values.pop(name) for name in NAMES})
        return command(oidc=chosen, **values)

    for name in reversed(NAMES):
        collecting = settings.setting(name)(collecting)
    return collecting


def _read(file: Path | None) -> str:
    if file is None:
        return ""
    try:
        if stat.S_IMODE(file.stat().st_mode) & 0o077:
            raise settings.SettingsInvalid(
                f"{file} can be read by others than its owner, and holds a secret", hint=f"chmod 600 {file}"
            )
        return file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise settings.SettingsInvalid(f"{file} cannot be read ({error})") from error
