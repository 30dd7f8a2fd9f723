"""What registering leaves on a runner's machine: who it is, whom it asks, and its token, in a file for its user."""

from __future__ import annotations

import os
import tomllib
from pathlib import Path
from typing import Final

import msgspec

from schema.errors import MoonyardError

FILE_NAME: Final = "runner.toml"


class RegistrationInvalid(MoonyardError):
    """A file that is not what registering writes."""

    code = "settings_invalid"


class RegistrationNotKept(MoonyardError):
    """The file could not be written: what stood there stays."""

    code = "runner_file_not_written"


class Registration(msgspec.Struct, frozen=True, kw_only=True):
    """A runner's registration."""

    id: str
    name: str
    orchestrator: list[str]
    token: str
    token_at: str | None = None
    """When it got the token; None where nobody wrote that down."""

    @classmethod
    def read(cls, path: Path) -> Registration:
        """Read a file.

        :raises RegistrationInvalid: when it cannot be read, or holds something else.
        """
        try:
            return msgspec.convert(tomllib.loads(path.read_text(encoding="utf-8")), cls)
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
            why = (error.strerror or type(error).__name__).lower() if isinstance(error, OSError) else str(error)
            raise RegistrationInvalid(
                f"{path} is not what `moonyard runner register` writes: {why}",
                hint="Register the runner again: `moonyard runner register --orchestrator URL`.",
            ) from error

    def write(self, path: Path) -> None:
        """Write a file that only its owner can read: after a power cut, too, it is there whole, or the one before is.

        :raises RegistrationNotKept: when that does not work.
        """
        lines = [f"{name} = {_quoted(value)}" for name, value in msgspec.structs.asdict(self).items() if value]
        nascent = path.with_name(f".{path.name}.new")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            nascent.unlink(missing_ok=True)
            descriptor = os.open(nascent, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                file.write("\n".join(["# Written by `moonyard runner`.", *lines, ""]))
                file.flush()
                os.fsync(file.fileno())
            nascent.rename(path)
            _sync(path.parent)
        except OSError as error:
            raise RegistrationNotKept(
                f"{path} cannot be written ({(error.strerror or str(error)).lower()})",
                hint="The runner's own token stands there: its user has to be able to write it, with room left.",
            ) from error


def _quoted(value: str | list[str]) -> str:
    """Write a text, or several, as TOML has them: as JSON does."""
    return msgspec.json.encode(value).decode()


def _sync(folder: Path) -> None:
    """See that the names in a folder outlast a power cut."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
