"""A real runner's token: replaced while its jobs run, whenever it is killed; and refused, with all that follows."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import anyio.abc
import msgspec
import pytest

from cli.main import EXIT_ERROR
from runner.registration import FILE_NAME, Registration
from schema.client import OrchestratorRefused
from schema.wire import Job, JobSubmit, PipelinePush, PipelineVersion, RunnerTokenUsed, Token, TokenCreate
from tests.cli.command import SECONDS, argv, environment, moonyard
from tests.orchestrator.installation import Installation
from tests.orchestrator.installation import installation as opened
from tests.shells.conftest import is_running

SOURCE = """
return { name = "long", stages = { { name = "s", script = function(job)
  process.run({ command = "sh", args = { "-c", "echo started; until test -e go; do sleep 0.05; done; echo went" } })
end } } }
"""
ASLEEP = """
return { name = "asleep", stages = { { name = "s", script = function(job)
  process.run({ command = "sh", args = { "-c", "sleep 98761; true" } })
end } } }
"""
AT_ONCE = "0.0000001"
"""Of a day: each token is too old when it is a moment old."""
KILLS = 5
AN_OLD_MINUTE = """
UPDATE moonyard.tokens SET replaced_at = replaced_at - interval '61 seconds' WHERE replaced_at IS NOT NULL
"""


class Started(msgspec.Struct, frozen=True):
    process: anyio.abc.Process
    log: Path

    @property
    def said(self) -> str:
        return self.log.read_text(encoding="utf-8", errors="replace")


class Machine:
    """A machine with a registered runner, which is a process of its own."""

    def __init__(self, installation: Installation, folder: Path) -> None:
        self.installation = installation
        self.folder = folder
        self.file = folder / FILE_NAME

    async def register(self) -> None:
        admin = await self.installation.client()
        token = await admin.post("/v1/tokens", Token, TokenCreate(kind="registration", name="machine", uses=1))
        assert token.secret is not None
        address = self.installation.replicas[0].address
        words = (
            "runner",
            "register",
            "--name",
            "machine",
            "--orchestrator",
            address,
            "--state-folder",
            str(self.folder),
        )
        done = await moonyard(*words, cwd=self.folder.parent, MOONYARD_REGISTRATION_TOKEN=token.secret)
        assert done.code == 0, done

    @property
    def registration(self) -> Registration:
        return Registration.read(self.file)

    @asynccontextmanager
    async def running(self, *words: str) -> AsyncGenerator[Started]:
        """Have the runner started; it is killed at the end, if it still is."""
        log = self.folder / "log"
        command = argv("runner", "start", "--state-folder", str(self.folder), *words)
        with log.open("wb") as stderr:
            async with await anyio.open_process(
                command, cwd=self.folder, env=environment(), stdin=subprocess.DEVNULL, stderr=stderr
            ) as process:
                try:
                    yield Started(process, log)
                finally:
                    if process.returncode is None:
                        process.kill()

    async def act(self, act: str) -> str:
        words = ("runner", act, "machine", "--orchestrator", self.installation.replicas[0].address)
        done = await moonyard(*words, cwd=self.folder, MOONYARD_TOKEN=self.installation.admin_secret)
        assert done.code == 0, done
        return done.stdout

    async def submit(self, source: str) -> Job:
        admin = await self.installation.client()
        version = await admin.post("/v1/pipelines", PipelineVersion, PipelinePush(filename="p.lua", source=source))
        return await admin.post("/v1/jobs", Job, JobSubmit(pipeline=version.name))

    async def until(self, statement: str, *values: Any) -> None:
        """Wait until a statement gives a row."""
        with anyio.fail_after(SECONDS):
            while not await self.installation.fetch(statement, *values):  # noqa: ASYNC110  # asked from outside
                await anyio.sleep(0.02)

    async def until_log(self, job: Job, text: str) -> None:
        await self.until(
            "SELECT FROM moonyard.event_batches WHERE job_id = $1 AND position($2 IN lines) > 0", job.id, text
        )

    async def until_so(self, is_so: Callable[[], bool]) -> None:
        with anyio.fail_after(SECONDS):
            while not is_so():  # noqa: ASYNC110  # asked from outside, of other processes
                await anyio.sleep(0.02)


@pytest.fixture
async def machine(database_url: str, tmp_path: Path, image_map: dict[str, str]) -> AsyncGenerator[Machine]:
    assert image_map, "images are there"
    async with opened(database_url) as installation:
        await installation.replica()
        made = Machine(installation, tmp_path / "machine")
        await made.register()
        yield made


async def test_a_runner_gets_a_new_token_while_its_job_runs(machine: Machine):
    before = machine.registration
    assert machine.file.stat().st_mode & 0o777 == 0o600
    async with machine.running() as runner:
        job = await machine.submit(SOURCE)
        await machine.until_log(job, '"started"')
        assert await machine.act("rotate") == "runner machine gets a new token as soon as it hears of it\n"
        await machine.until("SELECT FROM moonyard.tokens WHERE replaced_at IS NOT NULL")
        after = machine.registration
        assert after.token != before.token
        assert msgspec.structs.replace(after, token=before.token, token_at=before.token_at) == before
        assert machine.file.stat().st_mode & 0o777 == 0o600
        await machine.installation.fetch(AN_OLD_MINUTE)
        machine.installation.replicas[0].parts.authentication.forget()
        with pytest.raises(OrchestratorRefused) as refused:
            await (await machine.installation.client(before.token)).get("/v1/runner/token", RunnerTokenUsed)
        assert refused.value.code == "runner_token_replaced"
        [workspace] = machine.folder.glob("owners/*/workspaces/*")
        (workspace / "go").touch()
        await machine.until("SELECT FROM moonyard.jobs WHERE id = $1 AND state = 'succeeded' AND attempt = 1", job.id)
        runner.process.send_signal(signal.SIGTERM)
        with anyio.fail_after(SECONDS):
            assert await runner.process.wait() == 0
        for token in (before.token, after.token):
            assert token not in runner.said
    assert after.token in machine.file.read_text()


async def test_a_runner_that_is_killed_while_it_gets_new_tokens_speaks_when_it_is_started_again(machine: Machine):
    chance = random.Random(17)  # noqa: S311  # it hides nothing
    for _ in range(KILLS):
        [row] = await machine.installation.fetch("SELECT count(*) AS count FROM moonyard.tokens")
        async with machine.running("--runner-token-days", AT_ONCE) as runner:
            # It speaks, and its token is replaced again and again: it is killed somewhere in between.
            statement = "SELECT FROM moonyard.tokens HAVING count(*) >= $1"
            await machine.until(statement, row["count"] + chance.randint(3, 12))
            with anyio.move_on_after(chance.uniform(0, 0.02)):
                await runner.process.wait()
            runner.process.kill()
            await runner.process.wait()
        assert "does not accept" not in runner.said
    token = machine.registration.token
    await machine.installation.fetch(AN_OLD_MINUTE)
    machine.installation.replicas[0].parts.authentication.forget()
    used = await (await machine.installation.client(token)).get("/v1/runner/token", RunnerTokenUsed)
    assert used.runner == machine.registration.id


async def test_a_revoked_runner_stops_its_jobs_and_ends_with_a_word(machine: Machine):
    async with machine.running() as runner:
        await machine.submit(ASLEEP)
        await machine.until_so(lambda: is_running("sleep 98761"))
        assert await machine.act("revoke") == "runner machine is revoked; what it ran is queued again\n"
        # What a claim gave it at that very moment is taken back within a second.
        await machine.until("SELECT FROM moonyard.jobs WHERE state = 'queued'")
        with anyio.fail_after(SECONDS):
            assert await runner.process.wait() == EXIT_ERROR
        said = runner.said
    assert "error[runner_revoked] runner `machine` was revoked by token test at " in said
    assert "takes nothing more from it" in said
    assert "register it anew" in said
    assert "Traceback" not in said
    assert not is_running("sleep 98761")
    assert list(machine.folder.glob("owners/*/workspaces/*")) == []
    async with machine.running() as again, anyio.create_task_group() as tasks:
        tasks.start_soon(again.process.wait)
        with anyio.fail_after(SECONDS):
            assert await again.process.wait() == EXIT_ERROR
    assert "runner_revoked" in again.said


async def test_a_runner_whose_file_cannot_be_written_goes_on_with_its_token(machine: Machine):
    before = machine.registration
    obstacle = machine.folder / f".{FILE_NAME}.new"
    obstacle.mkdir()
    async with machine.running() as runner:
        await machine.until("SELECT FROM moonyard.runners WHERE seen_at IS NOT NULL")
        await machine.act("rotate")
        await machine.until_so(lambda: "the runner's token was not replaced" in runner.said)
        assert machine.registration == before
        obstacle.rmdir()
        await machine.until("SELECT FROM moonyard.tokens WHERE replaced_at IS NOT NULL")
        assert machine.registration.token != before.token


async def test_a_file_that_is_no_registration_is_told(machine: Machine):
    machine.file.write_text("name = 1\n")
    words = ("runner", "start", "--state-folder", str(machine.folder))
    done = await moonyard(*words, cwd=machine.folder)
    assert done.code == EXIT_ERROR
    assert "is not what `moonyard runner register` writes" in done.stderr
    assert sys.executable not in done.stderr
