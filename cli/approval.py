"""``moonyard approvals``, ``approve``, ``refuse`` and ``protection``: stages that wait for somebody's yes."""

from __future__ import annotations

import click
import msgspec

from cli import connection, settings
from cli.tables import age, print_json, print_table
from schema.approvals import (
    Approval,
    ApprovalAnswer,
    ApprovalList,
    Protection,
    ProtectionCreate,
    ProtectionList,
)
from schema.client import Client


@click.command(short_help="List the stages that wait for an approval.")
@click.argument("job", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line instead of a table.")
@settings.setting("orchestrator")
def approvals(job: str | None, *, as_json: bool, orchestrator: tuple[str, ...]) -> None:
    """List the stages that wait for an approval; with JOB, those of that job, with who answered."""
    path = "/v1/approvals" if job is None else f"{connection.job_path(job)}/approvals"
    found = connection.ask(orchestrator, lambda client: client.get(path, ApprovalList)).approvals
    if as_json:
        print_json(found)
        return
    print_table(
        ["job", "pipeline", "stage", "state", "answers", "asked (UTC)", "until (UTC)", "message"],
        [
            [
                str(row.job),
                row.pipeline,
                row.stage,
                "over" if row.state == "waiting" and row.is_over else row.state,
                _answers(row),
                age(row.asked_at),
                age(row.expires_at),
                row.message or "",
            ]
            for row in found
        ],
        "nothing waits for an approval" if job is None else f"no stage of job {job} waits or waited for an approval",
    )


@click.command(short_help="Approve a stage that waits.")
@click.argument("job")
@click.option("--stage", help="Which one; by default the one that has waited longest.")
@click.option("--comment", help="What is recorded with it.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of text.")
@settings.setting("orchestrator")
def approve(job: str, *, stage: str | None, comment: str | None, as_json: bool, orchestrator: tuple[str, ...]) -> None:
    """Let a stage of JOB begin that waits for it. Nobody approves jobs that they submitted, retried or scheduled."""
    _answer(job, ApprovalAnswer(is_yes=True, stage=stage, comment=comment), orchestrator, as_json=as_json)


@click.command(short_help="Refuse a stage that waits: it fails.")
@click.argument("job")
@click.option("--stage", help="Which one; by default the one that has waited longest.")
@click.option("--comment", help="What is recorded with it, and told in the job's log.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of text.")
@settings.setting("orchestrator")
def refuse(job: str, *, stage: str | None, comment: str | None, as_json: bool, orchestrator: tuple[str, ...]) -> None:
    """Say no to a stage of JOB that waits for an approval: it fails, with the comment as the reason."""
    _answer(job, ApprovalAnswer(is_yes=False, stage=stage, comment=comment), orchestrator, as_json=as_json)


@click.group(short_help="Say which stages wait for an approval in any case.")
def protection() -> None:
    """Say which stages wait for an approval, whatever their pipeline's file says."""


@protection.command("set", short_help="Have stages wait for an approval.")
@click.argument("pipelines")
@click.option("--stage", "stages", default="*", show_default=True, help="Its name, or a pattern.")
@click.option("--approvals", "count", type=click.IntRange(1, 10), default=1, show_default=True, help="How many.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of text.")
@settings.setting("orchestrator")
def set_protection(pipelines: str, *, stages: str, count: int, as_json: bool, orchestrator: tuple[str, ...]) -> None:
    """Have stages of PIPELINES wait for approvals; in both names, `*` stands for any text.

    \b
    moonyard protection set 'deploy-*' --stage production --approvals 2
    """
    message = ProtectionCreate(pipelines=pipelines, stages=stages, approvals=count)
    made = connection.ask(orchestrator, lambda client: client.post("/v1/protections", Protection, message))
    if as_json:
        click.echo(msgspec.json.encode(made).decode())
    else:
        counted = "an approval" if made.approvals == 1 else f"{made.approvals} approvals"
        click.echo(f"stages {made.stages} of {made.pipelines} wait for {counted}  protection {made.id}")


@protection.command("list", short_help="List what is protected.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line instead of a table.")
@settings.setting("orchestrator")
def list_protections(*, as_json: bool, orchestrator: tuple[str, ...]) -> None:
    """List the protections."""
    found = connection.ask(orchestrator, lambda client: client.get("/v1/protections", ProtectionList)).protections
    if as_json:
        print_json(found)
        return
    print_table(
        ["id", "pipelines", "stages", "approvals", "since (UTC)", "by"],
        [[row.id, row.pipelines, row.stages, str(row.approvals), age(row.created_at), row.created_by] for row in found],
        "nothing is protected: `moonyard protection set PIPELINES` does it",
    )


@protection.command(short_help="Let stages begin again as their file says.")
@click.argument("protection_id", metavar="ID")
@settings.setting("orchestrator")
def remove(protection_id: str, *, orchestrator: tuple[str, ...]) -> None:
    """Remove the protection ID."""
    path = f"/v1/protections/{connection.in_path('protection', protection_id)}"
    gone = connection.ask(orchestrator, lambda client: client.delete(path, Protection))
    click.echo(f"stages {gone.stages} of {gone.pipelines} begin as their file says")


def _answer(job: str, message: ApprovalAnswer, orchestrator: tuple[str, ...], *, as_json: bool) -> None:
    path = f"{connection.job_path(job)}/approvals"

    async def send(client: Client) -> Approval:
        return await client.post(path, Approval, message)

    answered = connection.ask(orchestrator, send)
    if as_json:
        click.echo(msgspec.json.encode(answered).decode())
        return
    more = ""
    if answered.state == "waiting":
        more = f", {sum(answer.is_yes for answer in answered.answers)} of {answered.needed} approvals"
    click.echo(f"stage {answered.stage} of job {answered.job}: {answered.state}{more}")


def _answers(row: Approval) -> str:
    given = ", ".join(f"{answer.who} {'yes' if answer.is_yes else 'no'}" for answer in row.answers)
    return f"{sum(answer.is_yes for answer in row.answers)}/{row.needed} {given}".rstrip()
