"""What ``moonyard login`` leaves for the other commands of the same user: a session, in a file that is theirs alone."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

import msgspec
import platformdirs
import tomli_w

from cli import settings

FILE_NAME: Final = "login.toml"


class SavedLogin(msgspec.Struct, frozen=True, kw_only=True):
    """A session and the addresses of the installation that it is for: it is sent nowhere else."""

    orchestrator: list[str]
    account: str
    token: str


def path() -> Path:
    return platformdirs.user_config_path("moonyard") / FILE_NAME


def read() -> SavedLogin | None:
    """Give what was saved, if anything was.

    :raises SettingsInvalid: when the file is none of ours.
    """
    file = path()
    if not os.access(file, os.R_OK):
        return None
    try:
        return msgspec.convert(settings.read_toml(file), SavedLogin)
    except msgspec.ValidationError as error:
        raise settings.SettingsInvalid(
            f"{file} is no login of Moonyard's: {error}", hint="Remove it, and log in again: `moonyard login`."
        ) from error


def save(login: SavedLogin) -> Path:
    """Save a session in place of the one before."""
    file = path()
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    settings.write_private(file, "# Written by `moonyard login`.\n" + tomli_w.dumps(msgspec.to_builtins(login)))
    return file


def forget() -> None:
    path().unlink(missing_ok=True)
