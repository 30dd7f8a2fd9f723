"""Traces of jobs, received by a real receiver; and nothing of them where none are asked for."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import aiohttp
import anyio
import pytest

from runner import traces
from schema import tracing
from schema.definition import PipelineDefinition, StageDefinition
from schema.errors import ErrorInfo
from schema.wire import Assignment
from tests import otlp
from tests.cli.command import ROOT, SECONDS, environment, moonyard
from tests.cli.test_service_log import saying
from tests.orchestrator.installation import installation

SOURCE = """
return { name = "traced", stages = {
  { name = "first", script = function() process.run({ command = "/bin/echo", args = { "hi" } }) end },
  { name = "second", script = function() process.run({ command = "false" }) end },
} }
"""
TRACE = "0af7651916cd43dd8448eb211c80319c"
TRACEPARENT = f"00-{TRACE}-b7ad6b7169203331-01"
PROGRAM = """
import sys, cli.main, cli.orchestrator, cli.runner, orchestrator.serve, runner.agent
from schema import tracing
with tracing.tracer("x") as tracer:
    assert tracer is None
print([name for name in sys.modules if name.startswith(("opentelemetry", "google", "requests"))])
"""


async def test_a_trace_leads_from_the_submit_through_claim_and_attempt_to_stages_and_commands(
    tmp_path: Path, unused_port: int
):
    (tmp_path / "traced.lua").write_text(SOURCE, encoding="utf-8")
    state = {"MOONYARD_STATE_FOLDER": str(tmp_path / "state")}
    with otlp.receiver() as received:
        more = state | {"OTEL_EXPORTER_OTLP_ENDPOINT": received.endpoint, "MOONYARD_LOG_FORMAT": "json"}
        async with saying("up", "--port", str(unused_port), "--replicas", "1", cwd=tmp_path, **more) as up:
            await up.until("starts; it asks ", part="runner")
            pushed = await moonyard("pipeline", "push", "traced.lua", cwd=tmp_path, **state)
            assert pushed.code == 0, pushed.stderr
            done = await moonyard("submit", "traced", "--follow", cwd=tmp_path, TRACEPARENT=TRACEPARENT, **state)
            assert done.code == 1, done.stderr
            up.process.send_signal(signal.SIGTERM)
            assert await up.rest() == 0
    assert received.paths == {"/v1/traces"}
    submit, claim, attempt = (received.named(name) for name in ("POST /v1/jobs", "claim traced", "attempt traced"))
    stages = [received.named(f"stage {name}") for name in ("first", "second")]
    commands = [received.named(f"command {name}") for name in ("echo", "false")]
    assert submit.parent == TRACEPARENT.split("-")[2]
    assert claim.parent == submit.id
    assert attempt.parent == claim.id
    assert [stage.parent for stage in stages] == [attempt.id] * 2
    assert [command.parent for command in commands] == [stage.id for stage in stages]
    assert {span.trace for span in (submit, claim, attempt, *stages, *commands)} == {TRACE}
    assert {submit.service, claim.service} == {"moonyard-orchestrator"}
    assert {span.service for span in (attempt, *stages, *commands)} == {"moonyard-runner"}
    assert submit.attributes["http.response.status_code"] == 201
    assert [span.is_error for span in (submit, claim, attempt, *stages, *commands)] == [
        *(False, False, True),
        *(False, True),
        *(False, True),
    ]
    assert commands[0].attributes["process.command_args"] == ["/bin/echo", "hi"]
    assert commands[1].attributes["process.exit.code"] == 1
    assert attempt.attributes["error.type"] == "stage_failed"
    assert attempt.seconds >= stages[0].seconds >= commands[0].seconds > 0
    # What asks again and again makes no traces of its own.
    assert not [span for span in received.spans if "runner/" in span.name or "health" in span.name]


def test_where_no_traces_are_asked_for_nothing_of_it_is_imported():
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=environment(), capture_output=True, text=True, timeout=SECONDS, check=True
    )
    assert done.stdout == "[]\n"


async def test_traces_without_what_writes_them_are_an_error_that_says_what_to_install(tmp_path: Path):
    (tmp_path / "opentelemetry").mkdir()
    (tmp_path / "opentelemetry" / "__init__.py").touch()
    refused = await moonyard(
        *("orchestrator", "--database-url", "postgresql:///none"),
        cwd=tmp_path,
        OTEL_EXPORTER_OTLP_TRACES_ENDPOINT="http://127.0.0.1:1/v1/traces",
        PYTHONPATH=f"{tmp_path}:{ROOT}",
    )
    assert refused.code == 2
    assert "error[tracing_unusable] OTEL_EXPORTER_OTLP_TRACES_ENDPOINT asks for traces" in refused.stderr
    assert "hint: Install it: pip install 'moonyard[tracing]'" in refused.stderr


async def test_traces_in_another_protocol_are_refused(tmp_path: Path):
    refused = await moonyard(
        *("orchestrator", "--database-url", "postgresql:///none"),
        cwd=tmp_path,
        OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:1",
        OTEL_EXPORTER_OTLP_PROTOCOL="grpc",
    )
    assert refused.code == 2
    assert "error[tracing_unusable] OTEL_EXPORTER_OTLP_PROTOCOL is `grpc`" in refused.stderr


@pytest.mark.parametrize(
    "variables",
    [
        {},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": " "},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1", "OTEL_SDK_DISABLED": "true"},
        {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://127.0.0.1:1", "OTEL_TRACES_EXPORTER": "none"},
    ],
)
def test_traces_are_off_as_the_standard_says(variables: dict[str, str], monkeypatch: pytest.MonkeyPatch):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert not tracing.is_wanted()


@pytest.mark.parametrize(
    ("given", "stored"),
    [
        (TRACEPARENT, TRACEPARENT),
        (None, None),
        ("", None),
        ("00-" + "0" * 32 + "-b7ad6b7169203331-01", None),
        (f"00-{TRACE}-" + "0" * 16 + "-01", None),
        (TRACEPARENT.upper(), None),
        (TRACEPARENT + "-more", None),
        ("x" * 5000, None),
    ],
)
async def test_an_orchestrator_that_writes_no_traces_hands_the_context_on(
    given: str | None, stored: str | None, database_url: str
):
    async with installation(database_url) as made:
        await made.replica()
        await made.push()
        headers = {"Authorization": f"Bearer {made.admin_secret}"} | ({} if given is None else {"traceparent": given})
        async with (
            aiohttp.ClientSession(headers=headers) as session,
            session.post(made.replicas[0].address + "/v1/jobs", json={"pipeline": "hello"}) as response,
        ):
            assert response.status == 201
        [assignment] = await (await made.runner()).claim()
        assert assignment.traceparent == stored


class Nowhere:
    gathering_seconds = 0.0

    async def deliver(self, first_seq: int, lines: object) -> None:
        del first_seq, lines


@pytest.fixture
def received(monkeypatch: pytest.MonkeyPatch):
    with otlp.receiver() as receiver:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.endpoint)
        monkeypatch.setenv("OTEL_SERVICE_NAME", "mine")
        yield receiver


async def test_an_attempt_that_is_taken_away_ends_its_spans_and_says_so(received: otlp.Receiver):
    assignment = Assignment(
        job="j",
        number=1,
        attempt=2,
        pipeline="p",
        filename="p.lua",
        version="v",
        source="",
        definition=PipelineDefinition(name="p", stages=[StageDefinition(name="s")]),
        inputs={},
        lease_seconds=1.0,
    )
    with tracing.tracer("ours") as tracer:
        assert tracer is not None
        stream = traces.stream(tracer, assignment, Nowhere())
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(stream.deliver_all)
            await stream.job_state("running")
            await stream.stage("s", "running")
            lost = ErrorInfo(code="command_lost", message="gone")
            await stream.command("s", ["/bin/sleep", "9"], "image", code=None, duration=0.5, error=lost)
            await anyio.wait_all_tasks_blocked()
            tasks.cancel_scope.cancel()
        await stream.stage("s", "cancelled")
    attempt, stage = received.named("attempt p"), received.named("stage s")
    assert attempt.service == "mine"
    assert (attempt.is_error, attempt.attributes["error.type"]) == (True, "attempt_stopped")
    assert (attempt.parent, stage.parent) == ("", attempt.id)
    command = received.named("command sleep")
    assert command.attributes["error.type"] == "command_lost"
    assert command.seconds == pytest.approx(0.5, abs=0.1)


async def test_a_request_that_broke_is_an_error_in_its_trace(received: otlp.Receiver, database_url: str):
    async with installation(database_url) as made:
        with tracing.tracer("ours") as tracer:
            await made.replica(tracer=tracer)
            headers = {"Authorization": f"Bearer {made.admin_secret}"}
            address = made.replicas[0].address
            async with aiohttp.ClientSession(headers=headers) as session:
                async with session.get(address + "/v1/jobs/1") as response:
                    assert response.status == 404
                await made.fetch("ALTER TABLE moonyard.pipelines RENAME TO elsewhere")
                async with session.get(address + "/v1/jobs") as response:
                    assert response.status == 500
    missing, broken = received.named("GET /v1/jobs/{job}"), received.named("GET /v1/jobs")
    assert (missing.is_error, missing.attributes["url.path"]) == (False, "/v1/jobs/1")
    assert (broken.is_error, broken.attributes["http.response.status_code"]) == (True, 500)
