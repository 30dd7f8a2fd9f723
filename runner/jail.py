"""Opens files of a workspace without ever leaving it.

A job's containers can write anything into the workspace, symbolic links to the runner's own files among it, and can
change it while the runner looks. So a path is walked one name at a time by directory handles, and a link anywhere on
it is refused by the kernel (``O_NOFOLLOW``) at the very call that would have followed it.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Generator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path, PurePosixPath

from schema.errors import MoonyardError


class JailError(MoonyardError):
    """A path that leads out of the workspace, or to something that is not read from there."""

    code = "path_refused"


@contextmanager
def open_file(workspace: Path, path: str) -> Generator[BufferedReader]:
    """Open a regular file below the workspace for reading. ``/workspace/x`` and ``x`` name the same.

    :raises JailError: for `..`, a link, a folder, a device, or a file that is not there.
    """
    parts = _parts(path)
    handle = os.open(workspace, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for name in parts[:-1]:
            child = _open(handle, name, path, os.O_DIRECTORY)
            os.close(handle)
            handle = child
        descriptor = _open(handle, parts[-1], path, os.O_NONBLOCK)
    finally:
        os.close(handle)
    try:
        _check_kind(os.fstat(descriptor).st_mode, path)
    except JailError:
        os.close(descriptor)
        raise
    with os.fdopen(descriptor, "rb") as file:
        yield file


def _check_kind(mode: int, path: str) -> None:
    if stat.S_ISDIR(mode):
        raise JailError(
            f"`{path}` is a folder, and an artifact is a file",
            code="path_is_folder",
            hint='Pack it first: process.run({ command = "tar", args = { "-cf", "x.tar", "FOLDER" } }).',
        )
    if not stat.S_ISREG(mode):
        raise JailError(f"`{path}` is not a regular file")


def _parts(path: str) -> list[str]:
    pure = PurePosixPath(path)
    if pure.is_absolute():
        try:
            pure = pure.relative_to("/workspace")
        except ValueError as error:
            raise JailError(f"`{path}` lies outside the workspace (/workspace)") from error
    if not pure.parts or ".." in pure.parts or "\x00" in path:
        raise JailError(f"`{path}` does not name a file of the workspace")
    return list(pure.parts)


def _open(folder: int, name: str, path: str, flags: int) -> int:
    try:
        return os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | flags, dir_fd=folder)
    except FileNotFoundError as error:
        raise JailError(f"`{path}` does not exist in the workspace", code="path_not_found") from error
    except OSError as error:
        raise JailError(f"`{path}` cannot be read from the workspace ({name}: {error.strerror})") from error
