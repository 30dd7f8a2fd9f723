"""What a runner's owner wants taken out of logs besides the secrets that jobs get: `[redact]` in the settings file."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from cli import settings

if TYPE_CHECKING:
    from runner.redaction.credentials import RedactSettings


def chosen() -> RedactSettings:
    """Read the settings.

    :raises SettingsInvalid: when they cannot be used.
    """
    # Imported late: only what runs jobs looks for credentials.
    from runner.redaction.credentials import Credentials, RedactInvalid, RedactSettings

    try:
        read = msgspec.convert(settings.file_settings().get("redact", {}), RedactSettings)
        Credentials(read)
    except (msgspec.ValidationError, RedactInvalid) as error:
        raise settings.SettingsInvalid(
            f"`redact` in settings file {settings.settings_file()} cannot be used: {error}",
            hint=(error.hint if isinstance(error, RedactInvalid) else None)
            or 'For instance: [redact]\npatterns = { internal-token = "itk_[a-z0-9]{32}" }\noff = ["jwt"]',
        ) from error
    return read
