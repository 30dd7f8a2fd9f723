"""Requests that nobody is sent: the test says what is answered."""

from __future__ import annotations

import io
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Final

import anyio.to_thread
import msgspec

from runner import files
from runner.formats import json as json_format
from runner.modules.arguments import data, word
from runner.testing import told
from runner.testing.engine import asking_stage
from runner.testing.mocks import HttpAnswer, Mocks
from runner.web.answers import Answer
from runner.web.errors import RequestFailed
from runner.web.exchange import RETRY_STATUS, Tell, Web
from runner.web.request import Request, shown
from sandbox.frames import Value

_REASONS: Final = {200: "OK", 201: "Created", 204: "No Content", 404: "Not Found", 500: "Internal Server Error"}


class MockedWeb(Web):
    """Answers requests as the test says."""

    def __init__(self, mocks: Mocks) -> None:
        # None of what a real one is made of is there.
        self._mocks = mocks
        self.sent: list[dict[str, Value]] = []

    async def fetch(self, request: Request, workspace: Path, tell: Tell) -> Answer:
        for number in range(request.retries + 1):
            is_last = number == request.retries
            try:
                answer = await self._answer(request, workspace)
            except RequestFailed as error:
                if is_last:
                    raise
                await tell(f"{error.message}; trying again")
                continue
            if is_last or answer.status not in RETRY_STATUS:
                return answer
            await tell(f"{request.call}: {shown(request.url)} answered {answer.status}; trying again")
        raise AssertionError("the last try gives an answer or an error")

    async def _answer(self, request: Request, workspace: Path) -> Answer:
        url = str(request.url)
        asked = told.table(
            told.Request(
                stage=asking_stage.get(),
                method=request.method,
                url=url,
                headers={name.lower(): value for name, value in request.headers},
                body=await _body(request),
            )
        )
        self.sent.append(asked)
        given = await self._mocks.http(asked, request.method, shown(request.url))
        if given.error is not None:
            raise RequestFailed(given.error.message, code=given.error.code)
        content, headers = _content(given)
        size = len(content)
        if request.to is not None and given.status < 300:
            await anyio.to_thread.run_sync(lambda: files.write(workspace, str(request.to), content, lambda: None))
            content = b""
        return Answer(
            status=given.status,
            reason=_REASONS.get(given.status, ""),
            url=url,
            headers=headers,
            body=content,
            size=size,
            elapsed=given.elapsed,
        )


def _content(given: HttpAnswer) -> tuple[bytes, dict[str, str]]:
    headers = {name.lower(): word("mock.http", f"headers.{name}", value) for name, value in given.headers.items()}
    if given.json is not msgspec.UNSET:
        return json_format.encode(given.json), {"content-type": "application/json"} | headers
    return data(given.body or ""), headers


async def _body(request: Request) -> bytes | None:
    """Give the body that would have been sent; None where there is none, or a form that only a sender puts together."""
    if request.body is None:
        return None
    async with AsyncExitStack() as opened:
        made: Any = await request.body(opened)
        if isinstance(made, bytes):
            return made
        return made.read() if isinstance(made, io.RawIOBase) else None
