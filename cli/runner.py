"""``moonyard runner``: register this machine as a runner, start it, list all, drain."""

from __future__ import annotations

import importlib.metadata
import os
import signal
import socket
import sys
from pathlib import Path

import anyio
import anyio.abc
import click
import msgspec

from cli import collection, connection, redact, service_log, settings
from cli import engine as engine_options
from cli import web as web_options
from cli.engine import EngineOptions
from cli.service_log import LogFormat
from cli.tables import age, print_json, print_table
from cli.web import WebOptions
from schema import log_context, tracing
from schema.client import Client
from schema.errors import MoonyardError, single_error
from schema.tracing import Tracer
from schema.wire import RunnerList, RunnerRegister, RunnerRegistered, RunnersDrained

CREDENTIALS_FILE = "runner.toml"


@click.group(short_help="Register and start a runner; list the runners.")
def runner() -> None:
    """Register this machine as a runner, start it, and list the runners."""


@runner.command(short_help="Register this machine as a runner.")
@click.option("--name", default=socket.gethostname, show_default="this machine's name", help="The runner's name.")
@click.option(
    "--tag", "tags", multiple=True, help="What pipelines may ask for with `tags`: gpu, arm64, ...; may be repeated."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of text.")
@settings.setting("orchestrator")
@settings.setting("state_folder")
def register(
    name: str, tags: tuple[str, ...], *, as_json: bool, orchestrator: tuple[str, ...], state_folder: Path
) -> None:
    """Register a runner with the registration token in MOONYARD_REGISTRATION_TOKEN, or typed when asked.

    The runner's own token is kept in runner.toml in the state folder, readable by this user alone.
    An admin makes registration tokens with `moonyard token create --kind registration --name NAME`.
    """
    addresses = list(orchestrator) or [settings.DEFAULT_ADDRESS]
    token = os.environ.get("MOONYARD_REGISTRATION_TOKEN") or _ask_for_token(addresses[0])

    async def go() -> RunnerRegistered:
        with single_error():
            async with Client.open(addresses, token.strip()) as client:
                return await client.post(
                    "/v1/runners/register", RunnerRegistered, RunnerRegister(name=name, tags=list(tags))
                )

    registered = anyio.run(go)
    state_folder.mkdir(parents=True, exist_ok=True)
    quoted = ", ".join(f'"{address}"' for address in addresses)
    path = state_folder / CREDENTIALS_FILE
    settings.write_private(
        path,
        f'# Written by `moonyard runner register`.\nid = "{registered.id}"\nname = "{registered.name}"\n'
        f'orchestrator = [{quoted}]\ntoken = "{registered.token}"\n',
    )
    if as_json:
        click.echo(msgspec.json.encode({"id": registered.id, "name": registered.name, "file": str(path)}).decode())
    else:
        click.echo(f"runner `{registered.name}` is registered; `moonyard runner start` starts it")


@runner.command(short_help="Start the runner that was registered here.")
@settings.setting("orchestrator")
@settings.setting("state_folder")
@settings.setting("capacity")
@settings.setting("drain_seconds")
@settings.setting("warm_containers")
@settings.setting("cache_budget")
@settings.setting("shells")
@settings.setting("keep_on_failure_seconds")
@settings.setting("keep_on_failure_count")
@engine_options.options
@web_options.options
@settings.setting("log_format")
def start(
    *,
    orchestrator: tuple[str, ...],
    state_folder: Path,
    capacity: int,
    drain_seconds: float,
    warm_containers: int,
    cache_budget: int,
    shells: bool,
    keep_on_failure_seconds: float,
    keep_on_failure_count: int,
    engine: EngineOptions,
    web: WebOptions,
    log_format: LogFormat,
) -> None:
    """Start the runner that was registered here. SIGTERM or Ctrl-C drains it: running jobs are finished first."""
    from runner import agent
    from runner.kept import KeepSettings

    service_log.choose(log_format)
    path = state_folder / CREDENTIALS_FILE
    if not path.exists():
        raise MoonyardError(
            f"no runner is registered here ({path} does not exist)",
            code="runner_not_registered",
            hint="`moonyard runner register --orchestrator URL` does that, with a registration token.",
        )
    credentials = _Credentials.read(path)
    chosen = agent.AgentSettings(
        engine=engine.settings(state_folder, warm_containers=warm_containers),
        orchestrators=list(orchestrator) or credentials.orchestrator,
        token=credentials.token,
        version=importlib.metadata.version("moonyard"),
        capacity=capacity,
        cache_budget=cache_budget,
        drain_seconds=drain_seconds,
        shells=shells,
        web=web.settings(),
        redact=redact.chosen(),
        keep=KeepSettings(seconds_maximum=keep_on_failure_seconds, count=keep_on_failure_count),
    )

    async def go(tracer: Tracer | None) -> None:
        stop = anyio.Event()
        with single_error(), log_context.about(runner=credentials.id):
            async with anyio.create_task_group() as tasks:
                await tasks.start(_stop_on_signal, stop)
                service_log.tell(f"runner `{credentials.name}` starts; it asks {', '.join(chosen.orchestrators)}")
                await agent.serve(chosen, stop, tracer)
                tasks.cancel_scope.cancel()

    with tracing.tracer("moonyard-runner") as tracer:
        collection.calm()
        anyio.run(go, tracer, backend_options={"use_uvloop": True})


@runner.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line instead of a table.")
@settings.setting("orchestrator")
def list_runners(*, as_json: bool, orchestrator: tuple[str, ...]) -> None:
    """List the runners."""
    found = connection.ask(orchestrator, lambda client: client.get("/v1/runners", RunnerList)).runners
    if as_json:
        print_json(found)
        return
    print_table(
        ["runner", "state", "running", "capacity", "tags", "version", "seen (UTC)"],
        [
            [
                row.name,
                f"drained by {row.drained_by}" if row.drained_by else row.state,
                str(row.running),
                str(row.capacity or ""),
                " ".join(row.tags),
                row.version or "",
                age(row.seen_at),
            ]
            for row in found
        ],
        "no runners yet: `moonyard token create --kind registration --name NAME`, then `moonyard runner register`",
    )


@runner.command(short_help="Let no more jobs go to a runner.")
@click.argument("name")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of text.")
@settings.setting("orchestrator")
def drain(name: str, *, as_json: bool, orchestrator: tuple[str, ...]) -> None:
    """Let no more jobs go to the runners with the name or id NAME; what runs there goes on."""
    _drain(name, "drain", "takes no more jobs", orchestrator, as_json=as_json)


@runner.command(short_help="Let jobs go to a drained runner again.")
@click.argument("name")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of text.")
@settings.setting("orchestrator")
def undrain(name: str, *, as_json: bool, orchestrator: tuple[str, ...]) -> None:
    """Let jobs go to the runners with the name or id NAME again."""
    _drain(name, "undrain", "takes jobs again", orchestrator, as_json=as_json)


def _drain(name: str, act: str, said: str, orchestrator: tuple[str, ...], *, as_json: bool) -> None:
    if "/" in name:
        raise MoonyardError(f"there is no runner `{name}`", code="runner_unknown")
    path = f"/v1/runners/{connection.in_path('runner', name)}/{act}"
    done = connection.ask(orchestrator, lambda client: client.post(path, RunnersDrained))
    click.echo(msgspec.json.encode(done).decode() if as_json else f"runner {name} {said}")


def _ask_for_token(address: str) -> str:
    if not sys.stdin.isatty():
        raise MoonyardError(
            f"there is no registration token to show to orchestrator {address}",
            code="token_missing",
            hint=(
                "Set MOONYARD_REGISTRATION_TOKEN. An admin makes one with "
                "`moonyard token create --kind registration --name NAME`."
            ),
        )
    return click.prompt("registration token", hide_input=True, err=True)


def registered_with(state_folder: Path) -> list[str]:
    """List the orchestrators that the runner here is registered with, if it is."""
    path = state_folder / CREDENTIALS_FILE
    return _Credentials.read(path).orchestrator if path.exists() else []


class _Credentials(msgspec.Struct, frozen=True, kw_only=True):
    """What registering left in the state folder."""

    name: str
    orchestrator: list[str]
    token: str
    id: str

    @classmethod
    def read(cls, path: Path) -> _Credentials:
        try:
            return msgspec.convert(settings.read_toml(path), cls)
        except (msgspec.ValidationError, settings.SettingsInvalid) as error:
            raise settings.SettingsInvalid(
                f"{path} is not what `moonyard runner register` writes: {error}",
                hint="Register the runner again: `moonyard runner register --orchestrator URL`.",
            ) from error


async def _stop_on_signal(stop: anyio.Event, *, task_status: anyio.abc.TaskStatus[None]) -> None:
    with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        task_status.started()
        async for number in signals:
            service_log.tell(f"{number.name}: draining; no new jobs are taken")
            stop.set()
