"""``moonyard shell``: a terminal in a container of a job; ``moonyard release``: what is kept is needed no longer."""

from __future__ import annotations

import signal
import sys
from contextlib import ExitStack, suppress
from typing import Final

import anyio
import anyio.abc
import click
import msgspec

from cli import connection, settings, terminal
from cli.main import EXIT_ERROR, EXIT_INTERRUPTED
from schema.client import Client
from schema.errors import MoonyardError, single_error
from schema.shell_line import Line, Sender
from schema.shells import ContainersReleased, Shell, ShellOpen, ShellReceive, ShellResize

CLOSE_SECONDS: Final = 5.0


@click.command(short_help="Open a terminal in a container of a job.")
@click.argument("job")
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
@click.option("--stage", help="In the container of this stage; by default where the newest command ran.")
@click.option("--container", metavar="IMAGE", help="In the container of this image.")
@settings.setting("orchestrator")
def shell(
    job: str,
    command: tuple[str, ...],
    stage: str | None,
    container: str | None,
    orchestrator: tuple[str, ...],
) -> int:
    """Open a terminal in a container of the job with the number or id JOB: one that runs, or whose containers are kept
    (`moonyard submit --keep-on-failure 30m`).

    COMMAND is what to run, after a `--`; by default bash, or else sh. The exit code is its own. Where stdin or stdout
    is no terminal, it has none either: stdin, stdout and stderr are piped.

    Enter ~ . closes the shell; all that runs in it is killed.
    """
    path = f"{connection.job_path(job)}/shells"
    kind = terminal.kind()
    lines, columns = terminal.size()
    wanted = ShellOpen(
        stage=stage,
        container=container,
        command=list(command) or None,
        terminal=kind,
        lines=lines,
        columns=columns,
    )

    async def go(client: Client) -> int:
        opened = await client.post(path, Shell, wanted)
        if kind is not None:
            click.echo(f"a shell in job {opened.number} on runner `{opened.runner}`: Enter ~. closes it", err=True)
        session = Session(Line(client, f"/v1/shells/{opened.id}"), has_terminal=kind is not None)
        return await session.run()

    return connection.ask(orchestrator, go)


@click.command(short_help="Remove the kept containers of a job.")
@click.argument("job")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of text.")
@settings.setting("orchestrator")
def release(job: str, *, as_json: bool, orchestrator: tuple[str, ...]) -> None:
    """Remove the containers and the workspace that are kept of the job with the number or id JOB before their time."""
    path = f"{connection.job_path(job)}/release"
    done = connection.ask(orchestrator, lambda client: client.post(path, ContainersReleased))
    if as_json:
        click.echo(msgspec.json.encode(done).decode())
    else:
        click.echo(f"what is kept of job {job} is removed" if done.released else f"nothing is kept of job {job}")


class Session:
    """The user's end of one shell. ``run`` once."""

    def __init__(self, line: Line, *, has_terminal: bool) -> None:
        self._line = line
        self._has_terminal = has_terminal
        self._code = EXIT_ERROR
        self._scope = anyio.CancelScope()

    async def run(self) -> int:
        """Run to the shell's end; give its exit code.

        :raises MoonyardError: when it ended for another reason than that its program did.
        """
        last: Shell | None = None
        try:
            with ExitStack() as stack, single_error():
                if self._has_terminal:
                    stack.enter_context(terminal.raw(sys.stdin.fileno()))
                async with anyio.create_task_group() as tasks:
                    with self._scope:
                        await tasks.start(self._watch_signals)
                        sender = Sender(self._line)
                        tasks.start_soon(sender.run)
                        tasks.start_soon(self._read, sender)
                        last = await self._show()
                    tasks.cancel_scope.cancel()
        finally:
            if last is None:
                # We leave before it does: whatever the reason, it is not to wait for us.
                with anyio.CancelScope(shield=True), anyio.move_on_after(CLOSE_SECONDS), suppress(MoonyardError):
                    await self._line.tell("close")
        if last is None:
            return self._code
        if last.error is not None:
            raise MoonyardError.from_info(last.error)
        assert last.exit_code is not None, "a shell ends with an exit code or an error"
        return last.exit_code

    async def _show(self) -> Shell:
        position = 0
        while True:
            received = await self._line.receive(ShellReceive(position=position))
            for piece in received.pieces:
                stream = sys.stderr if piece.is_stderr else sys.stdout
                await terminal.write(stream.fileno(), piece.data)
            position = received.position
            if received.shell.state == "ended" and received.is_over and not received.pieces:
                return received.shell

    async def _read(self, sender: Sender) -> None:
        escapes = terminal.Escapes()
        while data := await terminal.read(sys.stdin.fileno()):
            await sender.write(escapes.pass_on(data) if self._has_terminal else data)
            if escapes.is_closed:
                self._leave(EXIT_INTERRUPTED)
                return
        if self._has_terminal:
            self._leave(EXIT_INTERRUPTED)  # the user's terminal is gone
        sender.finish()

    def _leave(self, code: int) -> None:
        self._code = code
        self._scope.cancel()

    async def _watch_signals(self, *, task_status: anyio.abc.TaskStatus[None]) -> None:
        numbers = [signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGWINCH]
        with anyio.open_signal_receiver(*numbers) as signals:
            task_status.started()
            async for number in signals:
                if number != signal.SIGWINCH:
                    self._leave(128 + number)
                elif self._has_terminal:
                    lines, columns = terminal.size()
                    await self._line.tell("resize", ShellResize(lines=lines, columns=columns))
