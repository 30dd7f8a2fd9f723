"""What is known of copies of the master keys: that somebody read one, with which keys in it, and when.

The note is a file of this machine's state folder. A new key is in no copy until one is read anew, so the reminder of
``moonyard doctor`` comes back with each.
"""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from cli import settings

FILE_NAME: Final = "key-copies.toml"


def known(state_folder: Path) -> dict[str, str]:
    """Give for each key's id when a copy of it was last read."""
    try:
        told: dict[str, Any] = tomllib.loads((state_folder / FILE_NAME).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError):
        return {}  # what cannot be read reminds of nothing
    return {key: str(value) for key, value in told.items()}


def note(state_folder: Path, key_ids: Sequence[str]) -> Path:
    """Take note that a copy with these keys was read just now; give the file of notes."""
    noted = known(state_folder) | dict.fromkeys(key_ids, datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"))
    lines = "".join(f'{key} = "{at}"\n' for key, at in sorted(noted.items()))
    state_folder.mkdir(parents=True, exist_ok=True)
    path = state_folder / FILE_NAME
    settings.write_private(
        path, f"# Written by `moonyard secret key verify`: when a copy of each key was read.\n{lines}"
    )
    return path
