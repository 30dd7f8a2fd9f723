"""Names files of a workspace without ever leaving it.

A job's containers can write anything into the workspace, symbolic links to the runner's own files among it, and can
change it while the runner looks. So a path is only ever resolved to a handle below the workspace (``runner.beneath``),
and what is done then is done by that handle: read, changed, made in or removed from. A link that stays in the workspace
is followed where a call says so; one that leads out, or begins with `/`, is refused.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from io import BufferedReader
from pathlib import Path, PurePosixPath
from typing import Final

from runner import beneath
from schema.errors import MoonyardError

INSIDE: Final = PurePosixPath("/workspace")
"""The workspace as containers see it."""
LENGTH_MAXIMUM: Final = 4096
"""Of a path, in bytes, as Linux has it."""
DEPTH_MAXIMUM: Final = 200
"""How many names a path has: trees are not walked deeper."""
SHOWN_MAXIMUM: Final = 200
FOLDER_MODE: Final = 0o777
"""Containers run as any user."""
_KINDS: Final = {
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFLNK: "a link",
}


class JailError(MoonyardError):
    """A path that leads out of the workspace, or to something that is not worked with there."""

    code = "path_refused"


@contextmanager
def open_file(workspace: Path, path: str) -> Generator[BufferedReader]:
    """Open a regular file below the workspace for reading. ``/workspace/x`` and ``x`` name the same.

    :raises JailError: for `..`, a link anywhere on the path, a folder, a device, or a file that is not there.
    """
    if not parts(path):
        raise JailError(f"`{path}` does not name a file of the workspace")
    with handle(workspace, path, follow=False, links=False) as found:
        mode = os.fstat(found).st_mode
        if stat.S_ISDIR(mode):
            raise JailError(
                f"`{path}` is a folder, and an artifact is a file",
                code="path_is_folder",
                hint='Pack it first: archive.create({ path = "x.tar.gz", from = "FOLDER" }).',
            )
        check_regular(mode, path)
        with refusing(path):
            descriptor = beneath.reopened(found, os.O_RDONLY)
    with os.fdopen(descriptor, "rb") as file:
        yield file


def parts(path: str) -> list[str]:
    """Take a path apart; of the workspace itself there are none.

    :raises JailError: for what lies outside by its very name, or is longer than paths are.
    """
    if len(os.fsencode(path)) > LENGTH_MAXIMUM:
        raise JailError(f"`{path[:SHOWN_MAXIMUM]}...` is longer than a path can be ({LENGTH_MAXIMUM} bytes)")
    pure = PurePosixPath(path)
    if pure.is_absolute():
        try:
            pure = pure.relative_to(INSIDE)
        except ValueError as error:
            raise JailError(f"`{path}` lies outside the workspace ({INSIDE})") from error
    if not path or ".." in pure.parts or "\x00" in path:
        raise JailError(f"`{path}` does not name a file of the workspace")
    if len(pure.parts) > DEPTH_MAXIMUM:
        raise JailError(f"`{path[:SHOWN_MAXIMUM]}...` is more than {DEPTH_MAXIMUM} folders deep")
    return list(pure.parts)


@contextmanager
def handle(workspace: Path, path: str, *, follow: bool = True, links: bool = True) -> Generator[int]:
    """Hold what a path names. See ``beneath.handle``.

    :raises JailError: when there is none, or it lies outside.
    """
    names = parts(path)
    root = os.open(workspace, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with refusing(path):
            found = beneath.handle(root, "/".join(names) or ".", follow=follow, links=links)
    finally:
        os.close(root)
    try:
        yield found
    finally:
        os.close(found)


@contextmanager
def place(workspace: Path, path: str, *, is_new: bool = False) -> Generator[tuple[int, str]]:
    """Hold the folder that a path's last name stands in, or is to stand in; give it with that name.

    :param is_new: whether something is to be made there, for the hint.
    :raises JailError: when there is no such folder, or the path names the workspace itself.
    """
    names = parts(path)
    if not names:
        raise JailError(f"`{path}` is the workspace itself")
    above = "/".join(names[:-1])
    with ExitStack() as held:
        try:
            folder = held.enter_context(handle(workspace, above or "."))
        except JailError as error:
            if is_new and error.code == "path_not_found":
                error.hint = f'Make its folder first: fs.mkdir("{above}").'
            raise
        if not stat.S_ISDIR(os.fstat(folder).st_mode):
            raise JailError(f"`{above}` is no folder")
        yield folder, names[-1]


def make_folders(workspace: Path, path: str) -> bool:
    """Make a folder, and those above it that are not there; give whether it was made.

    :raises JailError: when something else is in its place.
    """
    names = parts(path)
    made = False
    for count in range(1, len(names) + 1):
        partial = "/".join(names[:count])
        with place(workspace, partial) as (folder, name), refusing(path):
            made = make_folder(folder, name)
        with handle(workspace, partial) as found:
            if not stat.S_ISDIR(os.fstat(found).st_mode):
                raise JailError(f"`{partial}` is there and is no folder", code="path_exists")
    return made


def make_folder(parent: int, name: str) -> bool:
    """Make a folder that every container's user can work in; give whether it was not there."""
    try:
        os.mkdir(name, FOLDER_MODE, dir_fd=parent)
    except FileExistsError:
        return False
    # What the access list of the workspace does, this does where its file system has none.
    made = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
    try:
        if stat.S_ISDIR(os.fstat(made).st_mode):
            set_mode(made, FOLDER_MODE)
    finally:
        os.close(made)
    return True


def set_mode(handle: int, mode: int) -> None:
    """Set the mode of what a handle names."""
    os.chmod(f"/proc/self/fd/{handle}", mode)  # noqa: PTH101  # a handle, not a path


def check_regular(mode: int, path: str) -> None:
    """See that something is a regular file.

    :raises JailError: saying what it is.
    """
    if stat.S_ISDIR(mode):
        raise JailError(f"`{path}` is a folder", code="path_is_folder")
    if not stat.S_ISREG(mode):
        raise JailError(f"`{path}` is {_KINDS.get(stat.S_IFMT(mode), 'something odd')}, not a regular file")


def kind(mode: int) -> str:
    """Name what something is in one word."""
    if stat.S_ISREG(mode):
        return "file"
    if stat.S_ISDIR(mode):
        return "folder"
    return "link" if stat.S_ISLNK(mode) else "other"


@contextmanager
def refusing(path: str) -> Generator[None]:
    """Tell what the system said of a path.

    :raises JailError: for any ``OSError``.
    """
    try:
        yield
    except OSError as error:
        raise refusal(path, error) from error


def refusal(path: str, error: OSError) -> JailError:
    match error.errno:
        case errno.ENOENT:
            return JailError(f"`{path}` does not exist in the workspace", code="path_not_found")
        case errno.EXDEV:
            return JailError(
                f"`{path}` leads out of the workspace by a link",
                hint="Links are followed where they stay in the workspace and do not begin with `/`.",
            )
        case errno.ELOOP:
            return JailError(f"`{path}` has a link on its way that is not followed")
        case errno.ENOTDIR:
            return JailError(f"`{path}` goes through something that is no folder")
        case errno.EISDIR:
            return JailError(f"`{path}` is a folder", code="path_is_folder")
        case errno.EEXIST | errno.ENOTEMPTY:
            return JailError(f"`{path}` is there already", code="path_exists")
        case errno.ENOSPC | errno.EDQUOT | errno.EFBIG:
            return JailError(
                f"`{path}` could not be written in full: {(error.strerror or 'no room').lower()}", code="disk_full"
            )
        case _:
            return JailError(f"`{path}` cannot be worked with: {(error.strerror or str(error)).lower()}")
