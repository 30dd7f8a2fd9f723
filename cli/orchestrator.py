"""``moonyard orchestrator``: one replica."""

from __future__ import annotations

import anyio
import click

from cli import settings
from schema.errors import MoonyardError, single_error


@click.command(short_help="Run one orchestrator before a Postgres.")
@settings.setting("database_url")
@settings.setting("host")
@settings.setting("port")
@settings.setting("lease_seconds")
@settings.setting("keep_days")
def orchestrator(
    *, database_url: str | None, host: str, port: int, lease_seconds: float, keep_days: float | None
) -> None:
    """Run an orchestrator: a stateless replica before a Postgres. Any number may run; SIGTERM drains one.

    \b
    Before the first:  moonyard db upgrade --database-url URL
    The first token:   moonyard token create --name me --database-url URL
    """
    from orchestrator import serve
    from orchestrator.settings import OrchestratorSettings

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
        database_url=database_url, host=host, port=port, lease_seconds=lease_seconds, keep_days=keep_days
    )

    async def go() -> None:
        with single_error():
            await serve.serve(chosen, started=lambda address: click.echo(f"orchestrator listens on {address}"))

    anyio.run(go, backend_options={"use_uvloop": True})
