"""What holds for the lines of every job, and Lua that pipelines of tests begin with."""

from __future__ import annotations

import re
from datetime import datetime
from pathlib import Path

import anyio

from tests.cli.command import Line, Printed

ALPINE = "docker.io/library/alpine:latest"
DEBIAN = "docker.io/library/debian:bookworm"
GIT = "docker.io/alpine/git:latest"

SHELL = """
local function sh(script, options)
  local all = { command = "sh", args = { "-c", script }, check = false, stdout = "off", stderr = "off" }
  for name, value in pairs(options or {}) do all[name] = value end
  return process.run(all)
end
local function try(f, ...)
  local ok, err = pcall(f, ...)
  return ok and "ok" or type(err) == "table" and err.code or "lua_error", tostring(err)
end
"""
"""Lua that the pipelines below begin with."""


def shape(lines: list[Line]) -> None:
    """Check what holds for the lines of every job."""
    assert [line["seq"] for line in lines] == list(range(1, len(lines) + 1))
    assert len({(line["job"], line["attempt"]) for line in lines}) == 1
    moments = [line["at"] for line in lines]
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", moment) for moment in moments)
    assert [datetime.fromisoformat(moment) for moment in moments] == sorted(map(datetime.fromisoformat, moments))
    assert [line["state"] for line in lines if line["type"] == "job"][:-1] in (["running"], [])
    assert lines[-1]["type"] == "job"
    assert lines[-1]["state"] in {"succeeded", "failed", "cancelled"}
    assert (lines[-1]["error"] is not None) == (lines[-1]["state"] == "failed")


def succeeded(printed: Printed) -> Printed:
    shape(printed.lines)
    assert printed.job["state"] == "succeeded", (printed.job, printed.texts(source="lua")[-3:])
    assert printed.code == 0
    assert printed.stderr == ""
    return printed


async def nothing_is_left(job: str, state_folder: Path) -> None:
    assert list((state_folder / "owners").glob("*/workspaces/*")) == []
    listed = await anyio.run_process(["podman", "ps", "--all", "--quiet", "--filter", f"label=moonyard.job={job}"])
    assert listed.stdout == b""
