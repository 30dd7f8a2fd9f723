"""What services say of themselves: for people and for programs, with what it is about, and without secrets."""

from __future__ import annotations

import json
import logging
import signal
import subprocess
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import anyio
import anyio.abc
import pytest
from anyio.streams.buffered import BufferedByteReceiveStream
from psycopg import conninfo

from cli.service_log import JsonFormatter, TextFormatter
from orchestrator.authentication import new_secret
from schema import log_context
from schema.client import Client
from schema.wire import Job, JobSubmit, PipelinePush
from tests.cli.command import SECONDS, argv, environment, moonyard

Line = dict[str, Any]
SOURCE = 'return { name = "hello", stages = { { name = "greet", script = function() log.info("hi") end } } }\n'


class Saying:
    """A process whose stderr is read line by line, each of which has to be a JSON object."""

    def __init__(self, process: anyio.abc.Process) -> None:
        assert process.stderr is not None
        self.process = process
        self._stream = BufferedByteReceiveStream(process.stderr)
        self.lines: list[Line] = []

    async def until(self, said: str, **wanted: Any) -> Line:
        with anyio.fail_after(SECONDS):
            while True:
                line = json.loads(await self._stream.receive_until(b"\n", 1024 * 1024))
                self.lines.append(line)
                if said in line["message"] and all(line.get(name) == value for name, value in wanted.items()):
                    return line

    async def rest(self) -> int:
        with anyio.fail_after(SECONDS):
            try:
                await self.until("what nobody says")
            except anyio.IncompleteRead:
                return await self.process.wait()
        raise AssertionError


@asynccontextmanager
async def saying(*arguments: str, cwd: Path, **more: str) -> AsyncGenerator[Saying]:
    async with await anyio.open_process(
        argv(*arguments), cwd=cwd, env=environment(**more), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL
    ) as process:
        try:
            yield Saying(process)
        finally:
            if process.returncode is None:
                process.terminate()
                with anyio.move_on_after(SECONDS, shield=True):
                    await process.wait()


def record(message: str, *arguments: object, **more: Any) -> logging.LogRecord:
    return logging.LogRecord("some.module", logging.WARNING, __file__, 1, message, arguments, more.get("exc_info"))


async def test_an_orchestrator_says_as_json_what_each_request_came_to(database_url: str, tmp_path: Path):
    token = (await moonyard("token", "create", "--name", "me", cwd=tmp_path, MOONYARD_DATABASE_URL=database_url)).stdout
    with_password = conninfo.make_conninfo(database_url)
    parts = conninfo.conninfo_to_dict(with_password)
    url = f"postgresql://{parts['user']}:hush@/{parts['dbname']}?host={parts['host']}"
    settings = {"MOONYARD_DATABASE_URL": url, "MOONYARD_LOG_FORMAT": "json", "MOONYARD_LOG_LEVEL": "debug"}
    async with saying("orchestrator", "--port", "0", cwd=tmp_path, **settings) as replica:
        listening = await replica.until("orchestrator listens on ", level="info")
        address = listening["message"].split()[-1]
        headers = {"Authorization": f"Bearer {token.strip()}", "X-Request-Id": "mine-1"}
        async with aiohttp.ClientSession() as session, session.get(address + "/v1/jobs/17", headers=headers) as answer:
            assert answer.headers["X-Request-Id"] == "mine-1"
            assert (await answer.json())["request_id"] == "mine-1"
        line = await replica.until("GET /v1/jobs/17: 404", request="mine-1", job="17")
        assert line["logger"] == "orchestrator.requests"
        assert line["time"].endswith("Z")
        replica.process.send_signal(signal.SIGTERM)
        assert await replica.rest() == 0
    assert any("draining" in line["message"] for line in replica.lines)
    everything = json.dumps(replica.lines)
    assert "hush" not in everything
    assert token.strip() not in everything


async def test_what_ends_a_service_is_a_line_of_its_log(unused_port: int, tmp_path: Path):
    url = f"postgresql://me:hush@127.0.0.1:{unused_port}/yard"
    ended = await moonyard("orchestrator", "--log-format", "json", cwd=tmp_path, MOONYARD_DATABASE_URL=url)
    assert ended.code == 2
    [line] = [json.loads(line) for line in ended.stderr.splitlines()]
    assert (line["level"], line["error"]["code"]) == ("error", "database_unavailable")
    assert f"127.0.0.1:{unused_port}" in line["message"]
    assert "hush" not in ended.stderr


async def test_every_part_of_up_says_as_json_which_job_and_attempt_it_is_at_work_on(tmp_path: Path, unused_port: int):
    state = tmp_path / "state"
    more = {"MOONYARD_STATE_FOLDER": str(state), "MOONYARD_LOG_FORMAT": "json"}
    async with saying("up", "--port", str(unused_port), "--replicas", "1", cwd=tmp_path, **more) as up:
        started = await up.until("starts; it asks ", part="runner")
        address = started["message"].split()[-1]
        found = (state / "credentials.toml").read_text(encoding="utf-8")
        token = found.split('token = "')[1].split('"')[0]
        async with Client.open([address], token) as client:
            await client.post("/v1/pipelines", object, PipelinePush(filename="hello.lua", source=SOURCE))
            job = await client.post("/v1/jobs", Job, JobSubmit(pipeline="hello"))
        ended = await up.until("succeeded", part="runner", job=job.id, attempt=1)
        assert ended["runner"] == started["runner"]
        up.process.send_signal(signal.SIGTERM)
        assert await up.rest() == 0
    told = {line["part"] for line in up.lines if "part" in line}
    assert told == {"up", "postgres", "runner", f"orchestrator:{unused_port}"}
    assert all(line["level"] in {"info", "warning"} for line in up.lines)


async def test_a_form_that_does_not_exist_is_refused(tmp_path: Path):
    refused = await moonyard("orchestrator", cwd=tmp_path, MOONYARD_LOG_FORMAT="xml")
    assert refused.code == 2
    assert "'xml' is not one of 'text', 'json'" in refused.stderr


@pytest.mark.parametrize("formatter", [TextFormatter(), JsonFormatter()])
def test_no_line_tells_a_token_or_a_password(formatter: logging.Formatter):
    token = new_secret("runner")
    told = f"connecting to postgresql://me:hush%20it@db:5432/yard?x=1 as {token} failed"
    error = (ValueError, ValueError(told), None)
    message = "Bearer %s at postgresql://db/yard?user=me&password=hush%%20it&sslmode=off"
    line = formatter.format(record(message, token, exc_info=error))
    assert "hush" not in line
    assert token not in line
    for kept in ("moonyard_runner_***", "postgresql://me:***@db:5432/yard?x=1", "password=***&sslmode=off"):
        assert kept in line


def test_a_line_for_people_tells_what_it_is_about_and_stays_one_line():
    with log_context.about(job="17\nmore", attempt=2):
        log_context.note(runner="r")
        line = TextFormatter().format(record("path %s", "/a\x1b[2Jb"))
    assert line.endswith("WARNING some.module: path /a\\x1b[2Jb job=17\\x0amore attempt=2")
    assert "job=" not in TextFormatter().format(record("nothing"))


def test_what_a_line_is_about_ends_with_its_block():
    with log_context.about(request="a"):
        log_context.note(runner="r")
        with log_context.about(job="j", attempt=1):
            line = json.loads(JsonFormatter().format(record("x")))
            assert list(line) == ["time", "level", "logger", "message", "request", "runner", "job", "attempt"]
            assert (line["request"], line["runner"], line["job"], line["attempt"]) == ("a", "r", "j", 1)
        assert dict(log_context.current()) == {"request": "a", "runner": "r"}
    assert dict(log_context.current()) == {}
