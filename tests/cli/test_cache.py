"""Caches as users meet them: in ``moonyard run``, on two runners of one installation, and with ``moonyard cache``."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest

from schema.client import Client
from schema.wire import Job, JobSubmit, PipelinePush, PipelineVersion, Token, TokenCreate
from tests.cli.command import SECONDS, Printed, argv, environment, moonyard, started
from tests.cli.conftest import Runner
from tests.orchestrator.installation import Installation
from tests.orchestrator.installation import installation as opened

LEASE_SECONDS = 5.0
"""No stall of a busy machine is as long."""
BUILDING = """
return { name = "building", inputs = { lock = { default = "one" }, ref = { default = "main" } }, stages = {
  { name = "checkout", script = function(job)
    process.run({ command = "sh", args = { "-c", 'printf %s "$LOCK" > Lock' }, env = { LOCK = job.inputs.lock } })
  end },
  { name = "build", cache = { key = "deps", files = { "Lock" }, paths = { "deps" }, restore_keys = { "deps-" },
      scope = "${ref}" },
    script = function()
      -- Another user than the one that made it in another job can work in it.
      process.run({ command = "sh", user = "1234", args = { "-c",
        "if test -e deps/made; then cat deps/made; else echo nothing; mkdir deps; fi; cat Lock >> deps/made" } })
    end },
} }
"""
LARGE = """
return { name = "large", stages = { { name = "make", cache = { key = "large", paths = { "deps" } },
  script = function(job)
    log.info("attempt " .. job.attempt)
    local count = job.attempt == 1 and "150" or "1"
    process.run({ command = "sh", args = { "-c",
      "test ! -e deps; mkdir deps; dd if=/dev/urandom of=deps/large bs=1M count=" .. count .. " 2>/dev/null" } })
  end } } }
"""


def told(printed: Printed) -> list[str]:
    """Give what was said of caches."""
    return [text for text in printed.texts(source="system") if text.startswith("cache ")]


def said(printed: Printed) -> list[str]:
    """The same without sizes and times."""
    return [text.split(" (")[0] for text in told(printed)]


async def test_a_run_finds_what_an_earlier_run_on_this_machine_saved(run: Runner, tmp_path: Path) -> None:
    folder = ("--state-folder", str(tmp_path / "state"))
    first = await run(BUILDING, *folder)
    assert (first.code, first.texts(source="stdout")) == (0, ["nothing"])
    [missed, saved] = said(first)
    assert missed.startswith("cache miss `deps-")
    assert saved.startswith("cache saved `deps-")
    second = await run(BUILDING, *folder)
    assert (second.code, second.texts(source="stdout")) == (0, ["one"])
    assert said(second)[0] == missed.replace("miss", "hit")
    third = await run(BUILDING, *folder, "--input", "lock=two")
    assert (third.code, third.texts(source="stdout")) == (0, ["one"])
    assert "in the place of" in said(third)[0]
    assert (await run(BUILDING, *folder, "--input", "lock=two")).texts(source="stdout") == ["onetwo"]
    nothing = await run(BUILDING, *folder, "--cache-budget", "0")
    assert (nothing.code, nothing.texts(source="stdout")) == (0, ["nothing"])
    assert (await run(BUILDING, *folder)).texts(source="stdout") == ["nothing"]


async def test_a_cache_that_cannot_be_kept_fails_no_job(run: Runner, tmp_path: Path) -> None:
    state = tmp_path / "state"
    state.mkdir()
    (state / "caches").write_text("no folder")
    printed = await run(BUILDING, "--state-folder", str(state))
    assert printed.code == 0
    assert [text.split(": ")[0].split("-")[0] for text in printed.texts(level="warn", source="system")] == [
        "cache `deps",
        "cache `deps",
    ]


# Both stages find the job's cache, though they begin at once; the failure of a stage is no reason not to save its own.
TOGETHER = """
return { name = "together", cache = { key = "job", paths = { "of-job" } }, stages = {
  { name = "left", needs = {}, script = function() process.run({ command = "sh", args = { "-c", "ls" } }) end },
  { name = "right", needs = {}, script = function()
      process.run({ command = "sh", args = { "-c", "ls; mkdir -p of-job; echo > of-job/file" } })
    end },
  { name = "test", retries = 1, cache = { key = "test-${fail}", paths = { "of-test" }, when = "always" },
    script = function(job)
      process.run({ command = "sh", args = { "-c", "ls of-test || mkdir of-test; echo > of-test/$FAIL" },
        env = { FAIL = job.inputs.fail }, stderr = "off" })
      assert(job.inputs.fail == "no", "it is to fail")
    end },
}, inputs = { fail = { default = "no" } }, finally = { { name = "after", script = function() end } } }
"""
# In the second run, the first stage puts links where the second one's cache goes.
PLANTING = """
return { name = "planting", inputs = { plant = { type = "boolean" } }, stages = {
  { name = "first", script = function(job)
    process.run({ command = "sh", args = { "-c",
      job.inputs.plant and "mkdir out; ln -s ../../../../../../../../../tmp above; ln -s /etc target" or "true" } })
  end },
  { name = "second", cache = { key = "k", paths = { "above/planted", "target" } }, script = function(job)
    if not job.inputs.plant then
      process.run({ command = "sh", args = { "-c",
        "mkdir -p above/planted target; echo x > above/planted/x; echo x > target/x" } })
    end
  end },
} }
"""


async def test_a_jobs_cache_and_one_that_is_always_saved_are_there_in_the_next_run(run: Runner) -> None:
    first = await run(TOGETHER, "--input", "fail=yes")
    assert first.code == 1
    # The stage's own is saved once it has failed for good; the job's is not, for the job failed.
    assert said(first) == ["cache miss `job`", "cache miss `test-yes`", "cache saved `test-yes`"]
    again = await run(TOGETHER, "--input", "fail=yes")
    assert again.texts(stage="test", source="stdout")[0] == "yes"
    second = await run(TOGETHER)
    assert said(second)[-1] == "cache saved `job`"
    assert second.lines.index(
        next(line for line in second.lines if line.get("text", "").startswith("cache saved `job`"))
    ) < (second.lines.index(next(line for line in second.lines if line.get("stage") == "after")))
    third = await run(TOGETHER)
    assert said(third) == ["cache hit `job`", "cache hit `test-no`"]
    assert third.texts(stage="left", source="stdout") == ["of-job"]
    assert third.texts(stage="right", source="stdout") == ["of-job"]


async def test_links_that_a_container_planted_lead_a_restore_nowhere(run: Runner) -> None:
    assert (await run(PLANTING, "--input", "plant=false")).code == 0
    planted = await run(PLANTING, "--input", "plant=true")
    assert planted.code == 0
    [refused] = planted.texts(level="warn", source="system")
    assert refused.startswith("cache `k` could not be restored: `above/planted` leads out of the workspace")


async def test_a_cancel_ends_a_save_and_nothing_of_it_is_left(run: Runner, tmp_path: Path) -> None:
    state = tmp_path / "state"
    # As the job's own cache, which is saved when no stage runs any more.
    cache = ', cache = { key = "large", paths = { "deps" } }'
    source = LARGE.replace(cache, "").replace('name = "large"', f'name = "large"{cache}')
    words = [*run.arguments(source)[:-1], str(state)]
    async with started(*words, cwd=run.folder) as running:
        await until_saving(state / "caches" / "contents")
        running.process.terminate()
        assert await running.rest() == 1
    assert running.lines[-1]["state"] == "cancelled"
    assert list((state / "caches" / "contents").iterdir()) == []


async def until_saving(contents: Path) -> None:
    with anyio.fail_after(SECONDS):
        while not _is_saving(contents):  # noqa: ASYNC110  # asked from outside, of another process
            await anyio.sleep(0.01)


def _is_saving(contents: Path) -> bool:
    return any(path.stat().st_size for path in contents.glob(".new-*"))


class Site:
    """An installation with a replica, and the ways to it."""

    def __init__(self, installation: Installation, folder: Path, admin: Client) -> None:
        self.installation = installation
        self.folder = folder
        self.admin = admin

    @property
    def address(self) -> str:
        return self.installation.replicas[0].address

    async def __call__(self, *arguments: str) -> Printed:
        """Run a command as an admin."""
        told = ("--orchestrator", self.address)
        return await moonyard(*arguments, *told, cwd=self.folder, MOONYARD_TOKEN=self.installation.admin_secret)

    async def register(self, name: str) -> Path:
        """Register a runner with a state folder of its own, and give that."""
        made = await self.admin.post("/v1/tokens", Token, TokenCreate(kind="registration", name=name, uses=1))
        assert made.secret is not None
        state = self.folder / name
        words = ("runner", "register", "--name", name, "--state-folder", str(state), "--orchestrator", self.address)
        printed = await moonyard(*words, cwd=self.folder, MOONYARD_REGISTRATION_TOKEN=made.secret)
        assert printed.code == 0, printed
        return state

    @asynccontextmanager
    async def runner(self, state: Path) -> AsyncGenerator[subprocess.Popen[bytes]]:
        """Run the runner that was registered there, and drain it."""
        words = argv("runner", "start", "--state-folder", str(state), "--orchestrator", self.address)
        with subprocess.Popen(words, cwd=self.folder, env=environment()) as process:  # noqa: ASYNC220  # it only begins here
            try:
                yield process
                process.terminate()
                with anyio.fail_after(SECONDS):
                    await anyio.to_thread.run_sync(process.wait, abandon_on_cancel=True)
            finally:
                if process.returncode is None:
                    process.kill()

    async def submit(self, pipeline: str, **inputs: str) -> Job:
        inputs_given: dict[str, str | int | float | bool] = {**inputs}
        return await self.admin.post("/v1/jobs", Job, JobSubmit(pipeline=pipeline, inputs=inputs_given))

    async def followed(self, job: Job) -> Printed:
        return await self("logs", job.id, "-f", "--json")

    async def job(self, pipeline: str, **inputs: str) -> Printed:
        """Run a job to its end."""
        printed = await self.followed(await self.submit(pipeline, **inputs))
        assert printed.job["state"] == "succeeded", printed
        return printed


@pytest.fixture
async def site(database_url: str, image_map: dict[str, str], tmp_path: Path) -> AsyncGenerator[Site]:
    assert image_map, "images are there"
    async with opened(database_url) as installation:
        await installation.replica(lease_seconds=LEASE_SECONDS)
        admin = await installation.client()
        for name, source in (("building", BUILDING), ("large", LARGE)):
            push = PipelinePush(filename=f"{name}.lua", source=source)
            await admin.post("/v1/pipelines", PipelineVersion, push)
        yield Site(installation, tmp_path, admin)


@pytest.mark.timeout(240)
async def test_a_second_runner_gets_from_the_orchestrator_what_the_first_saved(site: Site) -> None:
    one, two = await site.register("one"), await site.register("two")
    async with site.runner(one):
        first = await site.job("building")
        assert first.texts(source="stdout") == ["nothing"]
        again = await site.job("building")
        assert again.texts(source="stdout") == ["one"]
        assert "from this runner" in told(again)[0]
        # A branch reads what is main's, and what it saves is its own.
        branch = await site.job("building", ref="branch", lock="two")
        assert branch.texts(source="stdout") == ["one"]
        assert "scope `main`" in told(branch)[0]
    async with site.runner(two):
        other = await site.job("building")
        assert other.texts(source="stdout") == ["one"]
        assert "from the orchestrator" in told(other)[0]
        [content] = (two / "caches" / "contents").iterdir()
        content.write_bytes(b"spoilt by the disk")
        assert "from the orchestrator" in told(await site.job("building"))[0]
        assert "from this runner" in told(await site.job("building"))[0]
        # What the branch saved is none of main's, whatever main looks for.
        assert (await site.job("building", lock="two")).texts(source="stdout") == ["one"]
    listed = (await site("cache", "list", "building", "--json")).lines
    assert [(line["scope"], line["hits"], line["job"]) for line in listed if line["scope"] == "branch"] == [
        ("branch", 0, 3)
    ]
    key = next(line["key"] for line in listed if line["scope"] == "branch")
    table = await site("cache", "list")
    assert key in table.stdout
    removed = await site("cache", "remove", "building", key, "--scope", "branch")
    assert removed.stdout == "1 cache of pipeline building removed\n"
    assert (await site("cache", "remove", "building", key, "--scope", "branch")).code == 2
    assert (await site("cache", "remove", "building")).code == 2
    assert (await site("cache", "remove", "building", "--all", "--json")).lines == [{"forgotten": 2}]
    assert (await site("cache", "list")).stderr == "no caches\n"


@pytest.mark.timeout(240)
async def test_half_a_save_of_a_runner_that_was_killed_is_never_restored(site: Site) -> None:
    one, two = await site.register("one"), await site.register("two")
    contents = one / "caches" / "contents"
    async with site.runner(one) as process:
        job = await site.submit("large")
        await until_saving(contents)
        os.kill(process.pid, signal.SIGKILL)
        [half] = contents.iterdir()
        assert half.name.startswith(".new-")
    async with site.runner(two):
        printed = await site.followed(job)
        assert (printed.job["state"], printed.job["attempt"]) == ("succeeded", 2)
        attempts = [[text for text in said(printed) if text.startswith(word)] for word in ("cache miss", "cache saved")]
        assert [len(texts) for texts in attempts] == [2, 1]
    [cache] = (await site("cache", "list", "--json")).lines
    assert cache["size_bytes"] < 2 * 1024 * 1024
    async with site.runner(one):  # which clears up, and has the other's
        assert "from the orchestrator" in told(await site.job("large"))[0]
    assert not list(contents.glob(".new-*"))
