"""What caches have to do with a workspace: the hash of its files, and putting paths into it.

A job's containers write the workspace, links to anywhere among it, and may do so at this very moment. Files are found
and read by directory handles, and a link is never followed: one that is named as a file counts as not there. What is
put in is unpacked where no container reaches, and moved in whole, by the handle of the folder that it goes to.
"""

from __future__ import annotations

import hashlib
import os
import stat
import tempfile
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Final

import anyio
import anyio.from_thread
import anyio.to_thread

from runner import beneath, default_acl, globs, jail, trees
from runner import owner as owners
from schema.caches import HASH_LENGTH
from schema.errors import MoonyardError

READ_BYTES: Final = 1024 * 1024

Check = Callable[[], None]


async def hash_files(workspace: Path, patterns: Sequence[str], without: Sequence[str]) -> str | None:
    """Hash the names and contents of the files that any of the patterns fits; None where there are none.

    :param patterns: see ``runner.globs``.
    :param without: paths that are not looked into.
    :raises MoonyardError: when that cannot be done.
    """
    return await anyio.to_thread.run_sync(
        _hash_files, workspace, patterns, {*without}, anyio.from_thread.check_cancelled
    )


async def taken(workspace: Path, paths: Sequence[str]) -> list[str]:
    """List the paths at which there is something; an empty folder is nothing.

    :raises JailError: for one that leads out of the workspace.
    """
    return await anyio.to_thread.run_sync(lambda: [path for path in paths if _is_taken(workspace, path)])


@asynccontextmanager
async def staging(scratch: Path) -> AsyncGenerator[Path]:
    """Make a folder to unpack into, with what a workspace gives to all that is made in it."""
    outer = Path(tempfile.mkdtemp(prefix="cache-", dir=scratch))
    try:
        folder = outer / "unpacked"
        folder.mkdir()
        folder.chmod(0o777)
        with suppress(OSError):  # `moonyard doctor` tells of it
            default_acl.set_on(folder)
        yield folder
    finally:
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(owners.remove_tree, outer)


async def put(staged: Path, workspace: Path, paths: Sequence[str]) -> list[str]:
    """Move what was unpacked to its paths; what is at one already stays. List the paths that were filled.

    :param staged: holds them under their places in the list.
    :raises JailError: for one that leads out of the workspace.
    :raises OSError: when something came in between.
    """
    return await anyio.to_thread.run_sync(
        lambda: [path for place, path in enumerate(paths) if _put(staged / str(place), workspace, path)]
    )


def _put(source: Path, workspace: Path, path: str) -> bool:
    if not os.path.lexists(source) or _is_taken(workspace, path):
        return False
    above = "/".join(jail.parts(path)[:-1])
    if above:
        jail.make_folders(workspace, above)
    with jail.place(workspace, path) as (parent, name):
        with suppress(FileNotFoundError):
            os.rmdir(name, dir_fd=parent)
        os.rename(source, name, dst_dir_fd=parent)
    return True


def _is_taken(workspace: Path, path: str) -> bool:
    try:
        with jail.handle(workspace, path, follow=False) as found:
            if not stat.S_ISDIR(os.fstat(found).st_mode):
                return True
            folder = beneath.reopened(found, os.O_RDONLY | os.O_DIRECTORY)
            try:
                with os.scandir(folder) as entries:
                    return next(entries, None) is not None
            finally:
                os.close(folder)
    except jail.JailError as error:
        if error.code != "path_not_found":
            raise
        return False


def _hash_files(workspace: Path, patterns: Sequence[str], without: set[str], check: Check) -> str | None:
    try:
        selection = globs.Selection(patterns)
    except ValueError as error:
        raise MoonyardError(f"its `files` hold a pattern that is none: {error}", code="argument_invalid") from error
    found: list[tuple[bytes, bytes]] = []
    with jail.handle(workspace, ".") as root:
        for entry in trees.walk(
            root, check, enter=lambda entry: entry.path not in without and selection.may_have_below(entry.parts)
        ):
            if entry.is_file and entry.path not in without and selection.has(entry.parts):
                digest = _hash_file(entry, check)
                if digest is not None:
                    found.append((os.fsencode(entry.path), digest))
    if not found:
        return None
    whole = hashlib.sha256()
    for path, digest in sorted(found):
        whole.update(path + b"\0" + digest)
    return whole.hexdigest()[:HASH_LENGTH]


def _hash_file(entry: trees.Entry, check: Check) -> bytes | None:
    """Hash a file; None for what is none any more."""
    descriptor = trees.open_file(entry)
    if descriptor is None:
        return None
    with os.fdopen(descriptor, "rb") as file:
        digest = hashlib.sha256()
        while data := file.read(READ_BYTES):
            check()
            digest.update(data)
        return digest.digest()
