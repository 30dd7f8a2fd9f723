"""``moonyard orchestrator``: one replica."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import anyio
import click

from cli import collection, secret_keys, service_log, settings
from cli import edge as edge_options
from cli import oidc as oidc_options
from cli.edge import EdgeOptions
from cli.oidc import OidcOptions
from cli.service_log import LogFormat
from schema import tracing
from schema.errors import MoonyardError, single_error
from schema.tracing import Tracer


@click.command(short_help="Run one orchestrator before a Postgres.")
@settings.setting("database_url")
@settings.setting("listen_url")
@settings.setting("host")
@settings.setting("port")
@settings.setting("lease_seconds")
@settings.setting("keep_days")
@settings.setting("keep_audit_days")
@settings.setting("cache_size")
@settings.setting("cache_pipeline_budget")
@settings.setting("cache_days")
@settings.setting("artifact_store")
@settings.setting("artifact_endpoint")
@settings.setting("artifact_region")
@settings.setting("plugin_folder")
@settings.setting("sandbox_require")
@settings.setting("hook_body_size")
@settings.setting("shell_idle_seconds")
@settings.setting("shell_seconds")
@settings.setting("session_seconds")
@settings.setting("secret_key_file")
@settings.setting("secret_key_command")
@settings.setting("grant_versions")
@edge_options.options
@oidc_options.options
@settings.setting("log_format")
def orchestrator(
    *,
    database_url: str | None,
    listen_url: str | None,
    host: str,
    port: int,
    lease_seconds: float,
    keep_days: float | None,
    keep_audit_days: float | None,
    cache_size: int,
    cache_pipeline_budget: int,
    cache_days: float,
    plugin_folder: Path | None,
    sandbox_require: tuple[str, ...],
    artifact_store: str | None,
    artifact_endpoint: str | None,
    artifact_region: str | None,
    hook_body_size: int,
    shell_idle_seconds: float,
    shell_seconds: float,
    session_seconds: float,
    secret_key_file: Path | None,
    secret_key_command: str | None,
    grant_versions: Literal["confirm", "follow"],
    edge: EdgeOptions,
    oidc: OidcOptions,
    log_format: LogFormat,
) -> None:
    """Run an orchestrator: a stateless replica before a Postgres. Any number may run; SIGTERM drains one.

    \b
    Before the first:  moonyard db upgrade --database-url URL
    The first account: moonyard token create --kind setup --name first --database-url URL, then moonyard login --setup
    """
    from orchestrator import serve
    from orchestrator.settings import OrchestratorSettings

    service_log.choose(log_format)
    if database_url is None:
        raise MoonyardError(
            "an orchestrator needs a Postgres, and none is named",
            code="setting_missing",
            hint=(
                "Give --database-url, MOONYARD_DATABASE_URL, or `database_url` in moonyard.toml; "
                "`moonyard up` brings one."
            ),
        )
    chosen = OrchestratorSettings(
        database_url=database_url,
        listen_url=listen_url,
        host=host,
        port=port,
        lease_seconds=lease_seconds,
        keep_days=keep_days,
        keep_audit_days=keep_audit_days,
        cache_size=cache_size,
        cache_pipeline_budget=cache_pipeline_budget,
        cache_days=cache_days,
        plugin_folder=plugin_folder,
        sandbox_require=sandbox_require,
        artifact_store=artifact_store,
        artifact_endpoint=artifact_endpoint,
        artifact_region=artifact_region,
        hook_body_size=hook_body_size,
        shell_idle_seconds=shell_idle_seconds,
        shell_seconds=shell_seconds,
        session_seconds=session_seconds,
        secret_keys=secret_keys.load(secret_key_file, secret_key_command),
        grant_versions=grant_versions,
        edge=edge.settings(),
        oidc=oidc.settings(),
    )

    def started(address: str) -> None:
        service_log.tell(f"orchestrator listens on {address}", err=False)

    async def go(tracer: Tracer | None) -> None:
        with single_error():
            await serve.serve(chosen, started=started, tracer=tracer)

    with tracing.tracer("moonyard-orchestrator") as tracer:
        collection.calm()
        anyio.run(go, tracer, backend_options={"use_uvloop": True})
