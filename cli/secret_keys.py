"""Where an orchestrator finds the master keys of secrets: a file, a command, or its environment."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Final

from cli import settings

if TYPE_CHECKING:
    from orchestrator.master_keys import MasterKeys

VARIABLE: Final = "MOONYARD_SECRET_KEYS"


def of_up(state_folder: Path) -> Path | None:
    """Find the keys that `moonyard up` made beside its data, where it did and the environment has no others."""
    path = state_folder / "secret.keys"
    return path if VARIABLE not in os.environ and path.is_file() else None


def load(file: Path | None, command: str | None) -> MasterKeys:
    """Read the keys from the one place that was named; none where none was.

    The variable is taken out of the environment: what this process starts has no use for it.

    :raises SettingsInvalid: when several places were named.
    :raises MasterKeyUnusable: when what was named gives no keys.
    """
    from orchestrator import master_keys

    text = os.environ.get("MOONYARD_SECRET_KEYS", "").strip() or None
    os.environ.pop(VARIABLE, None)
    named = [
        name
        for name, value in (("secret_key_file", file), ("secret_key_command", command), (VARIABLE, text))
        if value is not None
    ]
    if len(named) > 1:
        raise settings.SettingsInvalid(
            f"{' and '.join(f'`{name}`' for name in named)} are both set, and the master keys are read from one place",
            hint="Leave one of them. A file may hold several keys, the one in use first.",
        )
    if file is not None:
        return master_keys.parse(master_keys.read_file(file), f"the master keys' file {file}")
    if command is not None:
        return master_keys.parse(master_keys.read_command(command), f"what `{command}` prints")
    if text is not None:
        return master_keys.parse(text, VARIABLE)
    return master_keys.MasterKeys()
