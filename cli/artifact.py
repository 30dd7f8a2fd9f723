"""``moonyard artifact``: list and get what jobs kept."""

from __future__ import annotations

import hashlib
import os
import sys
from pathlib import Path

import click

from cli import connection, settings
from cli.tables import age, print_json, print_table
from schema.client import Client
from schema.errors import MoonyardError
from schema.wire import ArtifactList


@click.group()
def artifact() -> None:
    """List and get the artifacts that jobs kept."""


@artifact.command("list", short_help="List the artifacts of a job.")
@click.argument("job")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line instead of a table.")
@settings.setting("orchestrator")
def list_artifacts(job: str, *, as_json: bool, orchestrator: tuple[str, ...]) -> None:
    """List the artifacts of the job with the number or id JOB."""
    path = connection.job_path(job)
    found = connection.ask(orchestrator, lambda client: client.get(f"{path}/artifacts", ArtifactList)).artifacts
    if as_json:
        print_json(found)
        return
    print_table(
        ["name", "stage", "bytes", "SHA-256", "kept (UTC)", "until (UTC)"],
        [
            [
                kept.name,
                kept.stage or "",
                str(kept.size_bytes),
                kept.sha256,
                age(kept.created_at),
                age(kept.expires_at),
            ]
            for kept in found
        ],
        f"job {job} kept no artifacts",
    )


@artifact.command(short_help="Get an artifact, and check its SHA-256.")
@click.argument("job")
@click.argument("name")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    help="Where to write it; by default its name here. `-` is stdout.",
)
@settings.setting("orchestrator")
def get(job: str, name: str, output: Path | None, *, orchestrator: tuple[str, ...]) -> None:
    """Get the artifact NAME of the job JOB; its SHA-256 is checked before the file appears under its name."""

    path = f"{connection.job_path(job)}/artifacts/{connection.in_path('artifact', name)}"

    async def download(client: Client) -> str:
        async with client.stream(path) as stream:
            expected = stream.headers.get("ETag", "").strip('"')
            target = output or Path(Path(name).name)
            digest = hashlib.sha256()
            if str(target) == "-":
                binary = sys.stdout.buffer
                async for chunk in stream.chunks():
                    digest.update(chunk)
                    binary.write(chunk)
                _check(name, digest.hexdigest(), expected)
                return f"{name}  SHA-256 {expected}"
            nascent = target.with_name(f".{target.name}.part")
            try:
                with nascent.open("wb") as file:
                    async for chunk in stream.chunks():
                        digest.update(chunk)
                        file.write(chunk)
                    file.flush()
                    os.fsync(file.fileno())
                _check(name, digest.hexdigest(), expected)
                nascent.rename(target)
            finally:
                nascent.unlink(missing_ok=True)
        return f"{target}  SHA-256 {expected}"

    click.echo(connection.ask(orchestrator, download), err=True)


def _check(name: str, got: str, expected: str) -> None:
    if got != expected:
        raise MoonyardError(
            f"artifact `{name}` arrived damaged: its SHA-256 is {got}, and {expected} was promised",
            code="artifact_damaged",
            hint="Get it again; if it stays so, the stored copy is damaged.",
        )
