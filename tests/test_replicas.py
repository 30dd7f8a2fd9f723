"""Three replicas behind HAProxy, with runners: what users see while parts of it come and go."""

from __future__ import annotations

import os
import random
import signal
import subprocess
from collections.abc import AsyncGenerator, Callable
from pathlib import Path

import anyio
import anyio.lowlevel
import anyio.to_thread
import msgspec
import psycopg
import pytest

from cli.main import EXIT_ERROR
from schema.client import Client
from schema.errors import ErrorInfo, chain
from schema.wire import Health, Job, JobSubmit, PipelinePush, PipelineVersion, RunnerList
from tests.chaos import balancer
from tests.chaos import installation as installations
from tests.chaos.checks import Check
from tests.chaos.figures import Figures
from tests.chaos.installation import Installation, Replica, Runner
from tests.chaos.load import Load
from tests.chaos.pipelines import Order
from tests.chaos.questions import rows
from tests.cli.command import SECONDS, moonyard, started
from tests.shells.pty_command import on_terminal

WAITING = """
return { name = "waiting", stages = { { name = "s", script = function()
  process.run({ command = "sh", args = { "-c", "echo started; until test -e go; do sleep 0.05; done; echo went" } })
end } } }
"""
FAILING = """
return { name = "failing", stages = { { name = "s", script = function()
  process.run({ command = "false" })
end } } }
"""
TAKEN = """
return { name = "taken", stages = { { name = "s", retries = 2, script = function(job)
  log.info("begins")
  if job.attempt == 1 then
    -- As another user, which is for the engine's own exec to do: it does not outlive the engine.
    pcall(process.run, { command = "sh", user = "0", args = { "-c", "echo started; sleep 1000" } })
    error("whatever the script makes of it")
  end
end } } }
"""
LEASE_SECONDS = 5.0
"""Shorter than what a runner takes for granted until it is told, and no stall of a busy machine is as long."""
RATE = 3.0
"""Submits a second in the rolling restart."""


@pytest.fixture(scope="module")
async def installation(image_map: dict[str, str]) -> AsyncGenerator[Installation]:
    """One for all tests: each leaves it whole."""
    assert image_map, "images are there"
    async with installations.running(LEASE_SECONDS) as running:
        yield running


async def until(is_so: Callable[[], bool]) -> None:
    with anyio.fail_after(SECONDS):
        while not await anyio.to_thread.run_sync(is_so):  # noqa: ASYNC110  # asked from outside, of other processes
            await anyio.sleep(0.02)


async def ended(client: Client, job: Job) -> Job:
    with anyio.fail_after(SECONDS):
        while (shown := await client.get(f"/v1/jobs/{job.id}", Job)).state in {"queued", "running"}:  # noqa: ASYNC110
            await anyio.sleep(0.05)
    return shown


async def restarted(replica: Replica) -> None:
    """Terminate a replica, and wait until its successor works."""
    before = replica.service.pid
    assert replica.service.send(signal.SIGTERM)
    await until(lambda: replica.service.pid not in {before, None})
    await installations.until_healthy(replica.address)
    assert replica.service.ends[-1].code == 0


def test_the_balancers_configuration_is_one(tmp_path: Path) -> None:
    command = balancer.write_config(tmp_path, 8400, [8401, 8402, 8403])
    subprocess.run([*command, "-c"], check=True, capture_output=True)


@pytest.mark.timeout(240)
async def test_jobs_are_submitted_and_followed_through_the_balancer(installation: Installation) -> None:
    order = Order(key="a key", kind="command", count=20)
    inputs = [word for name, value in order.inputs.items() for word in ("--input", f"{name}={value}")]
    arguments = ("submit", order.kind, *inputs, "--follow", "--json", "--orchestrator", installation.users.address)
    printed = await moonyard(*arguments, cwd=installation.folder, MOONYARD_TOKEN=installation.token)
    assert printed.code == 0, printed
    assert [line["text"] for line in printed.lines if line["type"] == "log" and line["source"] != "system"] == (
        order.texts()
    )


@pytest.mark.timeout(240)
async def test_what_a_terminated_replica_had_under_way_goes_on_elsewhere(installation: Installation) -> None:
    replica = installation.replicas[0]
    async with Client.open([installation.users.address], installation.token) as client:
        await client.post("/v1/pipelines", PipelineVersion, PipelinePush(filename="waiting.lua", source=WAITING))
        job = await client.post("/v1/jobs", Job, JobSubmit(pipeline="waiting"))
        both = ("--orchestrator", replica.address, "--orchestrator", installation.users.address)
        arguments = ("logs", job.id, "-f", "--json", *both)
        async with started(*arguments, cwd=installation.folder, MOONYARD_TOKEN=installation.token) as following:
            await following.until(type="log", text="started")
            # The follower asks this replica, and by chance the job's runner does. Both are let go at once, for the job
            # waits for what comes only afterwards.
            await restarted(replica)
            [workspace] = [folder for runner in installation.runners for folder in runner.workspaces()]
            (workspace / "go").touch()
            assert await following.rest() == 0
        shown = await client.get(f"/v1/jobs/{job.id}", Job)
    assert [line["text"] for line in following.lines if line["type"] == "log" and line["source"] == "stdout"] == [
        "started",
        "went",
    ]
    assert (shown.state, shown.attempt) == ("succeeded", 1)


@pytest.mark.timeout(240)
async def test_a_shell_goes_on_while_replicas_are_killed_and_ends_with_its_runner(installation: Installation) -> None:
    async with Client.open([installation.users.address], installation.token) as client:
        await client.post("/v1/pipelines", PipelineVersion, PipelinePush(filename="waiting.lua", source=WAITING))
        job = await client.post("/v1/jobs", Job, JobSubmit(pipeline="waiting"))
        asking = ("--orchestrator", installation.users.address)
        async with started(
            "logs", job.id, "-f", "--json", *asking, cwd=installation.folder, MOONYARD_TOKEN=installation.token
        ) as following:
            await following.until(type="log", text="started")
        [runner] = [runner for runner in installation.runners if runner.workspaces()]
        arguments = ("shell", *asking, job.id)
        with on_terminal(*arguments, cwd=installation.folder, MOONYARD_TOKEN=installation.token) as shell:
            await shell.sees("# ")
            for number, replica in enumerate(installation.replicas):
                before = replica.service.pid
                assert replica.service.send(signal.SIGKILL)
                # Typed while it may be gone: in the end, each key arrives once.
                shell.type(f"echo {number}$((40 + {number}))\r")
                await shell.sees(f"\n{number}{40 + number}")
                await until(lambda service=replica.service, pid=before: service.pid not in {pid, None})
                await installations.until_healthy(replica.address)
            assert runner.service.send(signal.SIGKILL)
            assert await shell.ends() == EXIT_ERROR
            assert b"was lost, and the attempt with it" in shell.screen

        def next_workspaces() -> list[Path]:
            folders = [folder for runner in installation.runners for folder in runner.workspaces()]
            return [folder for folder in folders if folder.name == f"{job.id}-2"]

        await until(lambda: bool(next_workspaces()))
        (next_workspaces()[0] / "go").touch()
        assert (await ended(client, job)).state == "succeeded"


@pytest.mark.timeout(240)
async def test_what_a_killed_runner_kept_is_gone_by_its_next_start_and_a_shell_there_says_so(
    installation: Installation,
) -> None:
    async with Client.open([installation.users.address], installation.token) as client:
        await client.post("/v1/pipelines", PipelineVersion, PipelinePush(filename="failing.lua", source=FAILING))
        job = await client.post("/v1/jobs", Job, JobSubmit(pipeline="failing", keep_on_failure=600.0))
        assert (await ended(client, job)).containers_kept_until is not None
        [runner] = [runner for runner in installation.runners if runner.workspaces()]
        before = runner.service.pid
        assert runner.service.send(signal.SIGKILL)
        await until(lambda: runner.service.pid not in {before, None} and not runner.workspaces())
        arguments = ("shell", "--orchestrator", installation.users.address, job.id, "--", "true")
        printed = await moonyard(*arguments, cwd=installation.folder, MOONYARD_TOKEN=installation.token)
        assert printed.code == EXIT_ERROR
        assert "the attempt has no containers here any more" in printed.stderr
        with anyio.fail_after(SECONDS):
            while await rows(installation.url, "SELECT FROM inspect.kept"):  # noqa: ASYNC110  # asked from outside
                await anyio.sleep(0.02)


@pytest.mark.timeout(240)
@pytest.mark.parametrize("what", ["Lua process", "engine"])
async def test_a_job_whose_lua_process_or_engine_is_killed_is_run_again_and_told_why(
    installation: Installation, what: str
) -> None:
    async with Client.open([installation.users.address], installation.token) as client:
        await client.post("/v1/pipelines", PipelineVersion, PipelinePush(filename="taken.lua", source=TAKEN))
        job = await client.post("/v1/jobs", Job, JobSubmit(pipeline="taken"))
        arguments = ("logs", job.id, "-f", "--json", "--orchestrator", installation.users.address)
        async with started(*arguments, cwd=installation.folder, MOONYARD_TOKEN=installation.token) as following:
            await following.until(type="log", text="started")
            [runner] = [runner for runner in installation.runners if runner.workspaces()]
            pid = runner.lua_processes()[0] if what == "Lua process" else runner.engine()
            assert pid is not None
            os.kill(pid, signal.SIGKILL)
            assert await following.rest() == 0
        shown = await client.get(f"/v1/jobs/{job.id}", Job)
    assert (shown.state, shown.attempt) == ("succeeded", 2)
    told = [(line["attempt"], line["state"]) for line in following.lines if line["type"] == "job"]
    assert told == [(0, "queued"), (1, "running"), (1, "queued"), (2, "running"), (2, "succeeded")]
    [again] = [line for line in following.lines if line["type"] == "job" and line["error"] is not None]
    codes = [link.code for link in chain(msgspec.convert(again["error"], ErrorInfo))]
    assert codes[:2] == ["attempt_lost", "stage_failed"]
    # It took nothing from what the stage may try, and whoever reads only the log is told too.
    texts = [line["text"] for line in following.lines if line["type"] == "log" and line["attempt"] == 1]
    assert texts[-1].startswith("attempt 1 was lost: the ")
    assert [text for text in texts if "trying again" in text] == []


@pytest.mark.timeout(240)
async def test_a_runner_without_room_on_its_disk_loses_one_job_and_claims_no_other_until_it_has(
    installation: Installation,
) -> None:
    disks = [runner.disk for runner in installation.runners if runner.disk is not None]
    assert bool(disks) == (os.geteuid() == 0), "only root has small disks"

    def said(runner: Runner) -> int:
        return runner.service.log.read_text(encoding="utf-8").count("nothing is claimed: ")

    before = {runner.id: said(runner) for runner in installation.runners}
    job: Job | None = None
    async with Client.open([installation.users.address], installation.token) as client:
        with anyio.fail_after(SECONDS):
            while {one.state for one in (await client.get("/v1/runners", RunnerList)).runners} != {"online"}:  # noqa: ASYNC110
                await anyio.sleep(0.05)
        async with anyio.create_task_group() as full:
            for disk in disks:
                full.start_soon(disk.keep_full)
            await anyio.lowlevel.checkpoint()  # they are full from here on
            job = await client.post("/v1/jobs", Job, _order("no room", count=1))
            # Each has its turn: a loss is told when its runner claims nothing any more, so it comes to another one.
            await until(lambda: not disks or all(said(runner) > before[runner.id] for runner in installation.runners))
            full.cancel_scope.cancel()
        assert job is not None
        shown = await ended(client, job)
    [row] = await rows(installation.url, "SELECT losses FROM moonyard.jobs WHERE id = $1", job.id)
    assert (shown.state, row["losses"]) == ("succeeded", len(disks))


@pytest.mark.timeout(240)
async def test_a_rolling_restart_under_load_loses_nothing_and_no_attempt(installation: Installation) -> None:
    chance = random.Random(1)  # noqa: S311  # a load that is the same each time
    load, figures = Load(installation, RATE, chance), Figures()
    check = Check(installation, load, [], figures)
    async with anyio.create_task_group() as watching:
        watching.start_soon(check.watch.run)
        async with anyio.create_task_group() as loading:
            await loading.start(load.run)
            for replica in installation.replicas:
                await restarted(replica)
            load.stop()
        await check.settle()
        watching.cancel_scope.cancel()
    await check.run(chance)
    assert figures.judge() == [], figures.details
    assert figures.final == figures.acknowledged == figures.submitted > 0
    assert set(figures.states) <= {"succeeded", "cancelled"}
    assert figures.attempts_lost == 0


@pytest.mark.timeout(240)
async def test_a_replica_without_its_database_is_passed_over_until_it_has_it_again(installation: Installation) -> None:
    database = installation.replicas[1].database
    database.refuse()
    database.cut()
    await until(lambda: not balancer.is_up(installation.folder, 2))
    async with Client.open([installation.users.address], None) as client:
        for _ in range(20):
            assert (await client.get("/v1/health", Health)).status == "ok"
    database.heal()
    await until(lambda: balancer.is_up(installation.folder, 2))


@pytest.mark.timeout(240)
async def test_an_upgrade_that_only_adds_runs_while_jobs_do(installation: Installation) -> None:
    """A newer version's migration adds a column; replicas of this one go on."""
    async with Client.open([installation.users.address], installation.token) as client:
        first = await client.post("/v1/jobs", Job, _order("before"))
        with psycopg.connect(installation.url, autocommit=True) as connection:
            connection.execute("ALTER TABLE moonyard.jobs ADD COLUMN of_a_newer_version text")
            connection.execute("ALTER TABLE moonyard.attempts ADD COLUMN of_a_newer_version text DEFAULT 'x'")
        second = await client.post("/v1/jobs", Job, _order("after"))
        for job in (first, second):
            assert (await ended(client, job)).state == "succeeded"


@pytest.mark.timeout(240)
async def test_a_lost_job_that_comes_back_to_its_own_runner_runs_there_again(installation: Installation) -> None:
    [own, *others] = installation.runners

    async def ask(*arguments: str) -> None:
        address = ("--orchestrator", installation.users.address)
        done = await moonyard(*arguments, *address, cwd=installation.folder, MOONYARD_TOKEN=installation.token)
        assert done.code == 0, done.stderr

    before = own.service.pid
    for other in others:
        await ask("runner", "drain", other.service.name)
    async with Client.open([installation.users.address], installation.token) as client:
        await client.post("/v1/pipelines", PipelineVersion, PipelinePush(filename="waiting.lua", source=WAITING))
        job = await client.post("/v1/jobs", Job, JobSubmit(pipeline="waiting"))
        await until(lambda: workspace_of(own, job, 1) is not None)
        # Again and again, for a heartbeat that comes first renews it.
        await until(lambda: let_first_lease_run_out(installation.url) or workspace_of(own, job, 2) is not None)
        workspace = workspace_of(own, job, 2)
        assert workspace is not None
        (workspace / "go").touch()
        with anyio.fail_after(SECONDS):
            while (shown := await client.get(f"/v1/jobs/{job.id}", Job)).state == "running":  # noqa: ASYNC110
                await anyio.sleep(0.05)
    assert (shown.state, shown.attempt, own.service.pid) == ("succeeded", 2, before)
    for other in others:
        await ask("runner", "undrain", other.service.name)


def workspace_of(runner: Runner, job: Job, attempt: int) -> Path | None:
    return next((folder for folder in runner.workspaces() if folder.name == f"{job.id}-{attempt}"), None)


def let_first_lease_run_out(url: str) -> None:
    """Do what time would do to a first attempt, were its runner silent. A replica sees it a moment later."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(
            "UPDATE moonyard.attempts SET lease_expires_at = now() WHERE state = 'running' AND number = 1"
        )


def _order(key: str, count: int = 20) -> JobSubmit:
    order = Order(key=key, kind="command", count=count)
    return JobSubmit(pipeline=order.kind, inputs=order.inputs)
