"""Who owns what a runner makes on its machine, so that the next start can clear up after a crash.

Each runner process has an owner folder ``<state>/owners/<owner>/`` with a ``lock`` file that it holds locked for as
long as it lives, and its jobs' workspaces beside it. The kernel frees the lock when the process ends, however it
ends; unlike a process id, a lock cannot come to mean another process. Containers carry the owner's name as a label.
What belongs to an owner whose lock can be taken belongs to nobody and is removed.
"""

from __future__ import annotations

import fcntl
import itertools
import logging
import os
import secrets
import subprocess
from collections.abc import AsyncGenerator, Callable, Generator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Final, Protocol

import anyio
import anyio.to_thread

from runner import default_acl
from runner.engine.errors import EngineLost, StateFolderUnusable, keeping
from schema.errors import MoonyardError

log: Final = logging.getLogger(__name__)
CLEARING_SECONDS: Final = 60.0
CLEARING_PAUSE_SECONDS: Final = 0.5
ROOM_BYTES: Final = 1024 * 1024
"""What a disk has to have room for that is not to be called full."""
_FOLDER_FLAGS: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class ContainerRemover(Protocol):
    """What clearing up needs of the engine."""

    async def remove_containers(self, owner: str) -> int: ...


class Owner:
    """This process's claim on containers and workspaces."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name = name
        self.folder = folder
        self.workspaces = folder / "workspaces"
        self.leaves_something = False
        """It has containers that cannot be removed."""
        self.in_use: set[str] = set()
        """The names of the workspaces that are somebody's."""

    def remove_forgotten_workspaces(self) -> None:
        """Remove the workspaces that could not be removed at their jobs' ends.

        :raises OSError: when one still cannot.
        """
        # One is in use before its folder is there, so what is found and not in use is nobody's any more.
        for folder in sorted(self.workspaces.iterdir()):
            if folder.name not in self.in_use:
                remove_tree(folder)
                log.info("removed workspace %s, which nobody held any more", folder)


@contextmanager
def take(state_folder: Path) -> Generator[Owner]:
    """Become an owner; on leaving, remove the owner's folder with all workspaces in it.

    One who leaves something keeps the folder, unlocked as the dead leave theirs, so that the next start finds it.
    """
    name = secrets.token_hex(8)
    folder = state_folder / "owners" / name
    try:
        descriptor = _lock_new(folder)
    except OSError as error:
        raise StateFolderUnusable(
            f"state folder {state_folder} cannot be used ({error.strerror}: {error.filename})",
            hint="Name a folder in which you may write, with the setting `state_folder`.",
        ) from error
    owner = Owner(name, folder)
    try:
        yield owner
    finally:
        remove_tree(owner.workspaces if owner.leaves_something else folder)
        os.close(descriptor)


def _lock_new(folder: Path) -> int:
    """Make an owner's folder, locked from the moment on which it can be seen."""
    # The lock is taken under a name that clearing up passes over, so that nobody can take it in between.
    nascent = folder.with_name(f".{folder.name}")
    nascent.mkdir(parents=True, mode=0o700)
    descriptor = os.open(nascent / "lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        (nascent / "workspaces").mkdir(mode=0o700)
        nascent.rename(folder)
    except OSError:
        os.close(descriptor)
        remove_tree(nascent)
        raise
    return descriptor


async def clear_leftovers(state_folder: Path, owner: Owner, engine: ContainerRemover) -> int:
    """Remove the containers and workspaces of owners that no longer live; give how many owners that were.

    :raises MoonyardError: `leftovers_remain`, when that takes longer than a minute.
    """
    cleared = 0
    try:
        with anyio.fail_after(CLEARING_SECONDS):
            for folder in sorted((state_folder / "owners").iterdir()):
                if folder == owner.folder or folder.name.startswith("."):
                    continue
                with _lock_of_the_dead(folder) as dead:
                    if not dead:
                        continue
                    count = await _remove_containers(engine, folder.name)
                    await anyio.to_thread.run_sync(remove_tree, folder)
                    cleared += 1
                    log.info("cleared up after a process that ended early: %d containers, %s", count, folder)
    except TimeoutError as error:
        raise MoonyardError(
            f"clearing up after processes that ended early took longer than {CLEARING_SECONDS:.0f} s",
            code="leftovers_remain",
            hint="The next start tries again; `podman ps -a --filter label=moonyard.owner` lists the containers.",
        ) from error
    return cleared


async def _remove_containers(engine: ContainerRemover, owner: str) -> int:
    """Remove an owner's containers, also by an engine that dies under it and comes back."""
    while True:
        try:
            return await engine.remove_containers(owner)
        except EngineLost as error:
            log.warning("clearing up after owner %s failed (%s); it is tried again", owner, error.message)
            await anyio.sleep(CLEARING_PAUSE_SECONDS)


@contextmanager
def _lock_of_the_dead(folder: Path) -> Generator[bool]:
    """Hold a folder's lock if its owner is dead: of several processes that start together, one clears up."""
    try:
        descriptor = os.open(folder / "lock", os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        yield False  # somebody else is removing it just now
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        yield False
    else:
        yield True
    finally:
        os.close(descriptor)


def remove_tree(folder: Path) -> None:
    """Remove a folder and all in it, whatever modes a container left there, and however deep it goes.

    It works by directory handles, so a link that a container planted is removed, never followed. What lies deeper than
    one level is first moved up, for a path of thousands of folders is longer than the system's calls take, and a
    handle for each would be more than a process may have.

    Where the engine is not root's, a container's users are others to this machine than its root, which is this
    process's own user. What one of them closed to all others is removed in the user namespace that they belong to.
    """
    try:
        folder.chmod(0o700)
        root = os.open(folder, _FOLDER_FLAGS)
    except FileNotFoundError:
        return
    try:
        empty_folder(root)
    except PermissionError:
        if os.geteuid() == 0 or not _remove_in_user_namespace(folder):
            raise
        return
    finally:
        os.close(root)
    folder.rmdir()


def _remove_in_user_namespace(folder: Path) -> bool:
    """Remove a folder as root of the namespace that containers' users belong to; tell whether it is gone."""
    command = ["podman", "unshare", "rm", "-rf", "--one-file-system", "--", str(folder)]
    try:
        subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, check=True, timeout=CLEARING_SECONDS, cwd="/"
        )
    except (OSError, subprocess.SubprocessError) as error:
        log.warning("%s could not be removed in the containers' user namespace (%s)", folder, error)
        return False
    return True


def empty_folder(root: int, check: Callable[[], None] = lambda: None) -> None:
    """Remove all that is in an open folder. ``check`` is asked, time and again, whether to go on."""
    names = itertools.count()
    while folders := _remove_files(root):
        for name in folders:
            check()
            _move_up_folders(root, name, names)
            os.rmdir(name, dir_fd=root)


def _remove_files(folder: int) -> list[str]:
    """Remove what is no folder; give the names of the folders."""
    with os.scandir(folder) as entries:
        listed = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries]
    for name, is_folder in listed:
        if not is_folder:
            os.unlink(name, dir_fd=folder)
    return [name for name, is_folder in listed if is_folder]


def _move_up_folders(root: int, name: str, names: Iterator[int]) -> None:
    """Empty a folder: remove its files, and move its folders to the root under new names."""
    folder = _open_up(root, name)
    try:
        for inner in _remove_files(folder):
            os.close(_open_up(folder, inner))  # moving a folder changes its `..`, which takes the right to write to it
            os.rename(inner, _unused(root, names), src_dir_fd=folder, dst_dir_fd=root)
    finally:
        os.close(folder)


def _open_up(parent: int, name: str) -> int:
    """Open a folder that may have been closed to its own owner."""
    # There is no chmod that takes a handle of a folder which cannot be read, but by the path that stands for it.
    handle = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=parent)
    try:
        os.chmod(f"/proc/self/fd/{handle}", 0o700)  # noqa: PTH101  # a handle, not a path
    finally:
        os.close(handle)
    return os.open(name, _FOLDER_FLAGS, dir_fd=parent)


def _unused(root: int, names: Iterator[int]) -> str:
    # A container may have made folders of any name.
    for number in names:
        name = f"{number:x}"
        try:
            os.stat(name, dir_fd=root, follow_symlinks=False)
        except FileNotFoundError:
            return name
    raise AssertionError("numbers do not end")


@asynccontextmanager
async def workspace(owner: Owner, job: str, attempt: int) -> AsyncGenerator[Path]:
    """Make a job's workspace folder and remove it at the end.

    :raises StateFolderUnusable: when it cannot be made.
    """
    folder = owner.workspaces / f"{job}-{attempt}"
    owner.in_use.add(folder.name)
    try:
        with keeping(f"workspace {folder}"):
            folder.mkdir()
            # Containers run as any user; the owner's folder above keeps everybody else on the machine out.
            folder.chmod(0o777)
            with suppress(OSError):  # `moonyard doctor` tells of it
                default_acl.set_on(folder)
        try:
            yield folder
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(remove_tree, folder)
    finally:
        owner.in_use.discard(folder.name)


def check_room(owner: Owner) -> None:
    """See that the disk takes something.

    :raises StateFolderUnusable: when not.
    """
    probe = owner.folder / "room"
    with keeping(f"state folder {owner.folder}"):
        try:
            probe.write_bytes(bytes(ROOM_BYTES))
        finally:
            probe.unlink(missing_ok=True)
