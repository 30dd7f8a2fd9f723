"""A server that talks as Slack does, as its documentation has it: webhooks, the Web API's messages, and files."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web

TOKEN = "xoxb-7421-8315-QmVlc3RvZmFsbHRva2Vucw"
WEBHOOK_PATH = "/services/T0A1B2C3D/B4E5F6G7H/kQ8sVw2ZpLr7Ty1Xn5Mc3Jd9"
CHANNELS = {"#builds": "C00000001", "C00000001": "C00000001"}
TEXT_LENGTH_MAXIMUM = 40000


class Slack:
    """What was posted, and how the server misbehaves next."""

    def __init__(self) -> None:
        self.messages: dict[str, dict[str, Any]] = {}
        """By ``ts``, as they stand now."""
        self.by_webhook: list[dict[str, Any]] = []
        self.files: dict[str, dict[str, Any]] = {}
        self.requests = 0
        self.busy = 0
        """How many requests are answered with 429 before the next is taken."""
        self.retry_after = 1
        self.broken = 0
        """How many connections are closed without an answer, though what they brought was taken."""
        self.url = ""

    @property
    def webhook(self) -> str:
        return self.url + WEBHOOK_PATH

    @property
    def api(self) -> str:
        return self.url + "/api"

    @web.middleware
    async def admit(self, request: web.Request, handler: Any) -> web.StreamResponse:
        self.requests += 1
        if self.busy > 0:
            self.busy -= 1
            return web.Response(status=429, headers={"Retry-After": str(self.retry_after)}, text="rate_limited")
        answer = await handler(request)
        if self.broken > 0:
            self.broken -= 1
            assert request.transport is not None
            request.transport.close()
        return answer

    async def take_webhook(self, request: web.Request) -> web.Response:
        if request.path != WEBHOOK_PATH:
            return web.Response(status=403, text="invalid_token")
        message = await request.json()
        if not message.get("text") and not message.get("blocks"):
            return web.Response(status=400, text="no_text")
        self.by_webhook.append(message)
        return web.Response(text="ok")

    async def method(self, request: web.Request) -> web.Response:
        if request.content_type == "application/json":
            given: Mapping[str, Any] = await request.json()
        else:
            given = {name: value for name, value in (await request.post()).items() if isinstance(value, str)}
        if request.headers.get("Authorization") != f"Bearer {TOKEN}":
            return _refused("invalid_auth")
        name = request.match_info["name"]
        if name == "files.getUploadURLExternal" and request.content_type == "application/json":
            return _refused("invalid_arguments")
        match name:
            case "chat.postMessage":
                return self._post(given)
            case "chat.update":
                return self._update(given)
            case "files.getUploadURLExternal":
                identity = f"F{len(self.files):08}"
                self.files[identity] = {"name": given["filename"], "length": int(given["length"])}
                return _accepted(upload_url=f"{self.url}/upload/{identity}", file_id=identity)
            case "files.completeUploadExternal":
                for file in given["files"]:
                    self.files[file["id"]] |= {
                        "title": file["title"],
                        **{key: given.get(key) for key in ("channel_id", "initial_comment")},
                    }
                return _accepted(files=given["files"])
            case _:
                return _refused("unknown_method")

    def _post(self, given: Mapping[str, Any]) -> web.Response:
        if (channel := CHANNELS.get(given["channel"])) is None:
            return _refused("channel_not_found")
        if not given.get("text") and not given.get("blocks"):
            return _refused("no_text")
        if given.get("thread_ts") is not None and given["thread_ts"] not in self.messages:
            return _refused("thread_not_found")
        ts = f"1764000000.{len(self.messages):06}"
        self.messages[ts] = {**given, "channel": channel}
        return _accepted(ts=ts, channel=channel, message={"text": given.get("text", "")[:TEXT_LENGTH_MAXIMUM]})

    def _update(self, given: Mapping[str, Any]) -> web.Response:
        if given["ts"] not in self.messages:
            return _refused("message_not_found")
        self.messages[given["ts"]] |= given
        return _accepted(ts=given["ts"], channel=given["channel"], text=given.get("text"))

    async def upload(self, request: web.Request) -> web.Response:
        file = self.files[request.match_info["identity"]]
        file["data"] = await request.read()
        good = len(file["data"]) == file["length"]
        return web.Response(status=200 if good else 400, text=f"OK - {len(file['data'])}" if good else "wrong length")


def _accepted(**more: Any) -> web.Response:
    return web.json_response({"ok": True, **more})


def _refused(error: str) -> web.Response:
    return web.json_response({"ok": False, "error": error})


@asynccontextmanager
async def slack_server() -> AsyncGenerator[Slack]:
    """Serve on loopback for the span of a block."""
    slack = Slack()
    application = web.Application(middlewares=[slack.admit], client_max_size=16 * 1024 * 1024)
    application.router.add_post("/services/{path:.*}", slack.take_webhook)
    application.router.add_post("/api/{name}", slack.method)
    application.router.add_post("/upload/{identity}", slack.upload)
    runner = web.AppRunner(application, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        slack.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        yield slack
    finally:
        await runner.cleanup()
