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

from cli import collection, connection, redact, runner_control, service_log, settings
from cli import engine as engine_options
from cli import web as web_options
from cli.engine import EngineOptions
from cli.service_log import LogFormat
from cli.tables import age, print_json, print_table
from cli.web import WebOptions
from runner.registration import FILE_NAME, Registration
from schema import log_context, times, tracing
from schema.client import Client
from schema.errors import MoonyardError, single_error
from schema.tracing import Tracer
from schema.wire import Runner, RunnerList, RunnerRegister, RunnerRegistered


@click.group(short_help="Register and start a runner; list the runners.")
def runner() -> None:
    """Register this machine as a runner, start it, list the runners, and say what they may do."""


for _command in runner_control.COMMANDS:
    runner.add_command(_command)


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
            async with Client.open(addresses, token.strip(), tls_ca=settings.tls_ca()) as client:
                return await client.post(
                    "/v1/runners/register", RunnerRegistered, RunnerRegister(name=name, tags=list(tags))
                )

    registered = anyio.run(go)
    path = state_folder / FILE_NAME
    Registration(
        id=registered.id,
        name=registered.name,
        orchestrator=addresses,
        token=registered.token,
        token_at=times.now(),
    ).write(path)
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
@settings.setting("sandbox_require")
@settings.setting("shells")
@settings.setting("keep_on_failure_seconds")
@settings.setting("keep_on_failure_count")
@settings.setting("runner_token_days")
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
    sandbox_require: tuple[str, ...],
    shells: bool,
    keep_on_failure_seconds: float,
    keep_on_failure_count: int,
    runner_token_days: float,
    engine: EngineOptions,
    web: WebOptions,
    log_format: LogFormat,
) -> None:
    """Start the runner that was registered here. SIGTERM or Ctrl-C drains it: running jobs are finished first."""
    from runner import agent
    from runner.kept import KeepSettings
    from runner.rotation import RotationSettings

    service_log.choose(log_format)
    path = state_folder / FILE_NAME
    if not path.exists():
        raise MoonyardError(
            f"no runner is registered here ({path} does not exist)",
            code="runner_not_registered",
            hint="`moonyard runner register --orchestrator URL` does that, with a registration token.",
        )
    credentials = Registration.read(path)
    chosen = agent.AgentSettings(
        engine=engine.settings(state_folder, warm_containers=warm_containers),
        orchestrators=list(orchestrator) or credentials.orchestrator,
        token=credentials.token,
        version=importlib.metadata.version("moonyard"),
        capacity=capacity,
        cache_budget=cache_budget,
        drain_seconds=drain_seconds,
        sandbox_require=sandbox_require,
        shells=shells,
        web=web.settings(),
        tls_ca=settings.tls_ca(),
        redact=redact.chosen(),
        keep=KeepSettings(seconds_maximum=keep_on_failure_seconds, count=keep_on_failure_count),
        rotation=RotationSettings(file=path, seconds=runner_token_days * 86400),
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
        ["runner", "state", "running", "capacity", "tags", "bound to", "version", "seen (UTC)"],
        [
            [
                row.name,
                _state(row),
                str(row.running),
                str(row.capacity or ""),
                " ".join(row.tags),
                " ".join(row.pipelines),
                row.version or "",
                age(row.seen_at),
            ]
            for row in found
        ],
        "no runners yet: `moonyard token create --kind registration --name NAME`, then `moonyard runner register`",
    )


def _state(row: Runner) -> str:
    state = (
        f"revoked by {row.revoked_by}"
        if row.revoked_by
        else f"drained by {row.drained_by}"
        if row.drained_by
        else row.state
    )
    # Somebody may have a copy of it: that is to be seen.
    return f"{state}; an old token was used {age(row.token_reused_at)}" if row.token_reused_at else state


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
    path = state_folder / FILE_NAME
    return Registration.read(path).orchestrator if path.exists() else []


async def _stop_on_signal(stop: anyio.Event, *, task_status: anyio.abc.TaskStatus[None]) -> None:
    with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        task_status.started()
        async for number in signals:
            service_log.tell(f"{number.name}: draining; no new jobs are taken")
            stop.set()
