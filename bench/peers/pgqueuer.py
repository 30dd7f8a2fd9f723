"""PgQueuer: one worker on one asyncpg connection under uvloop, as its own command starts it, in batches of 100."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Final

from bench.peers import installed, worker
from bench.peers.worker import Worker

VERSION: Final = "1.6.0"
PACKAGES: Final = {"pgqueuer": VERSION, "asyncpg": "0.32.0", "uvloop": "0.23.0"}
PROGRAM: Final = """
import asyncio, sys, time
import asyncpg, uvloop
from pgqueuer.db import AsyncpgDriver
from pgqueuer.qm import QueueManager
from pgqueuer.queries import Queries
from pgqueuer.types import QueueExecutionMode

async def work_off(jobs):
    connection = await asyncpg.connect(sys.argv[1])
    queries = Queries(AsyncpgDriver(connection))
    for start in range(0, jobs, 10000):
        count = min(10000, jobs - start)
        await queries.enqueue(["noop"] * count, [None] * count, [0] * count)
    manager, at = QueueManager(queries), []

    @manager.entrypoint("noop")
    async def noop(job):
        at.append(time.perf_counter())

    await manager.run(batch_size=100, mode=QueueExecutionMode.drain)
    await connection.close()
    return at[-1] - at[0]

async def main():
    connection = await asyncpg.connect(sys.argv[1])
    await Queries(AsyncpgDriver(connection)).install()
    await connection.close()
    print("ready", flush=True)
    while line := await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline):
        print(await work_off(int(line)), flush=True)

uvloop.run(main())
"""


def running(url: str) -> AbstractContextManager[Worker]:
    """Have a worker for the span of a block, with its tables in an empty database.

    :raises PeerMissing: when it cannot be had, or does not start.
    """
    python = installed.pip(PACKAGES, "pgq").parent / "python"
    return worker.running("pgqueuer", VERSION, [str(python), "-c", PROGRAM, url])
