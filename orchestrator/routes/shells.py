"""Routes of shells: for users, who open one, and for runners, who have it; and of the containers that are kept."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeVar
from uuid import UUID

import anyio
from litestar import Request, delete, get, post
from litestar.handlers import HTTPRouteHandler
from litestar.params import FromPath, JSONBody

from orchestrator import access, events, jobs, parts, shells
from orchestrator.access import RUNNER, needs
from orchestrator.problems import Conflict
from schema.errors import ErrorInfo, single_error
from schema.shells import (
    SEND_BYTES_MAXIMUM,
    ContainersForgotten,
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

AnyRequest = Request[Any, Any, Any]
Reply = TypeVar("Reply")
BODY_BYTES_MAXIMUM: Final = 2 * SEND_BYTES_MAXIMUM
"""Bytes take a third more in JSON."""


@post("/v1/jobs/{job:str}/shells", opt=needs("shell"), tags=["shells"], status_code=201)
async def shell_open(request: AnyRequest, job: FromPath[str], data: JSONBody[ShellOpen]) -> Shell:
    """Ask for a shell in a container of a job: one that runs, or whose containers are kept."""
    here = parts.of(request)
    found = await access.job(request, job, "shell")
    return await shells.open_shell(here, found, data, parts.actor(request), parts.identity(request).token)


@get("/v1/shells/{shell:str}", opt=needs("shell"), tags=["shells"])
async def shell_show(request: AnyRequest, shell: FromPath[str]) -> Shell:
    """Show a shell."""
    return await _permitted(request, shell)


@post(
    "/v1/shells/{shell:str}/send",
    opt=needs("shell"),
    tags=["shells"],
    status_code=200,
    request_max_body_size=BODY_BYTES_MAXIMUM,
)
async def shell_send(request: AnyRequest, shell: FromPath[str], data: JSONBody[ShellSend]) -> ShellSent:
    """Send what the user types: the answer comes when there was room for it, or tells that there was none."""
    here, found = parts.of(request), await _opened_by(request, shell)
    return await _while_asked(request, lambda: shells.send(here, found, data, is_output=False))


@post("/v1/shells/{shell:str}/receive", opt=needs("shell"), tags=["shells"], status_code=200)
async def shell_receive(request: AnyRequest, shell: FromPath[str], data: JSONBody[ShellReceive]) -> ShellReceived:
    """Wait for what the shell says."""
    here, found = parts.of(request), await _opened_by(request, shell)
    return await _while_asked(request, lambda: shells.receive(here, found, data, is_output=True))


@post("/v1/shells/{shell:str}/resize", opt=needs("shell"), tags=["shells"], status_code=200)
async def shell_resize(request: AnyRequest, shell: FromPath[str], data: JSONBody[ShellResize]) -> Shell:
    """Tell the size of the user's terminal."""
    return await shells.resize(parts.of(request), await _opened_by(request, shell), data.lines, data.columns)


@post("/v1/shells/{shell:str}/close", opt=needs("shell"), tags=["shells"], status_code=200)
async def shell_close(request: AnyRequest, shell: FromPath[str]) -> Shell:
    """End a shell: all that runs in it is killed."""
    await _permitted(request, shell)
    closed = ErrorInfo(code="shell_closed", message="the shell was closed by its user")
    return await shells.end(parts.of(request), _shell(shell), ShellEnd(error=closed))


@post("/v1/jobs/{job:str}/release", opt=needs("shell"), tags=["shells"], status_code=200)
async def containers_release(request: AnyRequest, job: FromPath[str]) -> ContainersReleased:
    """Have the kept containers of a job removed before their time."""
    here = parts.of(request)
    found = await access.job(request, job, "shell")
    await jobs.get(here.database, found)
    released = await shells.release(here.database, here.notifications, found, parts.actor(request))
    return ContainersReleased(released=released)


@post("/v1/runner/shells/{shell:str}/open", opt=RUNNER, tags=["runner"], status_code=200)
async def opened(request: AnyRequest, shell: FromPath[str], data: JSONBody[ShellOpened]) -> Shell:
    """Tell that the runner opens a shell; of several that say so, one does."""
    return await shells.opened(parts.of(request), _shell(shell), _runner(request), data.image)


@post(
    "/v1/runner/shells/{shell:str}/send",
    opt=RUNNER,
    tags=["runner"],
    status_code=200,
    request_max_body_size=BODY_BYTES_MAXIMUM,
)
async def output_send(request: AnyRequest, shell: FromPath[str], data: JSONBody[ShellSend]) -> ShellSent:
    """Send what a shell says: the answer comes when there was room for it, or tells that there was none."""
    here, found = parts.of(request), await _own(request, shell)
    return await _while_asked(request, lambda: shells.send(here, found, data, is_output=True))


@post("/v1/runner/shells/{shell:str}/receive", opt=RUNNER, tags=["runner"], status_code=200)
async def input_receive(request: AnyRequest, shell: FromPath[str], data: JSONBody[ShellReceive]) -> ShellReceived:
    """Wait for what a shell's user types, for another size of the terminal, or for the end."""
    here, found = parts.of(request), await _own(request, shell)
    return await _while_asked(request, lambda: shells.receive(here, found, data, is_output=False))


@post("/v1/runner/shells/{shell:str}/end", opt=RUNNER, tags=["runner"], status_code=200)
async def shell_end(request: AnyRequest, shell: FromPath[str], data: JSONBody[ShellEnd]) -> Shell:
    """Tell that a shell is over, after all that it said was sent."""
    return await shells.end(parts.of(request), await _own(request, shell), data)


@post("/v1/runner/jobs/{job:str}/{attempt:int}/kept", opt=RUNNER, tags=["runner"], status_code=200)
async def containers_keep(
    request: AnyRequest, job: FromPath[str], attempt: FromPath[int], data: JSONBody[ContainersKeep]
) -> ContainersKept:
    """Tell that the runner keeps the containers of an attempt that failed."""
    found = _attempt(job, attempt)
    kept = await shells.keep(parts.of(request), _runner(request), found, attempt, data)
    if kept is None:
        raise events.gone(found, attempt)
    return kept


@delete("/v1/runner/jobs/{job:str}/{attempt:int}/kept", opt=RUNNER, tags=["runner"], status_code=200)
async def containers_forget(request: AnyRequest, job: FromPath[str], attempt: FromPath[int]) -> ContainersForgotten:
    """Tell that the runner has removed the containers that it kept of an attempt."""
    found = _attempt(job, attempt)
    await shells.forget_kept(parts.of(request).database, _runner(request), found, attempt)
    return ContainersForgotten(job=str(found), attempt=attempt)


async def _while_asked(request: AnyRequest, work: Callable[[], Awaitable[Reply]]) -> Reply:
    """Wait for an answer for as long as the client waits for it."""
    answers: list[Reply] = []

    async def leave_with_client(scope: anyio.CancelScope) -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass
        scope.cancel()

    with single_error():
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(leave_with_client, tasks.cancel_scope)
            answers.append(await work())
            tasks.cancel_scope.cancel()
    if not answers:
        raise Conflict("whoever asked has gone")  # nobody reads it
    return answers[0]


async def _permitted(request: AnyRequest, text: str) -> Shell:
    """Give a shell in a job of a pipeline that whoever asks may open shells for."""
    shell = await shells.get(parts.of(request).database, _shell(text))
    if not access.visible(request, "shell").is_everything:
        await access.require_job(request, UUID(shell.job), "shell", shells.unknown(text))
    return shell


async def _opened_by(request: AnyRequest, text: str) -> UUID:
    """Give a shell that this very token opened: what is typed in it, and what it says, is for nobody else."""
    shell = UUID((await _permitted(request, text)).id)
    await shells.of_token(parts.of(request).database, shell, parts.identity(request).token)
    return shell


async def _own(request: AnyRequest, text: str) -> UUID:
    shell = _shell(text)
    await shells.of_runner(parts.of(request).database, shell, _runner(request))
    return shell


def _shell(text: str) -> UUID:
    try:
        return UUID(text)
    except ValueError:
        raise shells.unknown(text) from None


def _attempt(job: str, attempt: int) -> UUID:
    try:
        found = UUID(job)
    except ValueError:
        raise jobs.unknown(job) from None
    if not 0 < attempt < 2**31:
        raise events.unknown_attempt(job, attempt)
    return found


def _runner(request: AnyRequest) -> UUID:
    runner = parts.identity(request).runner
    assert runner is not None, "a runner's token has its runner: a constraint says so"
    return runner


HANDLERS: Final[list[HTTPRouteHandler]] = [
    shell_open,
    shell_show,
    shell_send,
    shell_receive,
    shell_resize,
    shell_close,
    containers_release,
    opened,
    output_send,
    input_receive,
    shell_end,
    containers_keep,
    containers_forget,
]
