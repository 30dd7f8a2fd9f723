"""Credentials of image registries: those of a job, and those in the file of Podman and Docker (``podman login``).

The file is looked for where those look (containers-auth.json(5)), unless the runner's owner names one. An entry is for
a registry, or for a part of what it holds (``registry.example/team``): the most specific one counts. Entries that leave
it to a helper program (``credHelpers``) are the engine's own to ask, which it does when it is given nothing.
"""

from __future__ import annotations

import base64
import binascii
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final, Protocol

import msgspec

from runner.engine import names
from runner.engine.errors import CredentialsUnusable

_DOCKER_HUB: Final = ("index.docker.io", "registry-1.docker.io")


class Login(msgspec.Struct, frozen=True, kw_only=True):
    """A job's own credentials for a registry."""

    username: str
    password: str
    secret: str
    """The name of the secret that the password is in, for messages."""

    def __repr__(self) -> str:
        return f"Login(username={self.username!r}, secret={self.secret!r})"


class Logins(Protocol):
    """The credentials that a job has."""

    async def find(self, image: str) -> Login | None:
        """Give what is to be shown to the registry of an image; None where the job has nothing for it.

        :param image: its name in full.
        :raises MoonyardError: when the job is not to have the secret that it is in.
        :raises CredentialsUnusable: when that secret can be no password.
        """
        ...


class _Entry(msgspec.Struct, frozen=True):
    auth: str = ""
    """User and password, joined by a colon, in base64."""
    identitytoken: str = ""


class _File(msgspec.Struct, frozen=True):
    auths: dict[str, _Entry] = {}


def usual(environment: Mapping[str, str]) -> list[Path]:
    """List the places where Podman and Docker look, the first one to be asked first."""
    home = environment.get("HOME", str(Path.home()))
    runtime = environment.get("XDG_RUNTIME_DIR") or f"/run/containers/{os.geteuid()}"
    places = [
        Path(runtime) / "containers" / "auth.json",
        Path(environment.get("XDG_CONFIG_HOME") or f"{home}/.config") / "containers" / "auth.json",
        Path(environment.get("DOCKER_CONFIG") or f"{home}/.docker") / "config.json",
    ]
    named = environment.get("REGISTRY_AUTH_FILE")
    return [Path(named)] if named else places


def find(image: str, file: Path | None) -> dict[str, str] | None:
    """Find what to show to the registry of an image, as the engine takes it.

    :param image: its name in full.
    :param file: the one that the runner's owner named.
    :raises CredentialsUnusable: when a file cannot be read.
    """
    for path in [file] if file is not None else usual(os.environ):
        entries = _read(path, must_exist=file is not None)
        for name in scopes(image):
            if (entry := entries.get(name)) is not None:
                return _shown(entry, name, path)
    return None


def scopes(image: str) -> Iterator[str]:
    """Give what credentials for an image may be for, the most specific first: its repository, ..., its registry."""
    name = names.repository(image)
    while name:
        yield name
        name = name.rpartition("/")[0]


def _read(path: Path, *, must_exist: bool) -> dict[str, _Entry]:
    try:
        file = msgspec.json.decode(path.read_bytes(), type=_File)
    except (FileNotFoundError, NotADirectoryError, PermissionError) as error:
        if not must_exist:
            return {}
        raise _unusable(path, (error.strerror or type(error).__name__).lower()) from error
    except (OSError, msgspec.MsgspecError) as error:
        raise _unusable(path, str(error)) from error
    return {_key(name): entry for name, entry in file.auths.items() if entry.auth or entry.identitytoken}


def _key(written: str) -> str:
    scheme, mark, rest = written.rpartition("://")
    name = rest if mark else scheme or written
    if mark or name.partition("/")[0] in _DOCKER_HUB:
        name = name.partition("/")[0]
    return names.DEFAULT_REGISTRY if name in _DOCKER_HUB else name.rstrip("/")


def _shown(entry: _Entry, name: str, path: Path) -> dict[str, str]:
    if entry.identitytoken:
        return {"identitytoken": entry.identitytoken}
    try:
        user, colon, password = base64.b64decode(entry.auth, validate=True).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError) as error:
        raise _unusable(path, f"`auth` of {name} is no base64 text") from error
    if not colon:
        raise _unusable(path, f"`auth` of {name} holds no user and password")
    return {"username": user, "password": password.rstrip("\0")}


def _unusable(path: Path, why: str) -> CredentialsUnusable:
    return CredentialsUnusable(
        f"the registries' credentials in {path} cannot be read: {why}",
        hint="`podman login REGISTRY` writes such a file; the runner's setting `auth_file` names it.",
    )
