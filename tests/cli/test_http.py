"""``http`` in a pipeline, against a real server on loopback that the runner's owner allows."""

from __future__ import annotations

import json
import re
import ssl
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
from aiohttp import web
from aiohttp.web_request import Request as Received

from tests.cli.command import ROOT, Printed
from tests.cli.conftest import Runner
from tests.cli.job_lines import succeeded


async def _answer(received: Received) -> web.StreamResponse:
    """Say what was asked for."""
    if (status := received.query.get("status")) is not None:
        return web.Response(status=int(status), text="this is why")
    form: dict[str, str] = {}
    body = ""
    if received.content_type in {"multipart/form-data", "application/x-www-form-urlencoded"}:
        for name, value in (await received.post()).items():
            form[name] = value if isinstance(value, str) else _file(value)
    else:
        body = (await received.read()).decode()
    return web.json_response(
        {
            "method": received.method,
            "path": received.path,
            "query": [list(pair) for pair in received.query.items()],
            "type": received.headers.get("Content-Type", "").partition(";")[0],
            "auth": received.headers.get("Authorization"),
            "agent": received.headers.get("User-Agent", "").partition("/")[0],
            "team": received.headers.get("X-Team"),
            "form": form,
            "body": body,
        }
    )


def _file(part: Any) -> str:
    return f"{part.filename}: {part.file.read().decode()}"


@asynccontextmanager
async def server(context: ssl.SSLContext | None = None) -> AsyncGenerator[str]:
    application = web.Application()
    application.router.add_route("*", "/{path:.*}", _answer)
    runner = web.AppRunner(application)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context).start()
        yield f"{'http' if context is None else 'https'}://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


async def told(run: Runner, url: str, body: str, *options: str) -> Printed:
    source = (
        f'return {{ name = "try", stages = {{ {{ name = "s", script = function()\nlocal url = "{url}"\n'
        f"local function tell(r) log.info(r.body) return r end\n{body}\nend }} }} }}"
    )
    return await run(source, "--http-allowed", "127.0.0.1", *options)


async def test_what_a_script_sends_is_what_the_server_gets(run: Runner) -> None:
    async with server() as url:
        printed = succeeded(
            await told(
                run,
                url,
                """
tell(http.get(url .. "/a?x=1", { query = { y = 2, z = { "p q", true } } }))
tell(http.post(url, { json = { list = { 1, 2 }, none = json.null } }))
tell(http.put({ url = url, body = "plain" }))
tell(http.post(url, { form = { a = "b c", n = 7 } }))
fs.write("up.txt", "from a file")
tell(http.patch(url, { file = "up.txt", headers = { ["content-type"] = "text/x-own" } }))
tell(http.post(url, { form = { a = "b" }, files = { one = "up.txt", two = { path = "up.txt", name = "other.txt" } } }))
tell(http.delete(url, { auth = { user = "me", password = "hush" } }))
tell(http.request(url, { method = "OPTIONS", auth = { bearer = "token" } }))
local r = http.get(url)
log.info(json.encode({ r.status, r.ok, r.headers["content-type"], r.url == url .. "/" or r.url == url, r.json().method,
  r.size == #r.body, r.elapsed >= 0 }))
""",
            )
        )
    said = [json.loads(text) for text in printed.texts(source="lua")]
    assert [said[0][key] for key in ("method", "path", "agent")] == ["GET", "/a", "Moonyard"]
    assert sorted(said[0]["query"]) == [["x", "1"], ["y", "2"], ["z", "p q"], ["z", "true"]]
    assert (said[1]["type"], json.loads(said[1]["body"])) == ("application/json", {"list": [1, 2], "none": None})
    assert (said[2]["method"], said[2]["type"], said[2]["body"]) == ("PUT", "text/plain", "plain")
    assert (said[3]["type"], said[3]["form"]) == ("application/x-www-form-urlencoded", {"a": "b c", "n": "7"})
    assert (said[4]["method"], said[4]["type"], said[4]["body"]) == ("PATCH", "text/x-own", "from a file")
    assert said[5]["form"] == {"a": "b", "one": "up.txt: from a file", "two": "other.txt: from a file"}
    assert (said[6]["method"], said[6]["auth"]) == ("DELETE", "Basic bWU6aHVzaA==")
    assert (said[7]["method"], said[7]["auth"]) == ("OPTIONS", "Bearer token")
    assert said[8] == [200, True, "application/json; charset=utf-8", True, "GET", True, True]
    assert "hush" not in printed.stdout


async def test_an_answer_that_says_no_is_an_error_unless_it_is_not_to_be(run: Runner) -> None:
    async with server() as url:
        printed = await told(
            run,
            url,
            """
log.info(http.get(url .. "?status=404", { check = false }).status)
http.post(url .. "?status=500&token=hush", { body = "x" })
""",
        )
    assert printed.code == 1
    assert printed.texts(source="lua") == ["404"]
    error = printed.errors[-1]
    assert error.code == "http_status"
    assert error.message == f"http.post: POST {url} answered 500 Internal Server Error: this is why"
    assert error.where == "try.lua:6"


async def test_a_client_has_a_base_headers_and_a_rate(run: Runner) -> None:
    async with server() as url:
        printed = succeeded(
            await told(
                run,
                url,
                """
local api = http.client({ base_url = url .. "/v1/", headers = { ["X-Team"] = "blue" }, rate = "40/m", burst = 4 })
for _, path in ipairs({ "jobs", "/jobs", "jobs?a=1", url .. "/else" }) do
  local r = api.get(path)
  log.info(r.json().path .. " " .. r.json().team)
end
log.info(api.post("x", { headers = { ["X-Team"] = "red" }, json = {} }).json().team)
""",
            )
        )
    assert printed.texts(source="lua") == ["/v1/jobs blue", "/v1/jobs blue", "/v1/jobs blue", "/else blue", "red"]
    waits = [text for text in printed.texts(source="system") if "the limit for this client is 40/m" in text]
    assert waits


async def test_a_certificate_is_trusted_where_the_script_names_it(run: Runner, tmp_path: Path) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    await anyio.run_process(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"),
            *("-keyout", str(key), "-out", str(certificate), "-days", "2", "-subj", "/CN=127.0.0.1"),
            *("-addext", "subjectAltName=IP:127.0.0.1"),
        ]
    )
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)
    async with server(context) as url:
        printed = succeeded(
            await told(
                run,
                url,
                f"""
local ok, err = pcall(http.get, url, {{ retries = 0 }})
log.info(err.code .. " " .. err.message)
log.info(http.get(url, {{ verify = false }}).status)
fs.write("ca.pem", [[{certificate.read_text(encoding="utf-8")}]])
log.info(http.get(url, {{ verify = "ca.pem" }}).status)
""",
            )
        )
    refused, *statuses = printed.texts(source="lua")
    assert re.match(r"http_failed http.get: https://\S+ has a certificate that is not trusted", refused)
    assert statuses == ["200", "200"]
    assert any("is trusted (`verify = false`)" in text for text in printed.texts(level="warn"))


REFUSED = [
    ("http.get()", "`url` is required"),
    ('http.get("/x")', "must begin with http:// or https:// and name a host"),
    ('http.get("ftp://h/x")', "must begin with http:// or https://"),
    ('http.get("http://me:pw@h/")', "has a user or a password in it"),
    ('http.get("http://h:99999/")', "`url` is no URL"),
    ('http.get("http://h/", { hedaers = {} })', "`hedaers` is not an argument; did you mean `headers`?"),
    ('http.get("http://h/", { method = "PUT" })', "`method` is not an argument"),
    ('http.request("http://h/", { method = "TRACE" })', "`method` must be one of GET, HEAD"),
    ('http.post("http://h/", { body = "a", json = {} })', "`json` and `body` are both a body"),
    ('http.get("http://h/", { headers = { ["a b"] = 1 } })', "a name that no header can have"),
    ('http.get("http://h/", { headers = { a = "x\\r\\nb: c" } })', "has a line break in it"),
    ('http.get("http://h/", { retries = 100 })', "`retries` is 0 to 20, got 100"),
    ('http.get("http://h/", { timeout = "soon" })', "`timeout` is no duration"),
    ('http.get("http://h/", { auth = { user = "a", bearer = "b" } })', "`auth` takes `user` and `password`, or"),
    ('http.client({ base = "x" })', "`base` is not an argument"),
    ('http.client({ base_url = "http://h", rate = "often" }).get("/")', "the client's `rate` cannot be used"),
    (
        'http.get("http://127.0.0.2:9/")',
        "jobs may not connect to `127.0.0.2` port 9: it is the runner's own machine",
    ),
    ('http.post("http://h/", { file = "../x" })', "`../x` does not name a file of the workspace"),
    ('http.get("http://127.0.0.1\\r\\n.example.org/")', "`url` has a line break, or another control character, in it"),
    ('http.client({ base_url = "http://h\\n/" }).get("a")', "`url` has a line break, or another control character, in"),
]


async def test_what_cannot_be_meant_is_refused_with_the_argument(run: Runner) -> None:
    tries = "\n".join(
        f"local ok, err = pcall(function() {call} end) log.info(ok and 'taken' or err.message)" for call, _ in REFUSED
    )
    printed = succeeded(await told(run, "", tries, "--http-denied", "h"))
    for (call, said), message in zip(REFUSED, printed.texts(source="lua"), strict=True):
        assert said in message, call


async def test_a_setting_that_cannot_be_meant_is_refused_before_anything_runs(run: Runner) -> None:
    printed = await told(run, "", "log.info('never')", "--http-denied", "10.0.0.0/99")
    assert printed.code == 2
    assert printed.errors[0].code == "settings_invalid"


async def test_the_example_of_the_reference_runs(run: Runner) -> None:
    page = (ROOT / "docs" / "pipelines.md").read_text(encoding="utf-8")
    found = re.search(r"^### http\n(?:(?!^### ).*\n)*?```lua\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    assert found is not None
    async with server() as url:
        succeeded(await told(run, "", found[1].replace("https://api.example.org", url)))
