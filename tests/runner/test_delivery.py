"""Delivery: the same bytes again until they are stored, no second time after that, and an end when told so."""

from __future__ import annotations

import hashlib
import re
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import anyio.abc
import msgspec
import pytest
from anyio.streams.buffered import BufferedByteReceiveStream

from runner.delivery import AttemptGone, OrchestratorArtifacts, OrchestratorSink
from schema.client import Client, OrchestratorRefused
from schema.wire import Artifact, EventsAccepted, ProblemDocument

JOB = "01a20f74-ea89-7548-8cfc-03692d59bfa9"
ARTIFACT = msgspec.json.encode(
    Artifact(job=JOB, name="a", sha256="", size_bytes=0, content_type="text/plain", created_at="2026-01-01T00:00:00Z")
)


def accepted(next_seq: int) -> tuple[int, bytes]:
    return 200, msgspec.json.encode(EventsAccepted(next_seq=next_seq))


def problem(status: int, code: str) -> tuple[int, bytes]:
    return status, msgspec.json.encode(ProblemDocument(title="no", status=status, detail=f"it is {code}", code=code))


class Answering:
    """An HTTP server that gives the answers of a list, one a request; None breaks the connection instead."""

    def __init__(self, answers: list[tuple[int, bytes] | None]) -> None:
        self.requests: list[tuple[str, bytes]] = []
        self._answers = answers

    async def serve(self, stream: anyio.abc.SocketStream) -> None:
        async with stream:
            reader = BufferedByteReceiveStream(stream)
            head = (await reader.receive_until(b"\r\n\r\n", 65536)).decode()
            line = head.partition("\r\n")[0].removesuffix(" HTTP/1.1")
            if length := re.search(r"(?i)content-length: (\d+)", head):
                body = await reader.receive_exactly(int(length[1]))
            else:
                body = b""
                while size := int(await reader.receive_until(b"\r\n", 100), 16):
                    body += (await reader.receive_exactly(size + 2))[:-2]
                await reader.receive_exactly(2)
            self.requests.append((line, body))
            answer = self._answers.pop(0)
            if answer is not None:
                status, data = answer
                kind = "application/json" if status < 400 else "application/problem+json"
                await stream.send(
                    f"HTTP/1.1 {status} x\r\nContent-Type: {kind}\r\nContent-Length: {len(data)}\r\n"
                    f"Connection: close\r\n\r\n".encode()
                    + data
                )


@asynccontextmanager
async def answering(*answers: tuple[int, bytes] | None) -> AsyncGenerator[tuple[Answering, Client]]:
    server = Answering(list(answers))
    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    async with listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, server.serve)
        port = listener.extra(anyio.abc.SocketAttribute.local_port)  # noqa: S610  # nothing of Django's
        with anyio.fail_after(30):
            async with Client.open([f"http://127.0.0.1:{port}"], "token") as client:
                yield server, client
        tasks.cancel_scope.cancel()


async def test_a_batch_is_sent_again_unchanged_until_it_is_stored_and_the_next_one_after_it() -> None:
    async with answering(None, problem(503, "database_unavailable"), accepted(3), accepted(4)) as (server, client):
        sink = OrchestratorSink(client, JOB, 2)
        await sink.deliver(1, [b'{"a":1}\n', b'{"b":2}\n'])
        await sink.deliver(3, [b'{"c":3}\n'])
    path = f"POST /v1/runner/jobs/{JOB}/2/events?first_seq="
    first = (path + "1", b'{"a":1}\n{"b":2}\n')
    assert server.requests == [first, first, first, (path + "3", b'{"c":3}\n')]


async def test_the_word_that_an_attempt_is_gone_ends_its_delivery() -> None:
    async with answering(problem(409, "attempt_gone")) as (server, client):
        with pytest.raises(AttemptGone, match="it is attempt_gone"):
            await OrchestratorSink(client, JOB, 1).deliver(1, [b"{}\n"])
    assert len(server.requests) == 1


async def test_a_refusal_that_a_repetition_would_not_change_ends_the_delivery() -> None:
    async with answering(problem(413, "batch_too_large")) as (server, client):
        with pytest.raises(OrchestratorRefused, match="batch_too_large"):
            await OrchestratorSink(client, JOB, 1).deliver(1, [b"{}\n"])
    assert len(server.requests) == 1


async def test_an_artifact_is_uploaded_whole_again_after_a_broken_upload_and_named_once(tmp_path: Path) -> None:
    content = bytes(range(256)) * 4096
    (tmp_path / "file").write_bytes(content)
    async with answering(None, problem(503, "busy"), (200, b"null"), (200, ARTIFACT)) as (server, client):
        with (tmp_path / "file").open("rb") as file:
            saved = await OrchestratorArtifacts(client, JOB, 1).save(file, "a", "text/plain")
    sha256 = hashlib.sha256(content).hexdigest()
    assert (saved.sha256, saved.size_bytes) == (sha256, len(content))
    assert server.requests[:3] == [(f"PUT /v1/runner/blobs/{sha256}", content)] * 3
    (line, body) = server.requests[3]
    assert line == f"POST /v1/runner/jobs/{JOB}/1/artifacts"
    assert msgspec.json.decode(body) == {
        "name": "a", "sha256": sha256, "size_bytes": len(content), "content_type": "text/plain",
    }  # fmt: skip


async def test_an_upload_is_given_up_after_some_tries_so_that_the_script_can_go_on(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    async with answering(*[problem(503, "busy")] * 5) as (server, client):
        artifacts = OrchestratorArtifacts(client, JOB, 1)
        with (tmp_path / "file").open("rb") as file, pytest.raises(OrchestratorRefused, match="busy"):
            await artifacts.save(file, "a", "text/plain")
    assert len(server.requests) == 5
