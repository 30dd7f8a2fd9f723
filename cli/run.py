"""``moonyard run``: a pipeline file here and now."""

from __future__ import annotations

import logging
import os
import signal
import sys
from contextlib import suppress
from pathlib import Path
from typing import Final

import anyio
import anyio.abc
import click

from cli import engine as engine_options
from cli import given_secrets, redact, settings
from cli import web as web_options
from cli.display import Display, display
from cli.duration import Duration
from cli.engine import EngineOptions
from cli.main import EXIT_ERROR, EXIT_JOB_FAILED
from cli.web import WebOptions
from schema import times
from schema.errors import ErrorInfo, MoonyardError, single_error
from schema.events import JobEvent, encode_line
from schema.states import JobState
from schema.wire import SOURCE_BYTES_MAXIMUM

ARTIFACT_FOLDER: Final = Path(".moonyard") / "artifacts"


@click.command(short_help="Run a pipeline file here and now, without a server.")
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--input", "inputs", multiple=True, metavar="NAME=VALUE", help="An input of the pipeline; may be repeated."
)
@click.option(
    "--secret",
    "secrets",
    multiple=True,
    metavar="NAME[=@FILE]",
    help="A secret that the pipeline may have: from the environment variable of that name, or from a file that only "
    "you can read; may be repeated.",
)
@click.option(
    "--secrets-file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="A file of secrets, NAME=VALUE a line, that only you can read.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line instead of text.")
@click.option("-v", "--verbose", is_flag=True, help="Show debug lines too.")
@click.option(
    "--keep-on-failure",
    type=Duration(),
    metavar="DURATION",
    help="Keep its containers and workspace for so long if it fails, or until Ctrl-C.",
)
@engine_options.options
@web_options.options
@settings.setting("state_folder")
@settings.setting("cache_budget")
@settings.setting("plugin_folder")
def run(
    file: Path,
    inputs: tuple[str, ...],
    secrets: tuple[str, ...],
    *,
    secrets_file: Path | None,
    as_json: bool,
    verbose: bool,
    keep_on_failure: float | None,
    engine: EngineOptions,
    web: WebOptions,
    state_folder: Path,
    cache_budget: int,
    plugin_folder: Path | None,
) -> int:
    """Run the pipeline FILE here and now: the sandbox and containers of a real runner, no server and no database.

    \b
    Exit code 0: the job succeeded. 1: it failed or was cancelled (Ctrl-C). 2: it could not be run at all.
    Artifacts are kept in .moonyard/artifacts/JOB/ below the working folder.

    \b
    Examples:
      moonyard run examples/hello.lua
      moonyard run build.lua --input ref=main --json
      moonyard run build.lua --keep-on-failure 30m
      moonyard run deploy.lua --secret DEPLOY_TOKEN
    """
    if not verbose:
        logging.getLogger().setLevel(logging.WARNING)
    shown = display(as_json=as_json, verbose=verbose)
    try:
        from plugins import sources
        from plugins.fetched import FetchedPlugins
        from runner import local

        source = read_pipeline(file)
        given: dict[str, object] = dict(parse_inputs(inputs))
        given_to_it = given_secrets.read(secrets, secrets_file)
        redacted = redact.chosen()
        stop, kill, keeping = anyio.Event(), anyio.Event(), anyio.Event()

        async def go() -> JobEvent:
            final: JobEvent | None = None
            with single_error():
                async with anyio.create_task_group() as tasks:
                    await tasks.start(_stop_on_signal, stop, kill, keeping)
                    final = await local.run(
                        filename=os.fsencode(file.name).decode(errors="backslashreplace"),
                        source=source,
                        inputs=given,
                        engine_settings=engine.settings(state_folder),
                        artifact_folder=ARTIFACT_FOLDER,
                        print_lines=lambda lines: _print(shown, lines),
                        stop=stop,
                        kill=kill,
                        cache_budget=cache_budget,
                        catalogue=sources.here(
                            plugin_folder, file.parent, fetched=FetchedPlugins(settings.fetched_plugins())
                        ),
                        keep_on_failure=keep_on_failure,
                        kept=keeping.set,
                        web_settings=web.settings(),
                        redact_settings=redacted,
                        secrets=given_to_it,
                    )
                    tasks.cancel_scope.cancel()
            assert final is not None, "a run that raised nothing has a final event"
            return final

        final = anyio.run(go)
    except MoonyardError as error:
        _end_with("failed", error.info, shown, as_json=as_json)
        raise
    except click.UsageError as error:
        _end_with("failed", ErrorInfo(code="usage", message=error.format_message()), shown, as_json=as_json)
        raise
    except BrokenPipeError:  # whoever read our output has gone: nothing is left to tell
        _give_up_stdout()
        return EXIT_ERROR
    except KeyboardInterrupt:  # so early that there is no job yet to be cancelled
        _end_with("cancelled", None, shown, as_json=as_json)
        return EXIT_JOB_FAILED
    kept = ARTIFACT_FOLDER / final.job
    if kept.is_dir() and not as_json:
        click.echo(f"artifacts are in {kept}", err=True)
    return 0 if final.state == "succeeded" else EXIT_JOB_FAILED


async def _stop_on_signal(
    stop: anyio.Event, kill: anyio.Event, kept: anyio.Event, *, task_status: anyio.abc.TaskStatus[None]
) -> None:
    # A closed terminal ends a run as Ctrl-C does, but for one that was told to outlive it (`nohup`).
    hangup = [] if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN else [signal.SIGHUP]
    with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM, *hangup) as signals:
        task_status.started()
        async for number in signals:
            with suppress(OSError):  # whoever read our stderr may have gone first
                if kill.is_set() or (kept.is_set() and stop.is_set()):
                    click.echo("cleaning up; a moment longer ...", err=True)
                elif kept.is_set():
                    click.echo(f"{number.name}: removing what was kept ...", err=True)
                elif stop.is_set():
                    click.echo(f"{number.name}: ending it at once and removing its containers ...", err=True)
                else:
                    click.echo(f"{number.name}: cancelling the job; once more ends it at once ...", err=True)
            if stop.is_set():
                kill.set()
            stop.set()


def _print(shown: Display, lines: bytes) -> None:
    """Show lines.

    :raises BrokenPipeError: when whoever read them has gone.
    :raises MoonyardError: when they cannot be written for another reason.
    """
    try:
        shown.show(lines)
    except BrokenPipeError:
        raise
    except OSError as error:
        _give_up_stdout()
        raise MoonyardError(
            f"the job was cancelled: its output cannot be written to stdout ({error.strerror})",
            code="output_lost",
            hint="Is the disk full that stdout goes to?",
        ) from error


def _give_up_stdout() -> None:
    # What is left in the buffer must not be tried again when the process ends.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _end_with(state: JobState, error: ErrorInfo | None, shown: Display, *, as_json: bool) -> None:
    """Give programs the last line that they wait for, also where no job could be made."""
    if as_json and shown.final is None:
        from schema.ids import uuid7

        job = str(uuid7())
        line = encode_line(
            JobEvent(at=times.now(), job=job, attempt=1, seq=1, id=job, number=None, state=state, error=error)
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
            f"pipeline file `{file}` cannot be read: {(error.strerror or type(error).__name__).lower()}",
            code="file_unreadable",
            hint="A pipeline is one file of Lua." if file.is_dir() else None,
        ) from error
    return decode_pipeline(data, str(file))


def decode_pipeline(data: bytes, file: str) -> str:
    """Take what a pipeline file holds.

    :raises MoonyardError: when it is too large, or no text.
    """
    name = Path(file).name
    if len(data) > SOURCE_BYTES_MAXIMUM:
        raise MoonyardError(
            f"pipeline file `{file}` is larger than {SOURCE_BYTES_MAXIMUM // 1024} KiB, which no pipeline is",
            code="pipeline_too_large",
            where=name,
        )
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise MoonyardError(
            f"pipeline file `{file}` is not UTF-8 text (byte {error.start}): is it Lua source?",
            code="pipeline_invalid",
            where=f"{name}:{line}",
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
        if not value.isascii() and os.fsencode(value).decode(errors="replace") != value:
            raise click.UsageError(f"--input {name} is not UTF-8 text: {os.fsencode(value)!r}")
        parsed[name] = value
    return parsed
