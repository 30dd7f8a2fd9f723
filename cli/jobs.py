"""Jobs: submit, list, look, follow, cancel, retry."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from typing import Any, BinaryIO
from urllib.parse import quote

import anyio
import click
import msgspec

from cli import connection, errors, settings
from cli.display import Display, display, styled_state
from cli.duration import Duration
from cli.main import EXIT_JOB_FAILED
from cli.run import parse_inputs
from cli.tables import age, print_json, print_table
from schema.client import Client, OrchestratorUnreachable, Stream
from schema.errors import MoonyardError
from schema.wire import Job, JobList, JobsCancel, JobsCancelled, JobsSubmit, JobsSubmitted, JobSubmit, JobTests

log = logging.getLogger(__name__)

PAUSE_SECONDS_FIRST = 0.2
PAUSE_SECONDS_MAXIMUM = 5.0
BATCH_SECONDS = 300.0
VALUE_LENGTH = 200
FOLLOW_TRIES = 20
"""How often in a row a broken follow is taken up again before it is given up: about a minute and a half."""


@click.command(short_help="Submit a job of a pipeline, or many.")
@click.argument("pipeline", required=False)
@click.option(
    "--input", "inputs", multiple=True, metavar="NAME=VALUE", help="An input of the pipeline; may be repeated."
)
@click.option("--version", help="A version's SHA-256; by default the newest.")
@click.option("--idempotency-key", help="A second submit with the same key gives the first one's job.")
@click.option(
    "--priority", type=click.IntRange(-100, 100), help="From -100 to 100: higher goes first. By default the pipeline's."
)
@click.option("--delay", type=Duration(), help="Do not start before so much time has passed: 90s, 10m, 1h30m.")
@click.option("--not-before", metavar="TIME", help="Do not start before this time: 2026-11-24T18:00:00Z.")
@click.option("--queue-timeout", type=Duration(), help="Fail when no runner took it in this time: 90s, 10m, 1h30m.")
@click.option(
    "--keep-on-failure",
    type=Duration(),
    help="Keep its containers and workspace for so long if it fails, for `moonyard shell`: 30m.",
)
@click.option(
    "--batch",
    type=click.File("rb"),
    metavar="FILE",
    help="Submit all jobs in FILE, or none: a JSON object a line with `pipeline`, `inputs` and the like; - for stdin.",
)
@click.option("-f", "--follow", is_flag=True, help="Show the job's events live, and end with its exit code.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line instead of text.")
@click.option("-v", "--verbose", is_flag=True, help="Show debug lines too.")
@settings.setting("orchestrator")
def submit(
    pipeline: str | None,
    inputs: tuple[str, ...],
    version: str | None,
    idempotency_key: str | None,
    priority: int | None,
    delay: float | None,
    not_before: str | None,
    queue_timeout: float | None,
    keep_on_failure: float | None,
    batch: BinaryIO | None,
    *,
    follow: bool,
    as_json: bool,
    verbose: bool,
    orchestrator: tuple[str, ...],
) -> int:
    """Submit a job of the pipeline named PIPELINE.

    With --follow, the exit code is the job's: 0 it succeeded, 1 it did not.

    With --batch, PIPELINE is that of the lines that name none. All jobs are queued, or none is.
    """
    if batch is not None:
        if (
            inputs
            or version
            or idempotency_key
            or priority
            or delay
            or not_before
            or queue_timeout
            or keep_on_failure
            or follow
        ):
            raise click.UsageError(
                "with --batch, what a job is like stands in its line; only PIPELINE and --json go with it"
            )
        return _submit_batch(batch, pipeline, orchestrator, as_json=as_json)
    if pipeline is None:
        raise click.UsageError("Missing argument 'PIPELINE'.")
    message = JobSubmit(
        pipeline=pipeline,
        version=version,
        inputs=dict(parse_inputs(inputs)),
        idempotency_key=idempotency_key,
        priority=priority,
        delay=delay,
        not_before=not_before,
        queue_timeout=queue_timeout,
        keep_on_failure=keep_on_failure,
    )

    async def send(client: Client) -> int:
        job = await client.post("/v1/jobs", Job, message)
        if not follow:
            if as_json:
                print_json([job])
            else:
                click.echo(f"job {job.number} queued  ({job.id})")
                click.echo(f"`moonyard logs -f {job.number}` follows it", err=True)
            return 0
        return await _show_events(client, job.id, display(as_json=as_json, verbose=verbose), follow=True)

    return connection.ask(orchestrator, send)


def _submit_batch(batch: BinaryIO, pipeline: str | None, orchestrator: tuple[str, ...], *, as_json: bool) -> int:
    messages: list[JobSubmit] = []
    for number, line in enumerate(batch, 1):
        if not line.strip():
            continue
        try:
            given = msgspec.json.decode(line, type=dict[str, Any])
            messages.append(msgspec.convert({"pipeline": pipeline, **given} if pipeline else given, JobSubmit))
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            reason = str(error)[:1].lower() + str(error)[1:]
            raise MoonyardError(
                f"line {number} of {batch.name} is no job: {reason}; nothing was submitted",
                code="batch_invalid",
                hint='A line is a JSON object such as {"pipeline": "build", "inputs": {"ref": "main"}}.',
            ) from error
    if not messages:
        raise MoonyardError(f"{batch.name} holds no jobs", code="batch_invalid")
    body = JobsSubmit(jobs=messages)
    made = connection.ask(
        orchestrator, lambda client: client.post("/v1/jobs/batch", JobsSubmitted, body, seconds=BATCH_SECONDS)
    ).jobs
    if as_json:
        print_json(made)
        return 0
    fresh = [job.number for job in made if job.fresh]
    earlier = len(made) - len(fresh)
    were = f"; {earlier} were there already" if earlier else ""
    click.echo(f"{len(fresh)} jobs queued" + (f" ({min(fresh)} to {max(fresh)})" if fresh else "") + were)
    return 0


@click.command()
@click.option(
    "--state",
    type=click.Choice(["queued", "running", "succeeded", "failed", "cancelled", "lost"]),
    help="Only jobs in this state.",
)
@click.option("--pipeline", help="Only jobs of this pipeline.")
@click.option("--limit", type=click.IntRange(1, 1000), default=20, show_default=True, help="How many at most.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line instead of a table.")
@settings.setting("orchestrator")
def jobs(state: str | None, pipeline: str | None, limit: int, *, as_json: bool, orchestrator: tuple[str, ...]) -> None:
    """List jobs, the newest first."""
    query: dict[str, str | int] = {"limit": limit}
    if state is not None:
        query["state"] = state
    if pipeline is not None:
        query["pipeline"] = pipeline
    found = connection.ask(orchestrator, lambda client: client.get("/v1/jobs", JobList, query=query)).jobs
    if as_json:
        print_json(found)
        return
    print_table(
        ["job", "pipeline", "state", "created (UTC)", "finished (UTC)", "error"],
        [
            [
                str(job.number),
                job.pipeline,
                styled_state(job.state),
                age(job.created_at),
                age(job.finished_at),
                job.error.message[:80] if job.error else "",
            ]
            for job in found
        ],
        "no such jobs: `moonyard submit PIPELINE` makes one",
    )


@click.command(short_help="Show a job: its state, stages and error.")
@click.argument("job")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of text.")
@settings.setting("orchestrator")
def job(job: str, *, as_json: bool, orchestrator: tuple[str, ...]) -> None:
    """Show the job with the number or id JOB: its state, stages, outputs, tests and error."""
    path = connection.job_path(job)
    found = connection.ask(orchestrator, lambda client: client.get(path, Job))
    if as_json:
        click.echo(msgspec.json.encode(found).decode())
        return
    click.echo(f"job {found.number}  {styled_state(found.state)}  {click.style(found.pipeline, bold=True)}")
    for name, value in {
        "id": found.id,
        "version": found.version[:12],
        "inputs": ", ".join(f"{key}={given}" for key, given in found.inputs.items()) or None,
        "priority": str(found.priority) if found.priority else None,
        "group": found.concurrency_group,
        "waits for": found.waits_for,
        "begins with": None if found.resume is None else f"stage {found.resume.stage}",
        "kept": None
        if found.containers_kept_until is None
        else f"until {found.containers_kept_until}: `moonyard shell`",
        "files kept": None if found.workspace_kept_until is None else f"until {found.workspace_kept_until}",
        "attempt": str(found.attempt),
        "trigger": _trigger(found),
        "runner": found.runner,
        "created": found.created_at,
        "started": found.started_at,
        "finished": found.finished_at,
        "cancel asked": found.cancel_requested_at,
    }.items():
        if value is not None:
            click.echo(f"  {name:<13}{value}")
    for stage in found.stages or []:
        where = f"  in {stage.container}" if stage.container else ""
        click.echo(f"  stage {stage.name}  {stage.state}{where}")
    for output in found.outputs or []:
        value = output.value if isinstance(output.value, str) else msgspec.json.encode(output.value).decode()
        click.echo(f"  output {output.name}  {_one_line(value)}  (stage {output.stage})")
    if found.tests is not None:
        _show_tests(found.tests)
    if found.error is not None:
        for line in errors.lines_of(found.error, "  "):
            click.echo(line)


def _trigger(found: Job) -> str | None:
    if found.trigger is None:
        return None
    return found.trigger.kind if found.trigger.by is None else f"{found.trigger.kind} ({found.trigger.by})"


def _show_tests(tests: JobTests) -> None:
    counts = {"passed": tests.passed, "failed": tests.failed, "errors": tests.errors, "skipped": tests.skipped}
    told = ", ".join(f"{count} {word}" for word, count in counts.items() if count or word == "passed")
    click.echo(f"  tests {told}  in {tests.duration:.1f} s")
    for test in tests.worst:
        click.echo(f"    {test.state} {test.suite + ': ' if test.suite else ''}{test.name}")
        if test.message:
            click.echo(f"      {_one_line(test.message)}")
    left = tests.failed + tests.errors - len(tests.worst)
    if left > 0:
        click.echo(f"    and {left} more: inspect.tests in psql has all")


def _one_line(text: str) -> str:
    shown = " ".join(text.replace("\x1b", "␛").split())
    return shown if len(shown) <= VALUE_LENGTH else f"{shown[: VALUE_LENGTH - 1]}…"


@click.command(short_help="Show the log and events of a job, also live.")
@click.argument("job")
@click.option("-f", "--follow", is_flag=True, help="Go on until the job ends.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line instead of text.")
@click.option("-v", "--verbose", is_flag=True, help="Show debug lines too.")
@settings.setting("orchestrator")
def logs(job: str, *, follow: bool, as_json: bool, verbose: bool, orchestrator: tuple[str, ...]) -> int:
    """Show the log and events of the job with the number or id JOB.

    With --follow, the exit code is the job's: 0 it succeeded, 1 it did not.
    """

    async def show(client: Client) -> int:
        code = await _show_events(client, job, display(as_json=as_json, verbose=verbose), follow=follow)
        return code if follow else 0

    return connection.ask(orchestrator, show)


@click.command(short_help="Cancel a job, or all that wait.")
@click.argument("job", required=False)
@click.option("--queued", is_flag=True, help="Cancel all jobs that wait, instead of one.")
@click.option("--pipeline", help="With --queued: only jobs of this pipeline.")
@click.option("--force", is_flag=True, help="End it at once: kill its commands, run no `on_cancel` or `finally` stage.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of text.")
@settings.setting("orchestrator")
def cancel(
    job: str | None, pipeline: str | None, *, queued: bool, force: bool, as_json: bool, orchestrator: tuple[str, ...]
) -> None:
    """Cancel the job with the number or id JOB: at once where it waits; where it runs, its commands are asked to end.

    What has not ended after the pipeline's `cancel_grace` is killed; then its `on_cancel` and `finally` stages run.

    With --queued, all jobs that wait are cancelled; what runs goes on.
    """
    if queued:
        if job is not None or force:
            raise click.UsageError("--force goes with a JOB" if force else "give a JOB or --queued, not both")
        body = JobsCancel(pipeline=pipeline, state="queued")
        done = connection.ask(
            orchestrator, lambda client: client.post("/v1/jobs/cancel", JobsCancelled, body, seconds=BATCH_SECONDS)
        )
        click.echo(msgspec.json.encode(done).decode() if as_json else f"{done.cancelled} jobs cancelled")
        return
    if job is None or pipeline is not None:
        raise click.UsageError("Missing argument 'JOB'." if job is None else "--pipeline goes with --queued")
    path = f"{connection.job_path(job)}/cancel" + ("?force=true" if force else "")
    found = connection.ask(orchestrator, lambda client: client.post(path, Job))
    if as_json:
        click.echo(msgspec.json.encode(found).decode())
    elif found.state == "cancelled":
        click.echo(f"job {found.number} cancelled")
    else:
        click.echo(f"job {found.number} is being cancelled; `moonyard logs -f {found.number}` shows it end")


@click.command(short_help="Run a job that ended once more, from the start or a stage.")
@click.argument("job")
@click.option("--from", "from_stage", metavar="STAGE", help="Begin with this stage; those before it are skipped.")
@click.option(
    "--without-workspace", is_flag=True, help="With --from: begin with an empty workspace, not with the kept one."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of text.")
@settings.setting("orchestrator")
def retry(
    job: str, from_stage: str | None, *, without_workspace: bool, as_json: bool, orchestrator: tuple[str, ...]
) -> None:
    """Queue the job with the number or id JOB once more: the same version and inputs, as its next attempt.

    With --from, the stages before STAGE are skipped, which all have to have succeeded, and the attempt begins with the
    workspace that was kept when the job failed (the pipeline's `keep_workspace`).
    """
    if without_workspace and from_stage is None:
        raise click.UsageError("--without-workspace goes with --from")
    path = f"{connection.job_path(job)}/retry"
    if from_stage is not None:
        path += f"?from={quote(from_stage, safe='')}" + ("&without_workspace=true" if without_workspace else "")
    found = connection.ask(orchestrator, lambda client: client.post(path, Job))
    if as_json:
        click.echo(msgspec.json.encode(found).decode())
    else:
        click.echo(f"job {found.number} queued as attempt {found.attempt + 1}")
        click.echo(f"`moonyard logs -f {found.number}` follows it", err=True)


async def _show_events(client: Client, job: str, shown: Display, *, follow: bool) -> int:
    """Show events and take a broken stream up again where it ended: a replica may die under its followers."""
    path = connection.job_path(job)
    after: str | None = None
    pause, tries = PAUSE_SECONDS_FIRST, 0
    while True:
        query: dict[str, str | int] = {"follow": "true" if follow else "false"}
        if after is not None:
            query["after"] = after
        try:
            async with client.stream(f"{path}/events", query=query) as stream:
                async for lines, last in _batches(stream):
                    shown.show(lines)
                    after = last
                    pause, tries = PAUSE_SECONDS_FIRST, 0
        except OrchestratorUnreachable as error:
            tries += 1
            if not follow or tries > FOLLOW_TRIES:
                raise
            log.warning("%s; taking the log up again in %.1f s", error.message, pause)
        if shown.final is not None or not follow:
            break
        # A replica that drains ends its streams: another one goes on.
        await anyio.sleep(pause)
        pause = min(pause * 2, PAUSE_SECONDS_MAXIMUM)
    if shown.final is None:
        return EXIT_JOB_FAILED
    return 0 if shown.final.state == "succeeded" else EXIT_JOB_FAILED


async def _batches(stream: Stream) -> AsyncIterator[tuple[bytes, str]]:
    async for line in stream.lines():
        position = msgspec.json.decode(line, type=_Position)
        yield line + b"\n", f"{position.attempt}.{position.seq}"


class _Position(msgspec.Struct):
    attempt: int
    seq: int
