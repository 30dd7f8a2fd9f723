"""What comes back: into memory, or into a file of the workspace, and no more of it than was asked for."""

from __future__ import annotations

import os
import secrets
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Final

import aiohttp
import anyio
import anyio.to_thread
import msgspec

from runner import files, jail, trees
from runner.web.errors import AnswerTooLarge
from runner.web.request import Request

CHUNK_BYTES: Final = 256 * 1024


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    status: int
    reason: str
    url: str
    headers: dict[str, str]
    """Names in small letters; several of one name are joined by a comma."""
    body: bytes
    size: int
    elapsed: float


async def taken(request: Request, response: aiohttp.ClientResponse, workspace: Path, started: float) -> Answer:
    declared = response.headers.get("Content-Length", "")
    if request.method != "HEAD" and declared.isdecimal() and int(declared) > request.bytes_maximum:
        raise _too_large(request, f"{declared} bytes")
    body, size = b"", 0
    if request.to is None or not 200 <= response.status < 300:
        body = await _read(request, response)
        size = len(body)
    else:
        size = await _save(request, response, workspace)
    return Answer(
        status=response.status,
        reason=response.reason or "",
        url=str(response.url) if request.private is None else request.shown(response.url),
        headers={name.lower(): ", ".join(response.headers.getall(name)) for name in response.headers},
        body=body,
        size=size,
        elapsed=round(anyio.current_time() - started, 6),
    )


async def _read(request: Request, response: aiohttp.ClientResponse) -> bytes:
    most = request.bytes_maximum if request.to is None else files.READ_BYTES_MAXIMUM
    body = bytearray()
    async for chunk in response.content.iter_chunked(CHUNK_BYTES):
        body += chunk
        _check_size(request, len(body), most)
    return bytes(body)


async def _save(request: Request, response: aiohttp.ClientResponse, workspace: Path) -> int:
    """Write the answer to a name of its own, and give it its name when it is whole."""
    assert request.to is not None, "it goes into a file"
    size = 0
    with ExitStack() as stack:
        folder, name = stack.enter_context(jail.place(workspace, request.to, is_new=True))
        partial = f".{name[:100]}.{secrets.token_hex(6)}.part"
        with jail.refusing(request.to):
            file = await anyio.to_thread.run_sync(trees.new_file, folder, partial, files.FILE_MODE)
            try:
                async for chunk in response.content.iter_chunked(CHUNK_BYTES):
                    size += len(chunk)
                    _check_size(request, size, request.bytes_maximum)
                    await anyio.to_thread.run_sync(_write_all, file, chunk)
                os.rename(partial, name, src_dir_fd=folder, dst_dir_fd=folder)
            except BaseException:
                with suppress(FileNotFoundError):
                    os.unlink(partial, dir_fd=folder)
                raise
            finally:
                os.close(file)
    return size


def _check_size(request: Request, size: int, most: int) -> None:
    if size > most:
        raise _too_large(request, f"more than {most} bytes")


def _write_all(file: int, data: bytes) -> None:
    left = memoryview(data)
    while left:
        left = left[os.write(file, left) :]


def _too_large(request: Request, what: str) -> AnswerTooLarge:
    return AnswerTooLarge(
        f"{request.call}: the answer of {request.shown(request.url)} has {what}, and {request.bytes_maximum} are taken",
        hint='`to = "FILE"` writes it into the workspace instead; `limit = BYTES` takes more.',
    )
