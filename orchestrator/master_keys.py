"""Master keys: what they look like, where they come from, and which of several is in use.

A key is one line, ``moonyard_key_<64 hex digits><8 hex digits>``: 256 random bits, and a checksum by which a torn or
mistyped one is told. Of several lines the first is in use: new values are stored under it. The others are known: what
was stored under them can still be read, and rewrapped. Empty lines and those that begin with ``#`` say nothing.

A key's id is the beginning of a hash of it. So no two replicas can mean different keys by one id, and one that lacks
the key of a value says so, instead of taking the value for damaged.
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import shlex
import stat
import subprocess
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from orchestrator.problems import Conflict
from schema.errors import MoonyardError

ID_LENGTH: Final = 12
KEYS_MAXIMUM: Final = 100
TEXT_BYTES_MAXIMUM: Final = 64 * 1024
COMMAND_SECONDS: Final = 30.0
_LINE: Final = re.compile(r"moonyard_key_[0-9a-f]{72}")
_HINT: Final = "`moonyard secret key generate FILE` makes one, and `secret_key_file` names it to every orchestrator."


class MasterKeyUnusable(MoonyardError):
    """A setting that gives no master key."""

    code = "secret_key_unusable"


class SecretsUnavailable(Conflict):
    """This replica lacks the master key that it takes. Asking again does not help: it reads its keys when it starts."""

    code = "secrets_unavailable"


class MasterKey:
    """A key that wraps the keys of values."""

    def __init__(self, text: str) -> None:
        assert _LINE.fullmatch(text), "whoever makes one has read its line"
        secret = bytes.fromhex(text.removeprefix("moonyard_key_")[:64])
        self.id: str = hashlib.sha256(b"moonyard master key\0" + secret).hexdigest()[:ID_LENGTH]
        self.cipher = AESGCM(secret)

    def __repr__(self) -> str:
        return f"MasterKey({self.id})"


class MasterKeys:
    """The keys that a replica has, the one in use first; none for a replica that was given none."""

    def __init__(self, keys: Sequence[MasterKey] = ()) -> None:
        self._keys = {key.id: key for key in keys}

    def __repr__(self) -> str:
        return f"MasterKeys({', '.join(self._keys)})"

    @property
    def ids(self) -> list[str]:
        return list(self._keys)

    @property
    def current(self) -> MasterKey:
        """The key in use.

        :raises SecretsUnavailable: when there is none.
        """
        if not self._keys:
            raise SecretsUnavailable(
                "this orchestrator has no master key, so it can neither store nor read secrets", hint=_HINT
            )
        return next(iter(self._keys.values()))

    def find(self, key_id: str) -> MasterKey:
        """Find the key that something was stored under.

        :raises SecretsUnavailable: when it is not here.
        """
        if (found := self._keys.get(key_id)) is not None:
            return found
        has = self.current.id if len(self._keys) == 1 else f"{self.current.id} and {len(self._keys) - 1} others"
        raise SecretsUnavailable(
            f"the value was stored under the master key {key_id}, and this orchestrator has {has}",
            code="secret_key_unknown",
            hint="Give all orchestrators the same keys: the one in use first, the older ones after it.",
        )


def generate() -> str:
    """Make a key, as its line."""
    body = f"moonyard_key_{secrets.token_hex(32)}"
    return body + _checksum(body)


def file_text(line: str) -> str:
    """Give what a new file of keys holds."""
    return f"# Master keys of Moonyard's secrets: the first is in use.\n{line}\n"


def is_key(line: str) -> bool:
    """Whether a line is a key, and not a comment, empty, or something torn."""
    line = line.strip()
    return _LINE.fullmatch(line) is not None and _checksum(line[:-8]) == line[-8:]


def parse(text: str, origin: str) -> MasterKeys:
    """Read keys.

    :param origin: where the text comes from, for messages: they never repeat it.
    :raises MasterKeyUnusable: when a line is no key, or there is none.
    """
    keys: list[MasterKey] = []
    for number, line in enumerate(text.splitlines(), 1):
        line = line.strip()  # noqa: PLW2901  # what surrounds a key is none of it
        if not line or line.startswith("#"):
            continue
        if not is_key(line):
            raise MasterKeyUnusable(
                f"line {number} of {origin} is no master key, or only a part of one",
                hint="A key is one line as `moonyard secret key generate` writes it; the others begin with #.",
            )
        keys.append(MasterKey(line))
    if not keys:
        raise MasterKeyUnusable(f"{origin} holds no master key", hint=_HINT)
    if len(keys) > KEYS_MAXIMUM:
        raise MasterKeyUnusable(f"{origin} holds {len(keys)} master keys, and {KEYS_MAXIMUM} are the most")
    return MasterKeys(keys)


def read_file(path: Path) -> str:
    """Read a file of keys, which nobody but its owner may read.

    :raises MasterKeyUnusable: when it cannot be read, or others can read it too.
    """
    try:
        # What is looked at is what is read, whatever the name leads to a moment later.
        with path.open("rb") as file:
            found = os.fstat(file.fileno())
            if not stat.S_ISREG(found.st_mode):
                raise MasterKeyUnusable(f"the master keys' file {path} is no file")
            if stat.S_IMODE(found.st_mode) & 0o077:
                raise MasterKeyUnusable(
                    f"the master keys' file {path} can be read or changed by others than its owner "
                    f"(its mode is {stat.S_IMODE(found.st_mode):04o})",
                    hint=f"Run: chmod 600 {path}. If others may have read it, rotate the key: docs/secrets.md.",
                )
            data = file.read(TEXT_BYTES_MAXIMUM + 1)
    except OSError as error:
        why = (error.strerror or type(error).__name__).lower()
        raise MasterKeyUnusable(f"the master keys' file {path} cannot be read: {why}", hint=_HINT) from error
    return _text(data, f"the master keys' file {path}")


def read_command(command: str) -> str:
    """Run a command that prints keys: that of a vault, say.

    :raises MasterKeyUnusable: when it fails, or does not end in time.
    """
    what = f"the master keys' command `{command}`"
    try:
        argv = shlex.split(command)
        if not argv:
            raise MasterKeyUnusable("`secret_key_command` is empty")
        done = subprocess.run(
            argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, timeout=COMMAND_SECONDS, check=False
        )
    except ValueError as error:
        raise MasterKeyUnusable(f"{what} cannot be split into words: {error}") from error
    except OSError as error:
        raise MasterKeyUnusable(f"{what} cannot be run: {(error.strerror or str(error)).lower()}") from error
    except subprocess.TimeoutExpired:
        raise MasterKeyUnusable(f"{what} did not end within {COMMAND_SECONDS:.0f} s") from None
    if done.returncode != 0:
        raise MasterKeyUnusable(f"{what} ended with code {done.returncode}", hint="What it said stands above.")
    return _text(done.stdout, f"what {what} prints")


def _text(data: bytes, origin: str) -> str:
    if len(data) > TEXT_BYTES_MAXIMUM or not data.isascii():
        raise MasterKeyUnusable(f"{origin} is something else than master keys")
    return data.decode()


def _checksum(text: str) -> str:
    return f"{zlib.crc32(text.encode()):08x}"
