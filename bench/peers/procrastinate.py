"""procrastinate: one worker on a psycopg pool, with as many jobs at once as ours has runners."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Final

from bench.peers import installed, worker
from bench.peers.worker import Worker

VERSION: Final = "3.10.0"
PACKAGES: Final = {"procrastinate": VERSION, "psycopg[binary,pool]": "3.3.9"}
PROGRAM: Final = """
import asyncio, sys, time
from procrastinate import App, PsycopgConnector

app = App(connector=PsycopgConnector(conninfo=sys.argv[1], max_size=20))

at = []

@app.task
async def noop():
    at.append(time.perf_counter())

async def work_off(jobs):
    at.clear()
    await noop.batch_defer_async(*({} for _ in range(jobs)))
    await app.run_worker_async(concurrency=int(sys.argv[2]), wait=False, install_signal_handlers=False)
    return at[-1] - at[0]

async def main():
    async with app.open_async():
        await app.schema_manager.apply_schema_async()
        print("ready", flush=True)
        while line := await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline):
            print(await work_off(int(line)), flush=True)

asyncio.run(main())
"""


def running(url: str, concurrency: int) -> AbstractContextManager[Worker]:
    """Have a worker for the span of a block, with its tables in an empty database.

    :raises PeerMissing: when it cannot be had, or does not start.
    """
    python = installed.pip(PACKAGES, "procrastinate").parent / "python"
    return worker.running("procrastinate", VERSION, [str(python), "-c", PROGRAM, url, str(concurrency)])
