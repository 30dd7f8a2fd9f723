"""Shells in containers of jobs: their state, and the bytes between a user and a runner, all in Postgres.

    user ── send ──> any replica ──> shell_streams, shell_chunks ──> any replica ── receive ──> runner
    user <─ receive ─ any replica <──────────── (the other way) <─── any replica <─── send ──── runner

                 the runner opens it              its program ended, its container is gone, its user left, ...
    wanted ─────────────────────────> open ──────────────────────────────────────────────────────> ended

Neither end speaks to the other, and neither needs the replica that it spoke to before. What is written is bounded
(``AHEAD_BYTES_MAXIMUM`` each way): a writer waits for the reader. Who waits is woken by ``Notifications``, which
gathers what there is to tell, so a flood costs Postgres some 20 notifications a second, whatever its size.

A shell whose runner cannot tell of its end any more, or whose user left without a word, is ended by ``end_overdue``.
"""

from __future__ import annotations

import logging
from typing import Final
from uuid import UUID

import anyio
import msgspec

from orchestrator import jobs
from orchestrator.database import Database, Row
from orchestrator.notifications import Listener, Notifications
from orchestrator.parts import Parts
from orchestrator.problems import Conflict, Forbidden, NotFound, RequestInvalid
from orchestrator.sql import shells as sql
from schema import times
from schema.errors import ErrorInfo
from schema.ids import uuid7
from schema.shells import (
    AHEAD_BYTES_MAXIMUM,
    SEND_BYTES_MAXIMUM,
    WAIT_SECONDS,
    ContainersKeep,
    ContainersKept,
    Shell,
    ShellEnd,
    ShellOpen,
    ShellPiece,
    ShellReceive,
    ShellReceived,
    ShellSend,
    ShellSent,
)
from schema.wire import ShellWanted

log: Final = logging.getLogger(__name__)

SHELLS_MAXIMUM: Final = 32
"""At once on one runner."""
OPEN_SECONDS: Final = 30.0
"""For the runner to open one."""
SILENT_SECONDS: Final = 60.0
"""Both ends ask for bytes all the time: one that does not is gone."""
REPORT_SECONDS: Final = 15.0
"""For the runner to tell how a shell ended, after its job did."""
LEFT_SECONDS: Final = 300.0
"""For the user to read what an ended shell has said."""
FORGOTTEN_SECONDS: Final = 30.0
"""A runner may have kept something after it began to say what it keeps."""
LOOK_SECONDS: Final = 5.0
"""A wake-up that was lost costs no more than this."""
PIECES: Final = 8
"""How many chunks one answer brings at most."""
SIZE_MAXIMUM: Final = 10_000
WORDS_BYTES_MAXIMUM: Final = 128 * 1024
KEEP_SECONDS_MAXIMUM: Final = 7 * 86400.0


async def open_shell(here: Parts, job: UUID, message: ShellOpen, actor: str, token: UUID) -> Shell:
    """Ask the runner of a job for a shell.

    :raises NotFound: when there is no such job.
    :raises Conflict: when it has no container, or its runner has too many shells.
    """
    _check(message)
    target = await here.database.row(sql.SHELL_TARGET, job)
    if target is None:
        raise jobs.unknown(job)
    if not target["is_running"] and not target["is_kept"]:
        raise _no_container(target)
    shell = uuid7()
    made = await here.database.row(
        sql.SHELL_OPEN,
        shell,
        job,
        target["attempt"],
        target["runner_id"],
        actor,
        message.stage,
        message.container,
        message.command,
        message.terminal,
        message.lines,
        message.columns,
        SHELLS_MAXIMUM,
        token,
    )
    if made is None:
        raise Conflict(
            f"runner `{target['runner']}` has {SHELLS_MAXIMUM} shells open, and no more are opened there",
            code="shells_too_many",
            hint="`TABLE inspect.shells` in psql lists them; end one.",
        )
    here.notifications.runner_called(target["runner_id"])
    return await get(here.database, shell)


async def get(database: Database, shell: UUID) -> Shell:
    """Give a shell as it stands.

    :raises NotFound: when there is none.
    """
    return _shell(await _row(database, shell))


async def wanted(database: Database, runner: UUID) -> list[ShellWanted]:
    """List the shells that a runner is to open."""
    return [
        ShellWanted(
            id=str(row["id"]),
            job=str(row["job_id"]),
            attempt=row["attempt"],
            stage=row["stage"],
            container=row["container"],
            command=row["command"],
            terminal=row["terminal"],
            lines=row["lines"],
            columns=row["columns"],
        )
        for row in await database.rows(sql.SHELLS_WANTED, runner)
    ]


async def opened(here: Parts, shell: UUID, runner: UUID, image: str) -> Shell:
    """Note that a runner opens a shell.

    :raises Conflict: when it is open already, or ended, or another runner's.
    """
    row = await here.database.row(sql.SHELL_OPENED, shell, runner, image)
    if row is None:
        raise Conflict(f"shell {shell} is not wanted, or not any more", code="shell_not_wanted")
    here.notifications.shell_told(shell)
    return await get(here.database, shell)


async def resize(here: Parts, shell: UUID, lines: int, columns: int) -> Shell:
    """Take note of the size of a user's terminal."""
    _check_size(lines, columns)
    await here.database.rows(sql.SHELL_RESIZE, shell, lines, columns)
    here.notifications.shell_told(shell)
    return await get(here.database, shell)


async def end(here: Parts, shell: UUID, message: ShellEnd) -> Shell:
    """End a shell; one that has ended stays as it is."""
    error = None if message.error is None else msgspec.json.encode(message.error).decode()
    await here.database.rows(sql.SHELL_END, shell, message.exit_code, error)
    here.notifications.shell_told(shell)
    return await get(here.database, shell)


async def send(here: Parts, shell: UUID, message: ShellSend, *, is_output: bool) -> ShellSent:
    """Store bytes, as soon as there is room for them; say up to where all is stored.

    :raises RequestInvalid: when they do not follow those that are stored.
    """
    if len(message.data) > SEND_BYTES_MAXIMUM:
        raise RequestInvalid(
            f"a message carries up to {SEND_BYTES_MAXIMUM} bytes, and this one has {len(message.data)}"
        )
    _check_position(message.position)
    deadline = anyio.current_time() + WAIT_SECONDS
    with here.notifications.shells.listen(shell) as bell:
        while True:
            written = await here.database.value(
                sql.STREAM_WRITE,
                shell,
                is_output,
                message.position,
                message.data,
                message.is_stderr,
                message.is_over,
                AHEAD_BYTES_MAXIMUM,
            )
            if written is not None:
                here.notifications.shell_told(shell)
                return ShellSent(position=written, state="open")
            row = await _row(here.database, shell)
            stream = await here.database.row(sql.STREAM_POSITION, shell, is_output)
            if row["state"] == "ended" or stream is None or message.position < stream["written"] or stream["is_over"]:
                # There is nobody for it any more; or it came before, and the answer was lost.
                return ShellSent(position=message.position + len(message.data), state=row["state"])
            if message.position > stream["written"]:
                raise RequestInvalid(
                    f"bytes from {message.position} on do not follow: {stream['written']} are stored",
                    code="shell_bytes_missing",
                )
            if not await _has_waited(here, bell, deadline):
                return ShellSent(position=message.position, state=row["state"])


async def receive(here: Parts, shell: UUID, message: ShellReceive, *, is_output: bool) -> ShellReceived:
    """Wait for bytes, for another size of the terminal, or for the end.

    :raises RequestInvalid: when the position or the time to wait cannot be.
    """
    _check_position(message.position)
    if not 0 <= message.wait <= WAIT_SECONDS:
        raise RequestInvalid(f"`wait` has to be from 0 to {WAIT_SECONDS:g} seconds")
    deadline = anyio.current_time() + message.wait
    with here.notifications.shells.listen(shell) as bell:
        before = await here.database.row(sql.STREAM_TAKE, shell, is_output, message.position)
        if before is not None and before["written"] - before["taken"] >= AHEAD_BYTES_MAXIMUM:
            here.notifications.shell_told(shell)  # there is room again
        while True:
            received = await _look(here.database, shell, message, is_output=is_output)
            is_resized = message.lines is not None and (message.lines, message.columns) != (
                received.lines,
                received.columns,
            )
            is_over = received.is_over and not message.is_over
            if received.pieces or is_over or received.shell.state == "ended" or is_resized:
                return received
            if not await _has_waited(here, bell, deadline):
                return received


async def _look(database: Database, shell: UUID, message: ShellReceive, *, is_output: bool) -> ShellReceived:
    # The end is looked for before the bytes: what was written until then is there.
    row = await _row(database, shell)
    stream = await database.row(sql.STREAM_POSITION, shell, is_output)
    rows = await database.rows(sql.STREAM_READ, shell, is_output, message.position, PIECES)
    position = message.position + sum(len(piece["data"]) for piece in rows)
    return ShellReceived(
        pieces=[ShellPiece(data=piece["data"], is_stderr=piece["is_stderr"]) for piece in rows],
        position=position,
        is_over=stream is None or (stream["is_over"] and stream["written"] <= position),
        shell=_shell(row),
        lines=row["lines"],
        columns=row["columns"],
    )


async def _has_waited(here: Parts, bell: Listener, deadline: float) -> bool:
    """Wait for something to look for; False where there is no more time to wait."""
    left = deadline - anyio.current_time()
    if left <= 0 or here.draining.is_set():
        return False
    await bell.wait(min(left, LOOK_SECONDS))
    return True


async def end_overdue(here: Parts) -> None:
    """End the shells that nobody will, and forget what the ended ones said."""
    idle, maximum = here.settings.shell_idle_seconds, here.settings.shell_seconds
    rows = await here.database.rows(sql.SHELLS_OVERDUE, OPEN_SECONDS, SILENT_SECONDS, idle, maximum, REPORT_SECONDS)
    for row in rows:
        error = _overdue(row, idle, maximum)
        log.info("a shell of job %d is ended: %s", row["number"], error.message)
        await end(here, row["id"], ShellEnd(error=error))
    await here.database.rows(sql.STREAMS_REMOVE_ENDED, LEFT_SECONDS)


async def keep(here: Parts, runner: UUID, job: UUID, attempt: int, message: ContainersKeep) -> ContainersKept | None:
    """Note that a runner keeps the containers of an attempt; None where the attempt is not the runner's."""
    if not 0 < message.seconds <= KEEP_SECONDS_MAXIMUM:
        raise RequestInvalid(f"`seconds` is {message.seconds}: expected more than 0, at most a week")
    row = await here.database.row(sql.CONTAINERS_KEEP, job, attempt, runner, message.seconds, message.images)
    return None if row is None else ContainersKept(expires_at=times.rfc3339(row["expires_at"]))


async def renew_kept(database: Database, runner: UUID, kept: list[tuple[UUID, int]]) -> list[tuple[UUID, int]]:
    """Take note of all that a runner keeps; give what it is to remove."""
    listed = [job for job, _ in kept], [attempt for _, attempt in kept]
    rows = await database.rows(sql.CONTAINERS_RENEW, runner, *listed, FORGOTTEN_SECONDS)
    return [(row["job_id"], row["attempt"]) for row in rows]


async def forget_kept(database: Database, runner: UUID, job: UUID, attempt: int) -> None:
    """Note that a runner keeps the containers of an attempt no longer."""
    await database.rows(sql.CONTAINERS_FORGET, job, attempt, runner)


async def release(database: Database, notifications: Notifications, job: UUID, actor: str) -> int:
    """Have the kept containers of a job removed; give of how many attempts there were any."""
    rows = await database.rows(sql.CONTAINERS_RELEASE, job, actor)
    for row in rows:
        notifications.runner_called(row["runner_id"])
    return len(rows)


async def of_runner(database: Database, shell: UUID, runner: UUID) -> None:
    """See that a shell is a runner's.

    :raises NotFound: when it is not.
    """
    if (await _row(database, shell))["runner_id"] != runner:
        raise unknown(shell)


async def of_token(database: Database, shell: UUID, token: UUID) -> None:
    """See that a shell was opened with a token.

    :raises Forbidden: when it was with another.
    """
    row = await _row(database, shell)
    if row["token_id"] != token:
        raise Forbidden(
            f"shell {shell} was opened by {row['actor']}, and is for that token alone",
            code="shell_of_another",
            hint="`moonyard shell JOB` opens one of your own.",
        )


def unknown(shell: object) -> NotFound:
    return NotFound(f"there is no shell `{str(shell)[:60]}`", code="shell_unknown")


async def _row(database: Database, shell: UUID) -> Row:
    row = await database.row(sql.SHELL_GET, shell)
    if row is None:
        raise unknown(shell)
    return row


def _shell(row: Row) -> Shell:
    return Shell(
        id=str(row["id"]),
        job=str(row["job_id"]),
        number=row["number"],
        attempt=row["attempt"],
        state=row["state"],
        runner=row["runner"],
        actor=row["actor"],
        image=row["image"],
        exit_code=row["exit_code"],
        error=None if row["error"] is None else msgspec.json.decode(row["error"], type=ErrorInfo),
    )


def _overdue(row: Row, idle: float, maximum: float) -> ErrorInfo:
    ended, runner = f"the shell in job {row['number']} ended", row["runner"]
    why: dict[str, ErrorInfo] = {
        "database_restarted": ErrorInfo(
            code="shell_torn", message=f"{ended}: the database was restarted, and what was on its way is lost"
        ),
        "attempt_lost": ErrorInfo(
            code="shell_attempt_lost", message=f"{ended}: runner `{runner}` was lost, and the attempt with it"
        ),
        "job_ended": ErrorInfo(
            code="shell_container_gone", message=f"{ended}: the job has ended, and its containers with it"
        ),
        "user_gone": ErrorInfo(code="shell_user_gone", message=f"{ended}: nothing was heard of its user any more"),
        "not_opened": ErrorInfo(
            code="shell_not_opened", message=f"{ended}: runner `{runner}` did not open it within {OPEN_SECONDS:g} s"
        ),
        "runner_gone": ErrorInfo(
            code="shell_runner_gone", message=f"{ended}: nothing was heard of runner `{runner}` any more"
        ),
        "idle": ErrorInfo(
            code="shell_idle",
            message=f"{ended}: nothing was typed and nothing said for {idle:g} s (`shell_idle_seconds`)",
        ),
        "too_long": ErrorInfo(
            code="shell_too_long", message=f"{ended}: it was open for {maximum:g} s (`shell_seconds`)"
        ),
    }
    return why[row["why"]]


def _no_container(target: Row) -> Conflict:
    number, state = target["number"], target["state"]
    if state == "queued":
        return Conflict(
            f"job {number} waits in the queue: it has no container yet",
            code="shell_no_container",
            hint=f"`moonyard job {number}` says why it waits.",
        )
    return Conflict(
        f"job {number} has ended ({state}), and no containers of it are kept, or not any more",
        code="shell_no_container",
        hint="`moonyard submit --keep-on-failure 30m` keeps the containers of an attempt that fails.",
    )


def _check(message: ShellOpen) -> None:
    _check_size(message.lines, message.columns)
    texts = [message.stage, message.container, message.terminal, *(message.command or [])]
    words = [text for text in texts if text is not None]
    if any("\0" in word for word in words) or sum(map(len, words)) > WORDS_BYTES_MAXIMUM:
        raise RequestInvalid("what is asked for holds a NUL character, or is too long")
    if message.command is not None and not (message.command and message.command[0]):
        raise RequestInvalid("`command` is empty: its first word names the program")
    if message.stage is not None and message.container is not None:
        raise RequestInvalid("`stage` and `container` name the place in two ways: give one of them")


def _check_size(lines: int, columns: int) -> None:
    if not (0 < lines <= SIZE_MAXIMUM and 0 < columns <= SIZE_MAXIMUM):
        raise RequestInvalid(f"a terminal has 1 to {SIZE_MAXIMUM} lines and columns, not {lines} and {columns}")


def _check_position(position: int) -> None:
    if not 0 <= position < 2**62:
        raise RequestInvalid(f"`position` is {position}, and cannot be")
