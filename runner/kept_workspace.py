"""What an attempt leaves to a later one of its job, and what it takes over: its workspace."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Final

import anyio

from runner import packing
from runner.event_stream import EventStream
from runner.job_context import WorkspaceStore
from schema.errors import MoonyardError

KEEP_SECONDS: Final = 15 * 60.0
"""For packing a workspace and handing it over."""


async def fetch(store: WorkspaceStore, workspace: Path, scratch: Path) -> int:
    """Fill an empty workspace with the one that was kept; give how many files it has.

    :param scratch: a folder for the packed file.
    :raises MoonyardError: when it cannot be had, or does not fit.
    """
    with tempfile.TemporaryFile(dir=scratch) as file:
        await store.fetch(file)
        return await packing.unpack(file, workspace)


async def keep(store: WorkspaceStore, workspace: Path, scratch: Path, stream: EventStream) -> None:
    """Keep a workspace as its stages left it, and say so; what goes wrong is said too, and changes nothing else."""
    try:
        with anyio.fail_after(KEEP_SECONDS), tempfile.TemporaryFile(dir=scratch) as file:
            count = await packing.pack(workspace, file)
            size = file.tell()
            until = await store.keep(file)
    except (MoonyardError, OSError) as error:  # a timeout is the second
        why = f"it took longer than {KEEP_SECONDS:.0f} s" if isinstance(error, TimeoutError) else str(error)
        await stream.log(None, "warn", "system", f"the workspace could not be kept: {why}")
        return
    await stream.log(
        None,
        "info",
        "system",
        f"the workspace is kept until {until} ({count} files, {size} bytes packed): "
        f"`moonyard retry {stream.number} --from STAGE` begins with it",
    )
