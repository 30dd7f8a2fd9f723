from __future__ import annotations

import subprocess

import pytest

from schema.errors import ErrorInfo
from tests.orchestrator.installation import Attempt, Installation
from tests.postgres import psql

TERMINAL_COLUMNS = 120


async def history(installation: Installation) -> None:
    """A job that failed in its second attempt, one that runs, one that waits."""
    await installation.replica()
    await installation.push()
    runner = await installation.runner("builder-with-a-long-name.example.org")
    await installation.submit(inputs={"who": "a person with a name that is as long as they come"})
    [assignment] = await runner.claim()
    attempt = Attempt(assignment)
    await runner.send(attempt, attempt.state("running"), attempt.log("first try"))
    await installation.let_leases_run_out()
    [assignment] = await runner.claim()
    attempt = Attempt(assignment)
    cause = ErrorInfo(code="exit_code", message="command `make` ended with exit code 2", where="hello.lua:3")
    error = ErrorInfo(code="stage_failed", message="stage `greet` failed: command `make`", cause=cause, hint="Look.")
    await runner.send(
        attempt,
        attempt.state("running"),
        attempt.stage("running", container="docker.io/library/rust-with-a-long-name:latest"),
        attempt.log("second try"),
        attempt.command(code=2, error=cause),
        attempt.stage("failed", error=error),
        attempt.state("failed", error),
    )
    await installation.submit()
    await runner.claim()
    await installation.submit()


async def test_people_see_everything_in_the_views_and_functions(installation: Installation):
    await history(installation)
    url = installation.url
    assert "hello" in psql(url, "TABLE inspect.queue")
    jobs = psql(url, "TABLE inspect.jobs", "-At").splitlines()
    assert [line.split("|")[2] for line in jobs] == ["queued", "running", "failed"]
    assert "greet" in psql(url, "TABLE inspect.stages")
    commands = psql(url, "TABLE inspect.commands", "-At").splitlines()
    assert commands == ["1|2|greet|echo hi|2|250 ms|alpine|0123456789ab|0.125|3072 kB|5 bytes"]
    runners = psql(url, "TABLE inspect.runners", "-At").splitlines()
    assert len(runners) == 1
    assert "|online|1|4|test|" in runners[0]
    log = psql(url, "SELECT text FROM inspect.log('1')", "-At").splitlines()
    assert log == ["first try", "second try"]
    record = dict(line.split("|", 1) for line in psql(url, "SELECT * FROM inspect.job('1')", "-At").splitlines())
    assert record["state"] == "failed"
    assert record["attempt"] == "2"
    assert record["losses"] == "1"
    assert record["stage greet"].startswith("failed, ")
    assert record["error"].startswith("[stage_failed] stage `greet` failed")
    assert record["caused by"].startswith("[exit_code] hello.lua:3: ")
    by_id = "SELECT value FROM inspect.job(:'id') WHERE name = 'job';"
    assert psql(url, by_id, "-At", id=record["id"]).strip() == "1"


async def test_every_view_fits_a_terminal(installation: Installation):
    await history(installation)
    for statement in (
        "TABLE inspect.queue",
        "TABLE inspect.jobs",
        "TABLE inspect.stages",
        "TABLE inspect.commands",
        "TABLE inspect.runners",
        "TABLE inspect.throughput",
        "TABLE inspect.health",
        "TABLE inspect.locks",
        "TABLE inspect.schedules",
        "TABLE inspect.audit",
        "SELECT * FROM inspect.pipeline('hello')",
        "SELECT * FROM inspect.log('1')",
    ):
        printed = psql(installation.url, statement)
        assert max(map(len, printed.splitlines())) <= TERMINAL_COLUMNS, printed


@pytest.mark.parametrize(
    "function", ["SELECT * FROM inspect.job(:'job')", "SELECT * FROM inspect.log(:'job')"], ids=["job", "log"]
)
@pytest.mark.parametrize("job", ["99", "nonsense", ""])
async def test_a_job_that_does_not_exist_is_told_with_what_to_do(installation: Installation, function: str, job: str):
    with pytest.raises(subprocess.CalledProcessError) as raised:
        psql(installation.url, function, job=job)
    assert f"there is no job `{job}`" in raised.value.stderr
    assert "inspect.jobs" in raised.value.stderr


async def test_a_reader_sees_what_is_for_people_and_nothing_else(installation: Installation):
    await history(installation)
    url = installation.url
    role = "moonyard_reader"
    assert "failed" in psql(url, "TABLE inspect.jobs", role=role)
    assert "second try" in psql(url, "SELECT * FROM inspect.log('1')", role=role)
    assert "failed" in psql(url, "SELECT * FROM inspect.job('1')", role=role)
    for hidden in ("TABLE moonyard.tokens", "TABLE moonyard.jobs", "SELECT moonyard.job_of('1')"):
        with pytest.raises(subprocess.CalledProcessError) as raised:
            psql(url, hidden, role=role)
        assert "denied" in raised.value.stderr


@pytest.mark.parametrize(
    ("interval", "said"),
    [
        ("0.0004 s", "0 ms"),
        ("850 ms", "850 ms"),
        ("12.34 s", "12.3 s"),
        ("4 min 10 s", "4 m 10 s"),
        ("2 h 5 min", "2 h 5 m"),
        ("3 days 4 h", "3 d 4 h"),
    ],
)
async def test_durations_read_as_people_say_them(database_url: str, interval: str, said: str):
    assert psql(database_url, f"SELECT inspect.duration('{interval}')", "-At").strip() == said
