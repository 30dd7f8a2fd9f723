"""A limit that all runners share, with two of them, a replica, and a server that counts."""

from __future__ import annotations

from pathlib import Path

import anyio
import pytest
from aiohttp import web

from schema.wire import PipelinePush, PipelineVersion
from tests.cli.command import SECONDS
from tests.cli.test_cache import LEASE_SECONDS, Site
from tests.orchestrator.installation import installation as opened
from tests.postgres import psql
from tests.runner.test_web import server

RATE = 20
EACH = 30
ASKING = """
return { name = "asking", inputs = { url = {}, who = {} }, stages = { { name = "ask", script = function(job)
  -- Another name for the same server, which has no limit: it answers when both jobs are there.
  http.get((job.inputs.url:gsub("127.0.0.1", "localhost")) .. "meet", { timeout = "1m" })
  local asks = {}
  for number = 1, EACH do
    asks[number] = function() http.get(job.inputs.url .. job.inputs.who) end
  end
  parallel(asks)
end } } }
""".replace("EACH", str(EACH))


class Counting:
    """Serves, and keeps when each request came and of whom."""

    def __init__(self) -> None:
        self.met = 0
        self.all_met = anyio.Event()
        self.met_at = 0.0
        self.came: list[tuple[float, str]] = []

    async def serve(self, request: web.Request) -> web.Response:
        if request.path == "/meet":
            self.met += 1
            if self.met == 2:
                self.met_at = anyio.current_time()
                self.all_met.set()
            with anyio.fail_after(SECONDS):
                await self.all_met.wait()
        else:
            self.came.append((anyio.current_time(), request.path))
        return web.Response(text="served")


@pytest.mark.timeout(240)
async def test_two_runners_together_ask_no_more_often_than_the_limit(
    database_url: str, image_map: dict[str, str], tmp_path: Path
) -> None:
    assert image_map, "images are there"
    counting = Counting()
    (tmp_path / "moonyard.toml").write_text('http_allowed = ["127.0.0.1", "::1"]\ncapacity = 1\n', encoding="utf-8")
    async with opened(database_url) as installation, server(counting.serve) as url:
        await installation.replica(lease_seconds=LEASE_SECONDS)
        site = Site(installation, tmp_path, await installation.client())
        push = PipelinePush(filename="asking.lua", source=ASKING)
        await site.admin.post("/v1/pipelines", PipelineVersion, push)
        shown = await site("http-limit", "set", "127.0.0.1", f"{RATE}/s", "--burst", "1")
        assert shown.stdout == f"all runners together ask 127.0.0.1 at most {RATE}/s, 1 at once\n"
        one, two = await site.register("one"), await site.register("two")
        async with site.runner(one), site.runner(two):
            jobs = [await site.submit("asking", url=str(url), who=who) for who in ("one", "two")]
            printed = [await site.followed(job) for job in jobs]
        assert [one.job["state"] for one in printed] == ["succeeded", "succeeded"], printed
        ask = f"the limit of all runners for `127.0.0.1` is {RATE}/s"
        assert all(any(text.endswith(ask) for text in one.texts(source="system")) for one in printed)
        assert len(counting.came) == 2 * EACH
        assert {path for _, path in counting.came} == {"/one", "/two"}
        # However slow a machine is: a permit is due no sooner than its place in the line of all.
        assert counting.came[-1][0] - counting.met_at >= (2 * EACH - 1) / RATE
        permits = int(psql(database_url, "SELECT permits FROM inspect.http_limits", "-At"))
        assert permits >= 2 * EACH
        figures = (await installation.replicas[0].parts.metrics.text(installation.database)).decode()
        [asked] = [line for line in figures.splitlines() if "http/permits" in line and "_requests_total" in line]
        assert float(asked.rpartition(" ")[2]) <= EACH / 2, "a batch is asked for, and not each request's permit"
        assert "127.0.0.1" in (await site("http-limit", "list")).stdout
        assert (await site("http-limit", "remove", "127.0.0.1")).stdout == "the limit of 127.0.0.1 is removed\n"
        assert (await site("http-limit", "list")).stderr == "no limits\n"
        refused = await site("http-limit", "set", "http://x", "1/s")
        assert refused.code == 2
        assert "hint: A host is as URLs name it" in refused.stderr
