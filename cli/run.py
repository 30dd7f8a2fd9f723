"""``moonyard run``: a pipeline file here and now."""

from __future__ import annotations

import logging
import signal
import sys
from pathlib import Path

import anyio
import anyio.abc
import click

from cli import settings
from cli.display import Display, display
from cli.main import EXIT_JOB_FAILED
from schema import times
from schema.errors import MoonyardError, single_error
from schema.events import JobEvent, encode_line
from schema.wire import SOURCE_BYTES_MAXIMUM


@click.command(short_help="Run a pipeline file here and now, without a server.")
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--input", "inputs", multiple=True, metavar="NAME=VALUE", help="An input of the pipeline; may be repeated."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line instead of text.")
@click.option("-v", "--verbose", is_flag=True, help="Show debug lines too.")
@settings.setting("default_image")
@settings.setting("engine_socket")
@settings.setting("state_folder")
def run(
    file: Path,
    inputs: tuple[str, ...],
    *,
    as_json: bool,
    verbose: bool,
    default_image: str,
    engine_socket: str | None,
    state_folder: Path,
) -> int:
    """Run the pipeline FILE here and now: the sandbox and containers of a real runner, no server and no database.

    \b
    Exit code 0: the job succeeded. 1: it failed or was cancelled (Ctrl-C). 2: it could not be run at all.
    Artifacts are kept in .moonyard/artifacts/JOB/ below the working folder.

    \b
    Examples:
      moonyard run examples/hello.lua
      moonyard run build.lua --input ref=main --json
    """
    from runner import local
    from runner.engine.settings import EngineSettings

    if not verbose:
        logging.getLogger().setLevel(logging.WARNING)
    shown = display(as_json=as_json, verbose=verbose)
    try:
        source = read_pipeline(file)
        given: dict[str, object] = dict(parse_inputs(inputs))
        stop = anyio.Event()

        async def go() -> JobEvent:
            with single_error():
                async with anyio.create_task_group() as tasks:
                    await tasks.start(_stop_on_signal, stop)
                    final = await local.run(
                        filename=file.name,
                        source=source,
                        inputs=given,
                        engine_settings=EngineSettings(
                            socket=engine_socket,
                            image_map=settings.image_map(),
                            default_image=default_image,
                            state_folder=state_folder,
                        ),
                        artifact_folder=Path(".moonyard") / "artifacts",
                        print_lines=shown.show,
                        stop=stop,
                    )
                    tasks.cancel_scope.cancel()
            return final

        final = anyio.run(go)
    except MoonyardError as error:
        _end_with(error, shown, as_json=as_json)
        raise
    return 0 if final.state == "succeeded" else EXIT_JOB_FAILED


async def _stop_on_signal(stop: anyio.Event, *, task_status: anyio.abc.TaskStatus[None]) -> None:
    with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        task_status.started()
        async for number in signals:
            if stop.is_set():
                click.echo("cleaning up; a moment longer ...", err=True)
            else:
                click.echo(f"{number.name}: cancelling the job and removing its containers ...", err=True)
            stop.set()


def _end_with(error: MoonyardError, shown: Display, *, as_json: bool) -> None:
    """Give programs the last line that they wait for, also where no job could be made."""
    if as_json and shown.final is None:
        from runner.local import uuid7

        job = uuid7()
        line = encode_line(
            JobEvent(at=times.now(), job=job, attempt=1, seq=1, id=job, number=None, state="failed", error=error.info)
        )
        sys.stdout.buffer.write(line)
        sys.stdout.buffer.flush()


def read_pipeline(file: Path) -> str:
    """Read a pipeline file.

    :raises MoonyardError: when it is not there, too large, or no text.
    """
    try:
        with file.open("rb") as opened:
            data = opened.read(SOURCE_BYTES_MAXIMUM + 1)
    except FileNotFoundError as error:
        raise MoonyardError(
            f"pipeline file `{file}` does not exist", code="file_not_found", hint=_near(file) or "Is the path right?"
        ) from error
    except OSError as error:
        raise MoonyardError(
            f"pipeline file `{file}` cannot be read: {error.strerror}", code="file_unreadable"
        ) from error
    if len(data) > SOURCE_BYTES_MAXIMUM:
        raise MoonyardError(
            f"pipeline file `{file}` is larger than {SOURCE_BYTES_MAXIMUM // 1024} KiB, which no pipeline is",
            code="pipeline_too_large",
            where=file.name,
        )
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise MoonyardError(
            f"pipeline file `{file}` is not UTF-8 text (byte {error.start}): is it Lua source?",
            code="pipeline_invalid",
            where=f"{file.name}:{line}",
        ) from error


def _near(file: Path) -> str | None:
    folder = file.parent if file.parent.is_dir() else Path()
    found = sorted(path.name for path in folder.glob("*.lua"))[:8]
    return f"Lua files in {folder.resolve()}: {', '.join(found)}." if found else None


def parse_inputs(inputs: tuple[str, ...]) -> dict[str, str]:
    """Read ``NAME=VALUE`` pairs.

    :raises click.UsageError: for one without `=`, or a name given twice.
    """
    parsed: dict[str, str] = {}
    for text in inputs:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise click.UsageError(f"--input takes NAME=VALUE, got `{text}`")
        if name in parsed:
            raise click.UsageError(f"--input {name} is given twice")
        parsed[name] = value
    return parsed
