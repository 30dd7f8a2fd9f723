"""A real image registry on this machine, and a proxy before it that can be told to misbehave."""

from __future__ import annotations

import io
import secrets
import socket
import subprocess
import tarfile
import urllib.request
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import anyio
from aiohttp import web
from multidict import CIMultiDict

CONFIG = """
version: 0.1
log: {{accesslog: {{disabled: false}}, level: info}}
storage: {{filesystem: {{rootdirectory: {root}}}}}
http: {{addr: 127.0.0.1:{port}}}
"""

OWN_BYTES = 1_000_000
NEW_IMAGE_BYTES = OWN_BYTES + Path("/bin/busybox").stat().st_size
"""About what each image of ``publish_new`` takes."""
MANIFEST = "application/vnd.oci.image.manifest.v1+json"

Answer = Callable[[web.Request], Awaitable[web.StreamResponse | None]]
"""Answers a request in the registry's place, or leaves it to the registry by None."""


class Registry:
    """A real image registry, with a log of what was asked of it."""

    def __init__(self, address: str, log: Path, source: str) -> None:
        self.address = address
        self._log = log
        self._source = source
        self.pulled: list[str] = []

    def publish(self, name: str, source: str | None = None) -> str:
        """Put an image there, and give its full name."""
        full = f"{self.address}/{name}"
        subprocess.run(
            ["podman", "push", "--quiet", "--tls-verify=false", source or self._source, f"docker://{full}"],
            check=True,
            capture_output=True,
        )
        self.pulled.append(full)
        return full

    def publish_new(self, name: str, *changes: str, architecture: str | None = None) -> str:
        """Put an image there that this machine does not have and no other is like: busybox, and 1 MB of its own."""
        packed = io.BytesIO()
        busybox = Path("/bin/busybox").read_bytes()
        with tarfile.open(fileobj=packed, mode="w") as tar:
            for path, data in (("bin/busybox", busybox), ("own", secrets.token_bytes(OWN_BYTES))):
                entry = tarfile.TarInfo(path)
                entry.size, entry.mode = len(data), 0o755
                tar.addfile(entry, io.BytesIO(data))
            link = tarfile.TarInfo("bin/sh")
            link.type, link.linkname = tarfile.SYMTYPE, "busybox"
            tar.addfile(link)
        local = f"localhost/moonyard-test/{secrets.token_hex(6)}"
        options = [word for change in changes for word in ("--change", change)]
        if architecture is not None:
            options += ["--arch", architecture]
        command = ["podman", "import", "--quiet", *options, "-", local]
        subprocess.run(command, input=packed.getvalue(), capture_output=True, check=True)
        try:
            return self.publish(name, local)
        finally:
            subprocess.run(["podman", "rmi", local], capture_output=True, check=True)

    def digest(self, name: str) -> str:
        """Give the digest of an image, as the registry has it."""
        repository, _, tag = name.partition("/")[2].partition(":")
        request = urllib.request.Request(  # on loopback
            f"http://{self.address}/v2/{repository}/manifests/{tag}", headers={"Accept": MANIFEST}, method="HEAD"
        )
        with urllib.request.urlopen(request) as response:  # noqa: S310
            return str(response.headers["Docker-Content-Digest"])

    def questions(self, name: str) -> int:
        """Count the questions for an image's tag that a pull asks."""
        repository, _, tag = name.partition("/")[2].partition(":")
        return self._log.read_text().count(f'"GET /v2/{repository}/manifests/{tag} ')


class Proxy:
    """Stands before a registry. What ``answer`` gives for a request is told in the registry's place."""

    def __init__(self, address: str, registry: Registry) -> None:
        self.address = address
        self._registry = registry
        self.answer: Answer = _leave
        self.asked: list[str] = []
        """Methods and paths."""

    def named(self, image: str) -> str:
        """Give the name by which an image of the registry is had through the proxy; it is removed afterwards."""
        name = image.replace(self._registry.address, self.address, 1)
        self._registry.pulled.append(name)
        return name

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.asked.append(f"{request.method} {request.path}")
        answer = await self.answer(request)
        return answer if answer is not None else await self.forward(request)

    async def forward(self, request: web.Request, change: Callable[[bytes], bytes] = bytes) -> web.Response:
        """Ask the registry, and give its answer with a body that may be changed."""
        headers = CIMultiDict(pair for pair in request.headers.items() if pair[0].lower() in {"accept", "range"})
        async with (
            aiohttp.ClientSession(auto_decompress=False) as session,
            session.request(
                request.method, f"http://{self._registry.address}{request.path_qs}", headers=headers
            ) as response,
        ):
            body = change(await response.read())
            told = {
                name: value
                for name, value in response.headers.items()
                if name.lower() not in {"content-length", "transfer-encoding", "date"}
            }
            if request.method == "HEAD":
                told["Content-Length"] = response.headers.get("Content-Length", "0")
            return web.Response(status=response.status, headers=told, body=body)


async def _leave(_request: web.Request) -> None:
    return None


@asynccontextmanager
async def serve_proxy(registry: Registry) -> AsyncGenerator[Proxy]:
    listener = socket.create_server(("127.0.0.1", 0))
    proxy = Proxy(f"127.0.0.1:{listener.getsockname()[1]}", registry)
    application = web.Application()
    application.router.add_route("*", "/{path:.*}", proxy.handle)
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.SockSite(runner, listener).start()
        yield proxy
    finally:
        await runner.cleanup()


@asynccontextmanager
async def serve_registry(folder: Path, port: int, source: str) -> AsyncGenerator[Registry]:
    """Run a registry for the span of a block; the images that were pulled from it are removed.

    :param source: the image that is published there under any name.
    """
    config, log = folder / "registry.yml", folder / "registry.log"
    config.write_text(CONFIG.format(root=folder / "registry", port=port))
    with log.open("wb") as output:
        server = await anyio.open_process(["docker-registry", "serve", str(config)], stdout=output, stderr=output)
    try:
        await listening(port)
        registry = Registry(f"127.0.0.1:{port}", log, source)
        yield registry
        for name in registry.pulled:
            await anyio.run_process(["podman", "rmi", name], check=False)
    finally:
        server.terminate()
        await server.wait()


async def listening(port: int) -> None:
    with anyio.fail_after(20):
        while True:
            try:
                async with await anyio.connect_tcp("127.0.0.1", port):
                    return
            except OSError:
                await anyio.sleep(0.01)
