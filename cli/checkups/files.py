"""Whether files that hold credentials are for their owner alone."""

from __future__ import annotations

import os
import stat
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from cli import saved_login, settings
from runner import registration
from runner.engine import credentials
from schema.findings import Finding

PART: Final = "files"
_OF_OTHERS: Final = stat.S_IRWXG | stat.S_IRWXO
_WRITABLE: Final = stat.S_IWGRP | stat.S_IWOTH
_SECRET_SETTINGS: Final = ("token", "database_url", "listen_url")
"""Those of the settings file that others are not to read; of a URL, where it holds a password."""


def examine(state_folder: Path, *, auth_file: Path | None, key_file: Path | None) -> list[Finding]:
    """Look at the modes of the files that there are."""
    held = dict(_holding(state_folder, auth_file, key_file))
    found = [finding for path, what in held.items() for finding in _file(path, what)]
    if not held:
        return [Finding(part=PART, check="files", state="ok", text="there are none with credentials here")]
    folders = sorted({folder for path in held for folder in path.resolve().parents})
    return found + [finding for folder in folders for finding in _folder(folder)]


def _holding(state_folder: Path, auth_file: Path | None, key_file: Path | None) -> Iterator[tuple[Path, str]]:
    """Give the files that there are, with what is in them."""
    known = {
        settings.Credentials.path(state_folder): "the admin token that `moonyard up` made",
        state_folder / registration.FILE_NAME: "the runner's token",
        state_folder / "secret.keys": "the master keys of secrets",
        saved_login.path(): "the session of `moonyard login`",
    }
    named = credentials.usual(os.environ) if auth_file is None else [auth_file]
    known |= dict.fromkeys(named, "credentials of image registries")
    if (tls_key := settings.file_settings().get("tls_key")) is not None:
        known[Path(str(tls_key)).absolute()] = "the key of the orchestrator's certificate"
    if key_file is not None:
        known[key_file] = "the master keys of secrets"
    path = settings.settings_file()
    if path is not None and (names := _secrets_in(path)):
        known[path] = " and ".join(f"`{name}`" for name in names)
    for file, what in known.items():
        if file.is_file():
            yield file, what


def _secrets_in(path: Path) -> list[str]:
    """Name the settings in a file that others are not to read."""
    try:
        told = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError):
        return []  # whoever reads settings from it says so
    return [name for name in _SECRET_SETTINGS if _is_secret(told, name)]


def _is_secret(told: Mapping[str, Any], name: str) -> bool:
    value = str(told.get(name, ""))
    if name == "token":
        return bool(value)
    user, at, _ = value.partition("://")[2].partition("@")
    return bool(at) and ":" in user


def _file(path: Path, what: str) -> Iterator[Finding]:
    try:
        found = path.stat()
    except OSError as error:
        yield Finding(
            part=PART,
            check=str(path),
            state="broken",
            text=f"it cannot be looked at ({error.strerror})",
            why=f"In it is {what}.",
            hint="The user whom it is for has to own it.",
        )
        return
    mode = stat.S_IMODE(found.st_mode)
    if mode & _OF_OTHERS:
        what_others_may = "changed" if mode & _WRITABLE else "read"
        yield Finding(
            part=PART,
            check=str(path),
            state="weak",
            text=f"it can be {what_others_may} by others than its owner (its mode is {mode:04o})",
            why=f"In it is {what}: whoever reads it may do what its owner may.",
            hint=f"Run: chmod 600 {path}. If others may have read it, replace what is in it.",
        )
    elif found.st_uid not in {os.geteuid(), 0}:
        yield Finding(
            part=PART,
            check=str(path),
            state="weak",
            text=f"it belongs to another user (its number is {found.st_uid})",
            why=f"In it is {what}: its owner may read and change it.",
            hint="Have it belong to the user whom it is for: chown.",
        )
    else:
        yield Finding(part=PART, check=str(path), state="ok", text=f"{what}: its owner alone reads it")


def _folder(folder: Path) -> Iterator[Finding]:
    """Look whether others could put another file in the place of one."""
    try:
        mode = stat.S_IMODE(folder.stat().st_mode)
    except OSError:
        return  # what is in it was looked at
    if mode & _WRITABLE and not mode & stat.S_ISVTX:
        yield Finding(
            part=PART,
            check=str(folder),
            state="weak",
            text=f"others than its owner can write to this folder (its mode is {mode:04o})",
            why="They can put files of theirs in the place of those with credentials, whatever the files' own modes.",
            hint=f"Run: chmod go-w {folder}",
        )
