"""A whole installation, as ``moonyard up`` starts it: submitted to, followed, killed in parts, and stopped."""

from __future__ import annotations

import hashlib
import os
import signal
import socket
import stat
import subprocess
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import anyio
import anyio.abc
import pytest
from anyio.streams.text import TextReceiveStream

from tests.cli.command import ROOT, SECONDS, Printed, Running, argv, environment, moonyard, started
from tests.plugins import made

WAITING = """
return { name = "waiting", stages = { { name = "s", script = function(job)
  log.info("attempt " .. job.attempt)
  process.run({ command = "sh", args = { "-c", "echo started; until test -e go; do sleep 0.05; done; echo went" } })
end } } }
"""
COUNTING = """
return { name = "counting", stages = { { name = "s", script = function(job)
  for i = 1, 400 do log.info("line " .. i) if i % 20 == 0 then time.sleep(0.1) end end
end } } }
"""
# Waits in its first attempt and ends in its second: what a runner's death makes of a job can be seen.
LOSING = """
return { name = "losing", stages = { { name = "s", script = function(job)
  log.info("attempt " .. job.attempt)
  if job.attempt == 1 then process.run({ command = "sleep", args = { "1000" } }) end
end } } }
"""
KEEPING = """
return { name = "keeping", inputs = { text = { type = "string" } }, stages = { { name = "s", script = function(job)
  process.run({ command = "sh", args = { "-c", 'printf "%s" "$TEXT" > out.txt' }, env = { TEXT = job.inputs.text } })
  artifact.save({ path = "out.txt", name = "dir/out.txt" })
end } } }
"""
DEPLOYING = """
return { name = "deploying", stages = { { name = "deploy", script = function()
  local script = 'echo "length ${#TOKEN}"; echo "it is $TOKEN"'
  process.run({ command = "sh", args = { "-c", script }, secrets = { "TOKEN" } })
end } } }
"""

ENDING = """
return { name = "ending", inputs = { deaf = { type = "boolean" } }, stages = { { name = "s", script = function(job)
  local after = job.inputs.deaf and "" or "exit 0"
  process.run({ command = "sh", args = { "-c",
    "trap 'echo asked; " .. after .. "' TERM; echo started; while :; do sleep 0.05; done" } })
end } }, finally = { { name = "f", script = function(job) log.info("cleaned up: " .. job.state) end } } }
"""
# Its test fails in the first attempt; in the second it finds what the first built, and none of its variables.
RESUMING = """
local variable
return { name = "resuming", keep_workspace = "1h", stages = {
  { name = "build", script = function(job)
    variable = "set"
    local text = "built in attempt " .. job.attempt
    process.run({ command = "sh", args = { "-c", "mkdir out; echo " .. text .. " > out/file" } })
  end },
  { name = "test", script = function(job)
    assert(job.attempt == 2)
    log.info(process.run({ command = "cat", args = { "out/file" }, stdout = "off" }).stdout:sub(1, -2), variable)
  end },
  { name = "deploy", script = function() log.info("deployed") end },
} }
"""


class Installation:
    """A running ``moonyard up``, and the command line that finds it."""

    def __init__(self, folder: Path, ports: tuple[int, int], process: anyio.abc.Process) -> None:
        self.folder = folder
        self.state_folder = folder / "state"
        self.addresses = [f"http://127.0.0.1:{port}" for port in ports]
        self.process = process

    async def __call__(self, *arguments: str, **more: str) -> Printed:
        return await moonyard(*arguments, cwd=self.folder, MOONYARD_STATE_FOLDER=str(self.state_folder), **more)

    def start(self, *arguments: str) -> AbstractAsyncContextManager[Running]:
        return started(*arguments, cwd=self.folder, MOONYARD_STATE_FOLDER=str(self.state_folder))

    async def push(self, *sources: str) -> None:
        for index, source in enumerate(sources):
            (self.folder / f"p{index}.lua").write_text(source, encoding="utf-8")
            pushed = await self("pipeline", "push", f"p{index}.lua")
            assert pushed.code == 0, pushed.stderr

    async def submit(self, *arguments: str) -> str:
        submitted = await self("submit", *arguments, "--json")
        assert submitted.code == 0, submitted.stderr
        return str(submitted.lines[0]["number"])

    def part(self, matches: Callable[[list[str]], bool]) -> int:
        """Find the process of a part by its command line."""
        found = [pid for pid in descendants(self.process.pid) if matches(command_line(pid))]
        assert len(found) == 1, [command_line(pid) for pid in descendants(self.process.pid)]
        return found[0]

    def orchestrator(self, port: str) -> int:
        return self.part(lambda words: "orchestrator" in words and port in words)

    def runner(self) -> int:
        return self.part(lambda words: "runner" in words and "start" in words)


def command_line(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return []


def descendants(pid: int) -> list[int]:
    try:
        children = [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text("ascii").split()]
    except OSError:
        return []
    return [*children, *(below for child in children for below in descendants(child))]


def two_ports() -> tuple[int, int]:
    while True:
        with socket.socket() as first, socket.socket() as second:
            first.bind(("127.0.0.1", 0))
            port = first.getsockname()[1]
            try:
                second.bind(("127.0.0.1", port + 1))
            except OSError:
                continue
            return port, port + 1


@asynccontextmanager
async def up(folder: Path, ports: tuple[int, int]) -> AsyncGenerator[tuple[Installation, str]]:
    """Start everything; give it with what it said. What is still there at the end is stopped as a user stops it."""
    settings = {"MOONYARD_STATE_FOLDER": str(folder / "state"), "MOONYARD_LEASE_SECONDS": "2"}
    async with await anyio.open_process(
        argv("up", "--port", str(ports[0])), cwd=folder, env=environment(**settings), stdin=subprocess.DEVNULL
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(drain, process.stderr)
            said = ""
            stream = TextReceiveStream(process.stdout)
            with anyio.fail_after(SECONDS):
                while "Ctrl-C\n" not in said:
                    said += await stream.receive()
            yield Installation(folder, ports, process), said
            if process.returncode is None:
                process.send_signal(signal.SIGTERM)
            with anyio.fail_after(SECONDS):
                await process.wait()


async def drain(stream: anyio.abc.ByteReceiveStream) -> None:
    async for _ in stream:
        pass


@pytest.fixture
async def installation(tmp_path: Path, image_map: dict[str, str]) -> AsyncGenerator[Installation]:
    assert image_map, "images are there"
    async with up(tmp_path, two_ports()) as (started_installation, _):
        yield started_installation


async def test_a_job_is_submitted_followed_kept_and_looked_at(installation: Installation) -> None:
    for example in ("hello", "failing"):
        assert (await installation("pipeline", "push", str(ROOT / "examples" / f"{example}.lua"))).code == 0
    await installation.push(KEEPING)
    hello = await installation("submit", "hello", "--input", "name=you", "--follow", "--json")
    assert hello.code == 0, hello
    assert hello.texts(source="stdout") == ["Hello, you, from a container!"]
    assert (hello.job["state"], hello.job["number"]) == ("succeeded", 1)
    assert [line["state"] for line in hello.lines if line["type"] == "job"] == ["queued", "running", "succeeded"]

    failing = await installation("submit", "failing", "--follow", "--json")
    assert failing.code == 1
    assert [error.code for error in failing.errors] == ["stage_failed", "command_failed"]
    assert failing.errors[1].where == "failing.lua:5"
    shown = await installation("job", "2")
    assert "exited with code 3" in shown.stdout

    keeping = await installation("submit", "keeping", "--input", "text=ünï", "--follow")
    assert keeping.code == 0, keeping
    listed = await installation("artifact", "list", "3", "--json")
    content = "ünï".encode()
    assert [(row["name"], row["sha256"]) for row in listed.lines] == [
        ("dir/out.txt", hashlib.sha256(content).hexdigest())
    ]
    got = await installation("artifact", "get", "3", "dir/out.txt", "-o", "got.txt")
    assert got.code == 0, got.stderr
    assert (installation.folder / "got.txt").read_bytes() == content

    # Any replica knows it all, and so does psql.
    for address in installation.addresses:
        again = await installation("logs", "1", "--json", "--orchestrator", address)
        assert again.lines == hello.lines
    jobs = await installation("jobs", "--json")
    assert [(row["number"], row["state"]) for row in jobs.lines] == [(3, "succeeded"), (2, "failed"), (1, "succeeded")]
    looks = ("-c", "SELECT text FROM inspect.log('1') WHERE source = 'stdout'", "-c", "SELECT 'and' AS more")
    looked = await installation("db", "psql", *looks)
    assert "Hello, you, from a container!" in looked.stdout
    assert "more" in looked.stdout


async def test_plugins_are_pushed_locked_with_a_version_and_run_as_locked(installation: Installation) -> None:
    gives = 'gives = { who = { type = "string" } }'
    first, second = (made.files("mine", made.operation(f"return {{ who = '{word}' }}", gives)) for word in ("1", "2"))
    made.write(installation.folder / "mine", first)
    pushed = await installation("plugin", "push", "mine")
    assert (pushed.code, pushed.stdout.split()[:3]) == (0, ["pushed", "mine", "1.0.0"])
    assert (await installation("plugin", "push", "mine")).stdout.startswith("unchanged mine 1.0.0")
    made.write(installation.folder / "mine", second)
    refused = await installation("plugin", "push", "mine")
    assert refused.code == 2
    assert "hint: What a version names never changes" in refused.stderr
    other = made.files("other", made.operation("return { who = 'x' }", gives))
    made.write(installation.folder / "beside" / "other", other)
    pipeline = """
    return { name = "uses", plugins = { "mine@1", { name = "other", folder = "beside/other" } },
      stages = { { name = "s", script = function() log.info(mine.run().who .. other.run().who) end } } }"""
    await installation.push(pipeline)
    job = await installation("submit", "uses", "--follow", "--json")
    assert job.texts(source="lua") == ["1x"], job
    # What is there now is another thing: what the version was locked with runs on.
    newer = {**second, "plugin.toml": second["plugin.toml"].replace("1.0.0", "1.1.0")}
    made.write(installation.folder / "mine", newer)
    assert (await installation("plugin", "push", "mine")).code == 0
    assert (await installation("submit", "uses", "--follow", "--json")).texts(source="lua") == ["1x"]
    await installation.push(pipeline)
    assert (await installation("submit", "uses", "--follow", "--json")).texts(source="lua") == ["2x"]
    listed = await installation("plugin", "list", "--json")
    assert [(row["name"], row["version"]) for row in listed.lines if row["origin"] == "pushed"] == [
        ("mine", "1.1.0"), ("mine", "1.0.0")
    ]  # fmt: skip
    shown = await installation("plugin", "show", "mine@1.0")
    assert shown.stdout.startswith("mine 1.0.0  (pushed, ")
    uses = await installation("pipeline", "show", "uses")
    assert "\nplugins:\n  mine 1.1.0  " in uses.stdout
    looked = await installation("db", "psql", "-c", "SELECT plugin, version, pipelines FROM inspect.plugins")
    assert looked.stdout.count(" mine ") == 2


async def test_a_secret_is_ready_to_use_and_only_orchestrators_know_the_master_key(installation: Installation) -> None:
    key = installation.state_folder / "secret.keys"
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    value = "correct-horse-battery"
    (installation.folder / "value").write_text(value, encoding="utf-8")
    await installation.push(DEPLOYING)
    with (installation.folder / "value").open("rb") as stdin:
        more = environment(MOONYARD_STATE_FOLDER=str(installation.state_folder))
        await anyio.run_process(argv("secret", "set", "TOKEN"), stdin=stdin, cwd=installation.folder, env=more)
    refused = await installation("submit", "deploying", "--follow", "--json")
    assert [error.code for error in refused.errors] == ["stage_failed", "secret_not_granted"]
    assert (await installation("grant", "add", "TOKEN", "deploying", "--stage", "deploy")).code == 0
    for port in (installation.addresses[0].rpartition(":")[2], None):
        done = await installation("submit", "deploying", "--follow", "--json")
        assert done.code == 0, done
        assert value not in done.stdout
        assert [text for text in done.texts(source="stdout") if text.startswith("length")] == [f"length {len(value)}"]
        if port is not None:
            os.kill(installation.orchestrator(port), signal.SIGKILL)
    deliveries = await installation(
        "db", "psql", "-c", "SELECT job, result FROM inspect.secret_deliveries ORDER BY job"
    )
    assert deliveries.stdout.count("delivered") == 2
    assert deliveries.stdout.count("not granted") == 1
    for pid in descendants(installation.process.pid):
        is_orchestrator = "orchestrator" in command_line(pid)
        assert (b"MOONYARD_SECRET_KEY_FILE" in environment_of(pid)) == is_orchestrator or not environment_of(pid)


def environment_of(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return b""


async def test_orchestrators_connect_as_a_login_that_can_change_neither_the_schema_nor_the_audit(
    installation: Installation,
) -> None:
    sessions = "SELECT DISTINCT usename FROM pg_stat_activity WHERE application_name LIKE 'moonyard orchestrator%'"
    role = "SELECT state FROM inspect.health WHERE subject = 'database role'"
    looked = await installation("db", "psql", "-c", f"COPY ({sessions}) TO STDOUT", "-c", f"COPY ({role}) TO STDOUT")
    assert looked.stdout == "moonyard_replica\nok\n"


async def test_what_cannot_be_done_is_told_with_exit_code_2(installation: Installation) -> None:
    await installation.push(KEEPING)
    for arguments, words in {
        ("submit", "keepin", "--input", "text=x"): ["`keepin`", "keeping"],
        ("submit", "keeping", "--input", "txt=x"): ["`txt` is not an input", "`text` (string) is required"],
        ("job", "99"): ["99"],
        ("job", "no-id"): ["no-id"],
        ("logs", "99"): ["99"],
        ("cancel", "99"): ["99"],
        ("artifact", "get", "99", "x"): ["99"],
        ("pipeline", "show", "nothing"): ["nothing"],
        ("token", "revoke", "00000000-0000-7000-8000-000000000000"): ["token"],
    }.items():
        printed = await installation(*arguments)
        assert printed.code == 2, printed
        assert printed.stdout == ""
        for word in words:
            assert word in printed.stderr, printed.stderr
    (installation.folder / "wrong.lua").write_text('return { name = "p", requires = { "git" } }', encoding="utf-8")
    pushed = await installation("pipeline", "push", "wrong.lua")
    assert pushed.code == 2
    assert "wrong.lua:1: `requires` is no field of a pipeline" in pushed.stderr
    assert 'Write `plugins = { "git" }` instead.' in pushed.stderr
    assert "wrong.lua:1: the pipeline has no stages" in pushed.stderr
    refused = await installation("jobs", MOONYARD_TOKEN="moonyard_admin_wrong")
    assert refused.code == 2
    assert "token" in refused.stderr
    unreachable = await installation("jobs", "--orchestrator", "http://127.0.0.1:1", MOONYARD_TOKEN="x")
    assert unreachable.code == 2
    assert "orchestrator http://127.0.0.1:1 is unreachable (connection refused)" in unreachable.stderr
    assert "hint: " in unreachable.stderr


async def test_a_running_job_is_cancelled(installation: Installation) -> None:
    await installation.push(WAITING)
    number = await installation.submit("waiting")
    async with installation.start("logs", number, "-f", "--json") as running:
        await running.until(type="log", text="started")
        cancelled = await installation("cancel", number)
        assert cancelled.code == 0, cancelled.stderr
        assert await running.rest() == 1
        assert running.lines[-1]["state"] == "cancelled"
    assert containers_of(running.lines[-1]["id"]) == []


async def test_a_cancelled_job_cleans_up_and_a_forced_cancel_waits_for_nothing(installation: Installation) -> None:
    await installation.push(ENDING)
    for force, texts in (([], ["started", "asked", "cleaned up: cancelled"]), (["--force"], ["started", "asked"])):
        number = await installation.submit("ending", "--input", f"deaf={'yes' if force else 'no'}")
        async with installation.start("logs", number, "-f", "--json") as running:
            await running.until(type="log", text="started")
            assert (await installation("cancel", number)).code == 0
            if force:
                await running.until(type="log", text="asked")
                assert (await installation("cancel", number, *force)).code == 0
            assert await running.rest() == 1
        assert running.lines[-1]["state"] == "cancelled"
        # On stderr the shell says that its `sleep` was terminated.
        said = [line["text"] for line in running.lines if line.get("source") in {"stdout", "lua"}]
        assert said == texts
        assert containers_of(running.lines[-1]["id"]) == []


async def test_a_failed_job_goes_on_from_its_stage_with_its_workspace(installation: Installation) -> None:
    await installation.push(RESUMING)
    number = await installation.submit("resuming")
    failed = await installation("logs", number, "-f", "--json")
    assert failed.code == 1
    assert any("the workspace is kept until" in text for text in failed.texts(source="system"))
    unknown = await installation("retry", number, "--from", "tests")
    assert unknown.code == 2
    assert "Its stages are: build, test, deploy." in unknown.stderr
    retried = await installation("retry", number, "--from", "test")
    assert retried.code == 0, retried.stderr
    followed = await installation("logs", number, "-f", "--json")
    assert followed.code == 0, followed
    of_second = [line for line in followed.lines if line["attempt"] == 2]
    assert [(line["stage"], line["state"]) for line in of_second if line["type"] == "stage"] == [
        ("build", "skipped"),
        ("test", "running"),
        ("test", "succeeded"),
        ("deploy", "running"),
        ("deploy", "succeeded"),
    ]
    assert [line["text"] for line in of_second if line["type"] == "log" and line["source"] != "system"] == [
        "built in attempt 1 nil",
        "deployed",
    ]


async def test_a_followed_log_is_whole_when_a_replica_is_killed(installation: Installation) -> None:
    await installation.push(COUNTING)
    number = await installation.submit("counting")
    async with installation.start("logs", number, "-f", "--json") as running:
        await running.until(type="log", text="line 30")
        os.kill(installation.orchestrator(installation.addresses[0].rpartition(":")[2]), signal.SIGKILL)
        assert await running.rest() == 0
    texts = [line["text"] for line in running.lines if line["type"] == "log" and line["source"] == "lua"]
    assert texts == [f"line {index}" for index in range(1, 401)]
    assert running.lines[-1]["state"] == "succeeded"


async def test_a_job_whose_runner_is_killed_is_run_again(installation: Installation) -> None:
    await installation.push(LOSING)
    number = await installation.submit("losing")
    async with installation.start("logs", number, "-f", "--json") as running:
        await running.until(type="log", text="attempt 1")
        os.kill(installation.runner(), signal.SIGKILL)
        assert await running.rest() == 0
    states = [(line["attempt"], line["state"]) for line in running.lines if line["type"] == "job"]
    assert states[0] == (0, "queued")
    assert states[1] == (1, "running")
    assert states[-1] == (2, "succeeded")
    shown = await installation("job", number, "--json")
    assert (shown.lines[0]["state"], shown.lines[0]["attempt"]) == ("succeeded", 2)
    assert containers_of(shown.lines[0]["id"]) == []


async def test_jobs_wait_out_a_restart_of_everything_and_the_first_token_is_shown_once(
    tmp_path: Path, image_map: dict[str, str]
) -> None:
    assert image_map, "images are there"
    ports = two_ports()
    async with up(tmp_path, ports) as (installation, said):
        assert "admin token" in said
        await installation.push(LOSING, COUNTING)
        os.kill(installation.runner(), signal.SIGSTOP)
        stopped = installation.runner()
        number = await installation.submit("counting")
        os.kill(stopped, signal.SIGKILL)
        installation.process.send_signal(signal.SIGTERM)
        with anyio.fail_after(SECONDS):
            assert await installation.process.wait() == 0
    async with up(tmp_path, ports) as (installation, said):
        assert "admin token" not in said
        followed = await installation("logs", number, "-f", "--json")
        assert followed.code == 0, followed
        assert followed.texts(source="lua") == [f"line {index}" for index in range(1, 401)]


async def test_a_second_up_with_the_same_state_is_refused(installation: Installation) -> None:
    second = await moonyard(
        "up", "--port", "1", cwd=installation.folder, MOONYARD_STATE_FOLDER=str(installation.state_folder)
    )
    assert second.code == 2
    assert "another `moonyard up` runs with state folder" in second.stderr


async def test_a_runner_is_registered_by_hand_and_a_used_token_is_refused(installation: Installation) -> None:
    made = await installation("token", "create", "--kind", "registration", "--name", "by hand")
    assert made.code == 0, made.stderr
    token = made.stdout.strip()
    for address, code in zip(installation.addresses, (0, 2), strict=True):
        folder = installation.folder / f"runner-{code}"
        registered = await installation(
            "runner", "register", "--name", "second", "--orchestrator", address, "--state-folder", str(folder),
            MOONYARD_REGISTRATION_TOKEN=token,
        )  # fmt: skip
        assert registered.code == code, registered
        assert (folder / "runner.toml").exists() == (code == 0)
    assert ((installation.folder / "runner-0" / "runner.toml").stat().st_mode & 0o777) == 0o600
    listed = await installation("runner", "list", "--json")
    assert "second" in {row["name"] for row in listed.lines}


def containers_of(job: str) -> list[str]:
    listed = subprocess.run(
        ["podman", "ps", "--all", "--quiet", "--filter", f"label=moonyard.job={job}"], capture_output=True, check=False
    )
    return listed.stdout.decode().split()
