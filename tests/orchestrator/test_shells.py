"""Shells and kept containers at the orchestrator, with both ends spoken for: no container is needed for that."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

from orchestrator import leases, shells
from schema.client import Client, OrchestratorRefused
from schema.shells import (
    AHEAD_BYTES_MAXIMUM,
    SEND_BYTES_MAXIMUM,
    ContainersKeep,
    ContainersKept,
    ContainersReleased,
    Shell,
    ShellEnd,
    ShellOpen,
    ShellOpened,
    ShellReceive,
    ShellReceived,
    ShellResize,
    ShellSend,
    ShellSent,
)
from schema.wire import Heartbeat, HeartbeatAnswer, Holding, Job, Kept, ShellWanted, Token, TokenCreate
from tests.orchestrator.installation import DEADLINE_SECONDS, Attempt, Installation, SpokenRunner

BLOCK = bytes(range(256)) * (SEND_BYTES_MAXIMUM // 256)


class Looking:
    """A job under way on a runner, at the second replica, and an admin at the first."""

    def __init__(self, installation: Installation, admin: Client, runner: SpokenRunner, job: Job) -> None:
        self.installation = installation
        self.admin = admin
        self.runner = runner
        self.job = job
        self.attempt: Attempt
        self.has_ended = False

    async def open(self, **wanted: Any) -> Shell:
        return await self.admin.post(f"/v1/jobs/{self.job.number}/shells", Shell, ShellOpen(**wanted))

    async def opened(self, **wanted: Any) -> tuple[Shell, End, End]:
        """Open a shell; give the user's end and the runner's."""
        shell = await self.open(**wanted)
        message = ShellOpened(image="alpine")
        shell = await self.runner.client.post(f"/v1/runner/shells/{shell.id}/open", Shell, message)
        return (
            shell,
            End(self.admin, f"/v1/shells/{shell.id}"),
            End(self.runner.client, f"/v1/runner/shells/{shell.id}"),
        )

    async def heartbeat(self, *kept: Kept, wait: float = 0.0) -> HeartbeatAnswer:
        held = Holding(job=self.attempt.assignment.job, attempt=self.attempt.assignment.attempt)
        message = Heartbeat(holding=[] if self.has_ended else [held], kept=list(kept), wait=wait)
        return await self.runner.client.post("/v1/runner/heartbeat", HeartbeatAnswer, message)

    async def keep(self, seconds: float = 600.0) -> None:
        """Keep the attempt's containers, and let it fail."""
        path = f"/v1/runner/jobs/{self.job.id}/1/kept"
        await self.runner.client.post(path, ContainersKept, ContainersKeep(seconds=seconds, images=["alpine"]))
        await self.runner.send(self.attempt, self.attempt.state("running"), self.attempt.state("failed"))
        self.has_ended = True


class End:
    """One end of a shell."""

    def __init__(self, client: Client, path: str) -> None:
        self.client = client
        self._path = path

    async def send(self, position: int, data: bytes = b"", **more: Any) -> ShellSent:
        return await self.client.post(f"{self._path}/send", ShellSent, ShellSend(position=position, data=data, **more))

    async def receive(self, position: int, wait: float = 20.0, **more: Any) -> ShellReceived:
        message = ShellReceive(position=position, wait=wait, **more)
        return await self.client.post(f"{self._path}/receive", ShellReceived, message)

    async def tell(self, what: str, message: Any = None) -> Shell:
        return await self.client.post(f"{self._path}/{what}", Shell, message)


@pytest.fixture
async def looking(installation: Installation) -> Looking:
    await installation.replica()
    second = await installation.replica()
    await installation.push()
    runner = await installation.runner(address=second.address)
    job = await installation.submit(keep_on_failure=600.0)
    made = Looking(installation, await installation.client(), runner, job)
    [assignment] = await runner.claim()
    assert assignment.keep_on_failure == 600.0
    made.attempt = Attempt(assignment)
    return made


def code(caught: pytest.ExceptionInfo[OrchestratorRefused]) -> tuple[int, str]:
    return caught.value.status, caught.value.code


async def test_a_runner_that_waits_hears_of_a_shell_at_once(looking: Looking) -> None:
    answers: list[HeartbeatAnswer] = []
    asked: list[Shell] = []

    async def beat() -> None:
        answers.append(await looking.heartbeat(wait=60.0))

    with anyio.fail_after(DEADLINE_SECONDS):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(beat)
            asked.append(await looking.open(stage="greet", terminal="xterm", lines=33, columns=99))
    [wanted] = answers[0].shells
    assert wanted == ShellWanted(
        id=asked[0].id,
        job=looking.job.id,
        attempt=1,
        stage="greet",
        container=None,
        command=None,
        terminal="xterm",
        lines=33,
        columns=99,
    )


async def test_bytes_that_are_sent_twice_are_stored_once_and_missing_ones_are_missed(looking: Looking) -> None:
    _, user, runner = await looking.opened()
    assert (await user.send(0, b"first")).position == 5
    assert (await user.send(0, b"first")).position == 5
    assert (await user.send(5, b"second")).position == 11
    with pytest.raises(OrchestratorRefused) as caught:
        await user.send(12, b"third")
    assert code(caught) == (422, "shell_bytes_missing")
    received = await runner.receive(0)
    assert b"".join(piece.data for piece in received.pieces) == b"firstsecond"
    again = await runner.receive(5)
    assert [piece.data for piece in again.pieces] == [b"second"]
    assert again.position == 11
    await user.send(11, is_over=True)
    assert (await runner.receive(11)).is_over


async def test_who_sends_more_than_is_taken_waits_for_who_takes(looking: Looking) -> None:
    shell, user, runner = await looking.opened()
    blocks = AHEAD_BYTES_MAXIMUM // len(BLOCK)
    for number in range(blocks):
        await runner.send(number * len(BLOCK), BLOCK)
    sent = anyio.Event()

    async def send_more() -> None:
        await runner.send(blocks * len(BLOCK), BLOCK, is_stderr=True)
        sent.set()

    received: list[ShellReceived] = []
    with anyio.fail_after(DEADLINE_SECONDS):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(send_more)
            received.append(await user.receive(0))
            assert not sent.is_set()
            await user.receive(received[0].position, wait=0.0)
            await sent.wait()
            received.append(await user.receive(received[0].position))
    pieces = [piece for answer in received for piece in answer.pieces]
    assert [piece.is_stderr for piece in pieces] == [False] * blocks + [True]
    assert b"".join(piece.data for piece in pieces) == BLOCK * (blocks + 1)
    await user.receive(received[-1].position, wait=0.0)
    assert not await looking.installation.fetch("SELECT FROM moonyard.shell_chunks WHERE shell_id = $1", shell.id)


async def test_the_runner_hears_of_another_size_and_the_user_of_the_end(looking: Looking) -> None:
    shell, user, runner = await looking.opened(lines=24, columns=80)
    await user.tell("resize", ShellResize(lines=50, columns=132))
    received = await runner.receive(0, lines=24, columns=80)
    assert (received.lines, received.columns) == (50, 132)
    await runner.send(0, b"bye")
    await runner.tell("end", ShellEnd(exit_code=3))
    last = await user.receive(0)
    assert [piece.data for piece in last.pieces] == [b"bye"]
    ended = await user.receive(3)
    assert (ended.is_over, ended.shell.state, ended.shell.exit_code, ended.shell.error) == (True, "ended", 3, None)
    assert (await runner.send(3, b"more")).state == "ended"
    assert (await looking.admin.get(f"/v1/shells/{shell.id}", Shell)).image == "alpine"


async def test_a_shell_is_for_the_token_that_opened_it_alone(looking: Looking) -> None:
    shell, _, _ = await looking.opened()
    token = await looking.admin.post("/v1/tokens", Token, TokenCreate(kind="admin", name="other"))
    other = End(await looking.installation.client(token.secret), f"/v1/shells/{shell.id}")
    resize = ShellResize(lines=1, columns=1)
    for attempt in (other.send(0, b"rm -rf /workspace\n"), other.receive(0), other.tell("resize", resize)):
        with pytest.raises(OrchestratorRefused) as caught:
            await attempt
        assert code(caught) == (403, "shell_of_another")
    # Whoever may see to the installation may end it.
    assert (await other.tell("close")).error is not None


async def test_only_admins_open_shells_and_only_its_runner_has_one(looking: Looking) -> None:
    shell, _, _ = await looking.opened()
    stranger = await looking.installation.runner("stranger")
    registration = await looking.admin.post("/v1/tokens", Token, TokenCreate(kind="registration", name="r"))
    for client in (stranger.client, await looking.installation.client(registration.secret)):
        with pytest.raises(OrchestratorRefused) as caught:
            await client.post(f"/v1/jobs/{looking.job.number}/shells", Shell, ShellOpen())
        assert code(caught) == (403, "token_kind_wrong")
    end = End(stranger.client, f"/v1/runner/shells/{shell.id}")
    for attempt in (end.receive(0), end.send(0, b"x"), end.tell("end", ShellEnd(exit_code=0))):
        with pytest.raises(OrchestratorRefused) as caught:
            await attempt
        assert code(caught) == (404, "shell_unknown")
    with pytest.raises(OrchestratorRefused) as caught:
        await end.tell("open", ShellOpened(image="alpine"))
    assert code(caught) == (409, "shell_not_wanted")


async def test_a_job_without_a_container_says_why_it_has_none(looking: Looking) -> None:
    waiting = await looking.installation.submit()
    for job, wanted in (
        (str(waiting.number), "waits in the queue: it has no container yet"),
        ("4711", "there is no job"),
    ):
        with pytest.raises(OrchestratorRefused, match=wanted):
            await looking.admin.post(f"/v1/jobs/{job}/shells", Shell, ShellOpen())
    await looking.runner.send(looking.attempt, looking.attempt.state("running"), looking.attempt.state("failed"))
    with pytest.raises(OrchestratorRefused, match=r"has ended \(failed\), and no containers of it are kept") as caught:
        await looking.open()
    assert code(caught) == (409, "shell_no_container")


async def test_what_no_shell_can_be_like_is_refused(looking: Looking) -> None:
    many: tuple[dict[str, Any], ...] = (
        {"lines": 0},
        {"columns": 10_001},
        {"command": []},
        {"command": ["a\0b"]},
        {"stage": "a", "container": "b"},
        {"command": ["x" * 200_000]},
    )
    for wanted in many:
        with pytest.raises(OrchestratorRefused) as caught:
            await looking.open(**wanted)
        assert code(caught) == (422, "request_invalid"), wanted
    assert not await looking.installation.fetch("SELECT FROM moonyard.shells")


async def test_a_runner_has_no_more_than_so_many_shells(looking: Looking) -> None:
    for _ in range(shells.SHELLS_MAXIMUM):
        await looking.open()
    with pytest.raises(OrchestratorRefused) as caught:
        await looking.open()
    assert code(caught) == (409, "shells_too_many")


@pytest.mark.parametrize(
    ("what_happens", "error"),
    [
        ("TRUNCATE moonyard.shell_streams CASCADE", "shell_torn"),
        ("UPDATE moonyard.shell_streams SET read_at = now() - interval '1 hour' WHERE is_output", "shell_user_gone"),
        (
            "UPDATE moonyard.shell_streams SET read_at = now() - interval '1 hour' WHERE NOT is_output",
            "shell_runner_gone",
        ),
        ("UPDATE moonyard.shell_streams SET written_at = now() - interval '1 hour'", "shell_idle"),
        ("UPDATE moonyard.shells SET created_at = now() - interval '1 day'", "shell_too_long"),
    ],
)
async def test_a_shell_that_nobody_ends_is_ended_and_says_why(looking: Looking, what_happens: str, error: str) -> None:
    _, user, runner = await looking.opened()
    heard: list[ShellReceived] = []
    # Who waits is heard of: that is the other end than the one that is gone.
    waits, other = (user, runner) if error == "shell_runner_gone" else (runner, user)

    async def wait_for_it() -> None:
        while not heard or heard[-1].shell.state != "ended":
            heard.append(await waits.receive(0))

    with anyio.fail_after(DEADLINE_SECONDS):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(wait_for_it)
            await looking.installation.fetch(what_happens)
            await shells.end_overdue(looking.installation.replicas[0].parts)
    assert heard[-1].shell.error is not None
    assert heard[-1].shell.error.code == error
    assert (await other.receive(0)).shell.state == "ended"


async def test_a_shell_that_its_runner_does_not_open_is_ended(looking: Looking) -> None:
    shell = await looking.open()
    await looking.installation.fetch("UPDATE moonyard.shells SET created_at = now() - interval '1 minute'")
    await shells.end_overdue(looking.installation.replicas[0].parts)
    error = (await looking.admin.get(f"/v1/shells/{shell.id}", Shell)).error
    assert error is not None
    assert (error.code, error.message) == (
        "shell_not_opened",
        f"the shell in job {looking.job.number} ended: runner `runner` did not open it within 30 s",
    )
    assert not (await looking.heartbeat()).shells


async def test_a_shell_ends_with_the_attempt_that_its_runner_lost(looking: Looking) -> None:
    shell, _, _ = await looking.opened()
    here = looking.installation.replicas[0].parts
    await looking.installation.let_leases_run_out()
    await leases.lose_expired(here.database, here.notifications, losses_maximum=3)
    await shells.end_overdue(here)
    error = (await looking.admin.get(f"/v1/shells/{shell.id}", Shell)).error
    assert error is not None
    assert error.code == "shell_attempt_lost"


async def test_what_ended_shells_said_is_forgotten_after_a_while(looking: Looking) -> None:
    shell, user, runner = await looking.opened()
    await runner.send(0, b"last words")
    await runner.tell("end", ShellEnd(exit_code=0))
    here = looking.installation.replicas[0].parts
    await shells.end_overdue(here)
    assert [piece.data for piece in (await user.receive(0)).pieces] == [b"last words"]
    await looking.installation.fetch("UPDATE moonyard.shells SET ended_at = now() - interval '1 hour'")
    await shells.end_overdue(here)
    assert not await looking.installation.fetch("SELECT FROM moonyard.shell_chunks")
    assert (await user.receive(0)).shell.exit_code == 0
    assert shell.id == (await looking.admin.get(f"/v1/shells/{shell.id}", Shell)).id


async def test_what_a_runner_keeps_is_seen_shelled_into_and_released(looking: Looking) -> None:
    await looking.keep()
    [row] = await looking.installation.fetch("SELECT * FROM inspect.kept")
    assert (row["job"], row["attempt"], row["runner"], row["containers"]) == (looking.job.number, 1, "runner", "alpine")
    await looking.opened()
    kept = Kept(job=looking.job.id, attempt=1)
    assert not (await looking.heartbeat(kept)).release
    released = await looking.admin.post(f"/v1/jobs/{looking.job.number}/release", ContainersReleased)
    assert released.released == 1
    assert (await looking.heartbeat(kept)).release == [kept]
    [audited] = await looking.installation.fetch("SELECT actor, subject FROM moonyard.audit WHERE action = 'release'")
    assert (audited["actor"], audited["subject"]) == ("token test", f"job {looking.job.number}")
    with pytest.raises(OrchestratorRefused, match="no containers of it are kept"):
        await looking.open()
    again = await looking.admin.post(f"/v1/jobs/{looking.job.number}/release", ContainersReleased)
    assert again.released == 0


async def test_what_is_kept_is_released_in_psql_too_where_jobs_are_submitted_to_be_kept(looking: Looking) -> None:
    await looking.keep()
    kept = Kept(job=looking.job.id, attempt=1)
    answers: list[HeartbeatAnswer] = []

    async def beat() -> None:
        answers.append(await looking.heartbeat(kept, wait=60.0))

    with anyio.fail_after(DEADLINE_SECONDS):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(beat)
            released = "SELECT control.release($1::bigint)"
            assert await looking.installation.database.value(released, looking.job.number) == 1
    assert answers[0].release == [kept]
    await looking.installation.fetch("SELECT control.submit('hello', keep_on_failure => interval '30 minutes')")
    [assignment] = await looking.runner.claim()
    assert assignment.keep_on_failure == 1800.0


async def test_what_a_runner_does_not_name_any_more_is_gone_and_what_nobody_knows_is_removed(looking: Looking) -> None:
    await looking.keep()
    await looking.heartbeat()
    assert await looking.installation.fetch("SELECT FROM moonyard.kept_containers"), "it may have come meanwhile"
    await looking.installation.fetch("UPDATE moonyard.kept_containers SET kept_at = now() - interval '1 minute'")
    await looking.heartbeat()
    assert not await looking.installation.fetch("SELECT FROM moonyard.kept_containers")
    kept = Kept(job=looking.job.id, attempt=1)
    assert (await looking.heartbeat(kept)).release == [kept]


async def test_only_who_has_an_attempt_keeps_its_containers(looking: Looking) -> None:
    stranger = await looking.installation.runner("stranger")
    path = f"/v1/runner/jobs/{looking.job.id}/1/kept"
    with pytest.raises(OrchestratorRefused) as caught:
        await stranger.client.post(path, ContainersKept, ContainersKeep(seconds=1.0, images=[]))
    assert code(caught) == (409, "attempt_gone")
