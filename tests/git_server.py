"""A real git server over HTTP: `git http-backend` behind a password, for reading and writing."""

from __future__ import annotations

import base64
import subprocess
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
from aiohttp import web


class GitOverHttp:
    """What a server was asked, and where it is."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.asked: list[tuple[str, bool]] = []
        """Paths, and whether the right password came along."""

    def url(self, host: str = "host.containers.internal") -> str:
        return f"http://{host}:{self.port}"


@asynccontextmanager
async def git_over_http(
    folder: Path, *, user: str, password: str, large_objects: Path | None = None
) -> AsyncGenerator[GitOverHttp]:
    """Serve the repositories below a folder on all addresses of this machine; all but ``/public/`` takes a password.

    :param large_objects: a folder with what is in Git LFS, by its SHA-256.
    """
    wanted = "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()

    async def answer(request: web.Request) -> web.StreamResponse:
        is_known = request.headers.get("Authorization") == wanted
        server.asked.append((request.path, is_known))
        if request.path.startswith("/away/"):
            raise web.HTTPFound(
                f"http://{request.host.partition(':')[0]}.:{server.port}{request.path_qs.removeprefix('/away')}"
            )
        if not is_known and not request.path.startswith("/public/"):
            return web.Response(status=401, headers={"WWW-Authenticate": 'Basic realm="git"'})
        if large_objects is not None and request.path.endswith("/info/lfs/objects/batch"):
            return _batch(await request.json(), f"{request.scheme}://{request.host}/lfs/")
        if large_objects is not None and request.path.startswith("/lfs/"):
            return web.FileResponse(large_objects / request.path.removeprefix("/lfs/"))
        environment = {
            "GIT_PROJECT_ROOT": str(folder),
            "GIT_HTTP_EXPORT_ALL": "1",
            "PATH_INFO": request.path,
            "QUERY_STRING": request.query_string,
            "REQUEST_METHOD": request.method,
            "CONTENT_TYPE": request.headers.get("Content-Type", ""),
            "HTTP_CONTENT_ENCODING": request.headers.get("Content-Encoding", ""),
            "GIT_PROTOCOL": request.headers.get("Git-Protocol", ""),
            "REMOTE_USER": user,
            "PATH": "/usr/bin:/bin",
            "GIT_CONFIG_COUNT": "1",
            "GIT_CONFIG_KEY_0": "safe.directory",
            "GIT_CONFIG_VALUE_0": "*",
        }
        done = await anyio.run_process(
            ["git", "http-backend"], input=await request.read(), env=environment, stderr=subprocess.DEVNULL, check=False
        )
        head, _, body = done.stdout.partition(b"\r\n\r\n")
        headers = dict(line.split(": ", 1) for line in head.decode().splitlines() if ": " in line)
        status = int(headers.pop("Status", "200 OK").split()[0])
        return web.Response(status=status, headers=headers, body=body)

    application = web.Application(client_max_size=64 * 1024 * 1024)
    application.router.add_route("*", "/{path:.*}", answer)
    runner = web.AppRunner(application)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "0.0.0.0", 0)  # noqa: S104  # containers reach it there
        await site.start()
        server = GitOverHttp(runner.addresses[0][1])
        yield server
    finally:
        await runner.cleanup()


def _batch(asked: Mapping[str, Any], place: str) -> web.Response:
    """Say where large objects are, as Git LFS's batch API has it."""
    assert asked["operation"] == "download", "nothing is uploaded in tests"
    objects = [
        {"oid": one["oid"], "size": one["size"], "actions": {"download": {"href": place + one["oid"]}}}
        for one in asked["objects"]
    ]
    return web.json_response({"transfer": "basic", "objects": objects}, content_type="application/vnd.git-lfs+json")
