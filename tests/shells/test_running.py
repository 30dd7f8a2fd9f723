"""Shells in containers of jobs that run."""

from __future__ import annotations

import anyio

from cli.main import EXIT_ERROR, EXIT_INTERRUPTED
from schema.shells import AHEAD_BYTES_MAXIMUM, SEND_BYTES_MAXIMUM
from tests.shells.conftest import Debugged, is_running

WAITING = """
return { name = "waiting", stages = { { name = "build", script = function()
  process.run({ command = "sh", args = { "-c", "echo begun; until test -e go; do sleep 0.05; done; echo went" } })
end } } }
"""


async def test_what_is_typed_runs_in_the_jobs_container_and_the_exit_code_is_the_shells(debugged: Debugged) -> None:
    job = await debugged.submit(WAITING)
    await debugged.log_until(job, "begun")
    with debugged.terminal(job) as shell:
        await shell.sees("Enter ~. closes it")
        await shell.sees("# ")
        shell.type("echo $((40 + 2)) in $PWD as $MOONYARD_JOB_NUMBER; stty size\r")
        await shell.sees(f"42 in /workspace as {job.number}")
        await shell.sees("30 100")
        shell.resize(50, 132)
        shell.type("until test \"$(stty size)\" = '50 132'; do :; done; echo resized\r")
        await shell.sees("\nresized")
        shell.type("exit 7\r")
        assert await shell.ends() == 7
        assert shell.mode() == shell.mode_before
    debugged.go(job)
    assert (await debugged.ended(job)).state == "succeeded"


async def test_a_shell_without_a_terminal_pipes_bytes_and_streams_as_they_are(debugged: Debugged) -> None:
    job = await debugged.submit(WAITING)
    await debugged.log_until(job, "begun")
    every_byte = bytes(range(256)) * 2000
    turned = await debugged.piped_bytes(job, "--", "sh", "-c", "cat; echo problem >&2; exit 3", stdin=every_byte)
    assert turned == (3, every_byte, b"problem\n")
    commands = await debugged.piped(job, stdin=b"echo one\nhostname -f >/dev/null; echo two; exit 4\n")
    assert (commands.code, commands.stdout) == (4, "one\ntwo\n")
    left = await debugged.piped(job, "--", "sh", "-c", "sleep 1004 >/dev/null 2>&1 & exit 0")
    assert left.code == 0
    assert not is_running("sleep 1004")
    debugged.go(job)
    assert (await debugged.ended(job)).state == "succeeded"


async def test_a_flood_comes_whole_and_never_more_of_it_is_on_its_way_than_a_little(debugged: Debugged) -> None:
    job = await debugged.submit(WAITING)
    await debugged.log_until(job, "begun")
    largest = 0

    async def look() -> None:
        nonlocal largest
        while True:
            [row] = await debugged.installation.fetch("SELECT sum(length(data)) AS size FROM moonyard.shell_chunks")
            largest = max(largest, row["size"] or 0)
            await anyio.sleep(0.02)

    came: list[tuple[int, bytes, bytes]] = []
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(look)
        came.append(await debugged.piped_bytes(job, "--", "sh", "-c", "yes | head -c 20000000"))
        tasks.cancel_scope.cancel()
    assert came == [(0, b"y\n" * 10_000_000, b"")]
    assert 0 < largest <= AHEAD_BYTES_MAXIMUM + SEND_BYTES_MAXIMUM
    debugged.go(job)
    assert (await debugged.ended(job)).state == "succeeded"


async def test_ctrl_c_goes_to_the_program_and_the_escape_closes_the_shell_and_kills_all_in_it(
    debugged: Debugged,
) -> None:
    job = await debugged.submit(WAITING)
    await debugged.log_until(job, "begun")
    with debugged.terminal(job) as shell:
        await shell.sees("# ")
        assert shell.mode() != shell.mode_before
        shell.type("sleep 1001\r")
        await debugged.until(lambda: is_running("sleep 1001"))
        shell.type("\x03")
        await shell.sees("# ")
        shell.type("(trap '' HUP; sleep 1002) & echo b''egun\r")
        await shell.sees("begun")
        await debugged.until(lambda: is_running("sleep 1002"))
        shell.type("sleep 1003\r~.")
        assert await shell.ends() == EXIT_INTERRUPTED
        assert shell.mode() == shell.mode_before
    await debugged.until(lambda: not is_running("sleep 1001", "sleep 1002", "sleep 1003"))
    await debugged.until_ended(job, "shell_closed")
    debugged.go(job)
    assert (await debugged.ended(job)).state == "succeeded"


async def test_a_shell_whose_container_is_removed_ends_with_a_clear_word(debugged: Debugged) -> None:
    job = await debugged.submit(WAITING)
    await debugged.log_until(job, "begun")
    with debugged.terminal(job) as shell:
        await shell.sees("# ")
        debugged.go(job)
        assert await shell.ends() == EXIT_ERROR
        assert b"was removed: its part of the job has ended" in shell.screen
    assert (await debugged.ended(job)).state == "succeeded"


async def test_several_shells_in_one_job_and_what_they_do_are_seen_in_psql(debugged: Debugged) -> None:
    job = await debugged.submit(WAITING)
    await debugged.log_until(job, "begun")
    with debugged.terminal(job) as first, debugged.terminal(job, "--stage", "build") as second:
        await first.sees("# ")
        await second.sees("# ")
        first.type("echo from the first > note; exit\r")
        assert await first.ends() == 0
        second.type("cat note; exit\r")
        await second.sees("\nfrom the first")
        assert await second.ends() == 0
    shells = await debugged.installation.fetch("SELECT * FROM inspect.shells WHERE job = $1", job.number)
    assert [(row["job"], row["actor"], row["state"], row["code"]) for row in shells] == [
        (job.number, "token test", "ended", 0)
    ] * 2
    audit = await debugged.installation.fetch(
        "SELECT actor FROM moonyard.audit WHERE action = 'shell' AND subject = $1", f"job {job.number}"
    )
    assert [row["actor"] for row in audit] == ["token test"] * 2
    debugged.go(job)
    assert (await debugged.ended(job)).state == "succeeded"


async def test_a_place_that_is_not_there_is_told_with_those_that_are(debugged: Debugged) -> None:
    job = await debugged.submit(WAITING)
    await debugged.log_until(job, "begun")
    for options, wanted in (
        (("--container", "docker.io/library/debian:bookworm"), "of image `docker.io/library/debian:bookworm`"),
        (("--stage", "test"), "of stage `test`"),
    ):
        refused = await debugged.piped(job, *options, "--", "true")
        assert refused.code == EXIT_ERROR
        assert f"the job has no container {wanted} now: there are those of `docker.io/library/alpine" in refused.stderr
    named = await debugged.piped(job, "--container", "docker.io/library/alpine:latest", "--", "echo", "here")
    assert named.stdout == "here\n"
    missing = await debugged.piped(job, "--", "no-such-program")
    assert missing.code == EXIT_ERROR
    assert "command `no-such-program` not found" in missing.stderr
    with debugged.terminal(job, "--", "no-such-program") as shell:
        assert await shell.ends() == EXIT_ERROR
        assert b"command `no-such-program` not found" in shell.screen
    debugged.go(job)
    assert (await debugged.ended(job)).state == "succeeded"


async def test_a_runner_whose_owner_forbids_shells_opens_none(debugged: Debugged) -> None:
    async with debugged.runner("closed", shells=False):
        job = await debugged.submit(WAITING.replace('name = "waiting"', 'name = "closed", tags = { "closed" }'))
        await debugged.log_until(job, "begun")
        refused = await debugged.piped(job, "--", "true")
        assert refused.code == EXIT_ERROR
        assert "this runner's owner allows no shells here" in refused.stderr
        debugged.go(job)
        assert (await debugged.ended(job)).state == "succeeded"
