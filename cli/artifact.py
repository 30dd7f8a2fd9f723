"""``moonyard artifact``: list and get what jobs kept."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from urllib.parse import quote

import click

from cli import connection, settings
from cli.tables import age, print_json, print_table
from schema.client import Client
from schema.errors import MoonyardError
from schema.wire import ArtifactList


@click.group()
def artifact() -> None:
    """List and get the artifacts that jobs kept."""


@artifact.command("list")
@click.argument("job")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line instead of a table.")
@settings.setting("orchestrator")
def list_artifacts(job: str, *, as_json: bool, orchestrator: tuple[str, ...]) -> None:
    """List the artifacts of the job with the number or id JOB."""
    found = connection.ask(orchestrator, lambda client: client.get(f"/v1/jobs/{job}/artifacts", ArtifactList)).artifacts
    if as_json:
        print_json(found)
        return
    print_table(
        ["name", "bytes", "SHA-256", "kept (UTC)"],
        [[kept.name, str(kept.size_bytes), kept.sha256, age(kept.created_at)] for kept in found],
        f"job {job} kept no artifacts",
    )


@artifact.command()
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

    async def download(client: Client) -> str:
        async with client.stream(f"/v1/jobs/{job}/artifacts/{quote(name)}") as stream:
            expected = stream.headers.get("ETag", "").strip('"')
            target = output or Path(Path(name).name)
            digest = hashlib.sha256()
            if str(target) == "-":
                binary = click.get_binary_stream("stdout")
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
