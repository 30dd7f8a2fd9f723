"""The secrets of `moonyard run`: from variables of its own environment and from files, never from its command line."""

from __future__ import annotations

import io
import os
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import click
from dotenv import dotenv_values

from schema.errors import MoonyardError
from schema.secrets import NAME_PATTERN, VALUE_BYTES_MAXIMUM

FILE_BYTES_MAXIMUM: Final = 1024 * 1024


class SecretFileOpen(MoonyardError):
    """A file with secrets can be read by others."""

    code = "secret_file_open"


class SecretUnusable(MoonyardError):
    """A secret that was to be given is not there, or cannot be one."""

    code = "secret_unusable"


def read(named: Sequence[str], file: Path | None) -> dict[str, bytes]:
    """Read secrets; what is named wins over the file.

    :param named: ``NAME``, which stands for the environment variable, or ``NAME=@FILE``.
    :raises click.UsageError: for a value on the command line, and a name given twice.
    :raises MoonyardError: for what is not there, or that others can read.
    """
    values = {} if file is None else _of_file(file)
    seen: set[str] = set()
    for option in named:
        name, equals, source = option.partition("=")
        _check_name(name)
        if name in seen:
            raise click.UsageError(f"--secret {name} is given twice")
        seen.add(name)
        if not equals:
            values[name] = _of_environment(name)
        elif source.startswith("@"):
            values[name] = _without_end(_private(Path(source[1:])))
        else:
            # It is not repeated: it may be the value itself.
            raise click.UsageError(
                f"--secret {name}= takes no value, for everybody on this machine can read a command line: "
                f"`--secret {name}` takes it from the environment variable {name}, `--secret {name}=@FILE` from a file"
            )
    for name, value in values.items():
        _check_value(name, value)
    return values


def _without_end(value: bytes) -> bytes:
    """Take the end of the line off a value that is one line, as `moonyard secret set` does."""
    line = value.removesuffix(b"\n").removesuffix(b"\r")
    return value if b"\n" in line else line


def _check_name(name: str) -> None:
    if not NAME_PATTERN.fullmatch(name):
        raise click.UsageError(
            f"`{name[:40]}` is no secret's name: it has letters, digits and `_`, at most 100, and no digit first"
        )


def _check_value(name: str, value: bytes) -> None:
    problem = (
        "is empty"
        if not value
        else "has a NUL byte in it"
        if b"\0" in value
        else f"is larger than {VALUE_BYTES_MAXIMUM // 1024} KiB"
        if len(value) > VALUE_BYTES_MAXIMUM
        else None
    )
    if problem is not None:
        raise SecretUnusable(f"secret `{name}` {problem}", hint="A value has 1 byte to 64 KiB, and no NUL byte.")


def _of_environment(name: str) -> bytes:
    # What this process starts is not to inherit it.
    value = os.environb.pop(name.encode(), None)
    if value is None:
        raise SecretUnusable(
            f"secret `{name}` cannot be given: there is no environment variable {name}",
            hint=f"Set it (in a shell, `read -rs {name} && export {name}` shows and stores it nowhere), or give a "
            f"file: `--secret {name}=@FILE`.",
        )
    return value


def _of_file(path: Path) -> dict[str, bytes]:
    text = _private(path).decode("utf-8", errors="surrogateescape")
    found = dotenv_values(stream=io.StringIO(text), interpolate=False)
    values: dict[str, bytes] = {}
    for name, value in found.items():
        if value is None or not NAME_PATTERN.fullmatch(name):
            raise SecretUnusable(
                f"secrets file `{path}` has a line that is no NAME=VALUE, or whose name no secret can have",
                hint="One a line, as in a .env file: TOKEN=..., quoted where a value has spaces, `#` or several lines.",
            )
        values[name] = value.encode("utf-8", errors="surrogateescape")
    return values


def _private(path: Path) -> bytes:
    """Read a file that nobody else can read.

    :raises SecretFileOpen: when others can.
    """
    try:
        with path.open("rb") as file:
            facts = os.fstat(file.fileno())
            if stat.S_ISREG(facts.st_mode) and facts.st_mode & 0o077:
                raise SecretFileOpen(
                    f"file `{path}` holds secrets, and others can read or change it (mode {facts.st_mode & 0o777:04o})",
                    hint=f"`chmod 600 {path}` closes it.",
                )
            data = file.read(FILE_BYTES_MAXIMUM + 1)
    except OSError as error:
        raise SecretUnusable(
            f"file `{path}` with secrets cannot be read: {(error.strerror or type(error).__name__).lower()}"
        ) from error
    if len(data) > FILE_BYTES_MAXIMUM:
        raise SecretUnusable(f"file `{path}` with secrets is larger than {FILE_BYTES_MAXIMUM // 1024} KiB")
    return data
