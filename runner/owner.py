"""Who owns what a runner makes on its machine, so that the next start can clear up after a crash.

Each runner process has an owner folder ``<state>/owners/<owner>/`` with a ``lock`` file that it holds locked for as
long as it lives, and its jobs' workspaces beside it. The kernel frees the lock when the process ends, however it
ends; unlike a process id, a lock cannot come to mean another process. Containers carry the owner's name as a label.
What belongs to an owner whose lock can be taken belongs to nobody and is removed.
"""

from __future__ import annotations

import fcntl
import logging
import os
import secrets
import shutil
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Final, Protocol

import anyio
import anyio.to_thread

from schema.errors import MoonyardError

log: Final = logging.getLogger(__name__)
CLEARING_SECONDS: Final = 60.0


class ContainerRemover(Protocol):
    """What clearing up needs of the engine."""

    async def remove_containers(self, owner: str) -> int: ...


class Owner:
    """This process's claim on containers and workspaces."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name = name
        self.folder = folder
        self.workspaces = folder / "workspaces"


@contextmanager
def take(state_folder: Path) -> Generator[Owner]:
    """Become an owner; on leaving, remove the owner's folder with all workspaces in it."""
    name = secrets.token_hex(8)
    folder = state_folder / "owners" / name
    # The lock is taken under a name that clearing up passes over, so that nobody can take it in between.
    nascent = folder.with_name(f".{name}")
    nascent.mkdir(parents=True, mode=0o700)
    descriptor = os.open(nascent / "lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        (nascent / "workspaces").mkdir(mode=0o700)
        nascent.rename(folder)
        yield Owner(name, folder)
    finally:
        remove_tree(folder)
        os.close(descriptor)


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
                    count = await engine.remove_containers(folder.name)
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
    """Remove a folder and all in it, whatever modes a container left there."""
    if not folder.exists():
        return

    def open_up(_function: object, path: str, _info: object) -> None:
        parent = Path(path).parent
        parent.chmod(0o700)
        if Path(path).is_dir() and not Path(path).is_symlink():
            Path(path).chmod(0o700)
            shutil.rmtree(path)
        else:
            Path(path).unlink(missing_ok=True)

    # rmtree works by directory handles: a link that a container planted is removed, never followed.
    shutil.rmtree(folder, onerror=open_up)


@asynccontextmanager
async def workspace(owner: Owner, job: str, attempt: int) -> AsyncGenerator[Path]:
    """Make a job's workspace folder and remove it at the end."""
    folder = owner.workspaces / f"{job}-{attempt}"
    folder.mkdir()
    # Containers run as any user; the owner's folder above keeps everybody else on the machine out.
    folder.chmod(0o777)
    try:
        yield folder
    finally:
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(remove_tree, folder)
