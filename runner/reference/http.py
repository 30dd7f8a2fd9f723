"""``http``."""

from __future__ import annotations

from typing import Final

import msgspec

from runner.modules import http
from runner.reference import lua_types
from runner.reference.description import Given, Module, arguments_of, function
from runner.reference.lua_types import ANY, Callback, Table

ERRORS: Final = ("http_status", "http_failed", "http_timeout", "http_refused", "http_too_large", "http_redirects")
SHARED: Final = ("headers", "auth", "timeout", "retries", "follow", "verify", "limit", "check")
"""What a client takes as defaults for its requests."""


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    status: int
    """Such as 200."""
    ok: bool
    """Whether it is 200 to 299."""
    headers: dict[str, str]
    """By their names in small letters."""
    body: str
    """What came; empty with `to`."""
    size: int
    """How many bytes came."""
    url: str
    """Of the last redirect."""
    elapsed: float
    """Seconds."""


def _answer() -> Table:
    read = lua_types.table(Answer, "moonyard.http")
    decode = lua_types.Field(name="json", type=Callback(gives=ANY), words="decodes the body as JSON")
    return Table(read.name, (*read.fields, decode))


def _client_options() -> Table:
    # What each of its requests brings along.
    brought = arguments_of("http.request", http.RequestArguments).field("client")
    assert brought is not None, "it is one of the arguments"
    assert isinstance(brought.type, Table), "it is a table"
    own = brought.type
    shared = arguments_of("http.request", http.RequestArguments)
    return Table("moonyard.http.client.Options", (*own.fields, *(one for one in shared.fields if one.name in SHARED)))


def _functions() -> Table:
    takes = arguments_of("http.get", http.RequestArguments, ("client", "method"))
    send = Callback(
        (
            ("url", lua_types.either([lua_types.STRING, lua_types.SECRET])),
            ("options?", takes.without("url", name="moonyard.http.get.Options")),
        ),
        _answer(),
    )
    request = Callback((("arguments", arguments_of("http.request", http.RequestArguments, ("client",))),), _answer())
    names = ("get", "head", "post", "put", "patch", "delete")
    fields = [lua_types.Field(name=name, type=send, words=f"as `http.{name}`") for name in names]
    fields.append(lua_types.Field(name="request", type=request, words="as `http.request`"))
    return Table("moonyard.http.Client", tuple(fields))


MODULE: Final = Module(
    name="http",
    words="""Requests from the runner. They go where its owner lets them: by default anywhere but to the runner's own
    machine, to link-local addresses, and to those where clouds tell machines their credentials.""",
    functions=(
        function(
            "http.get",
            """Sends a request and gives its answer. `http.post` and `http.patch` are not tried again unless `retries`
            says so.""",
            arguments=http.RequestArguments,
            positional=("url",),
            without=("client", "method"),
            gives=_answer(),
            errors=ERRORS,
            alike=("http.head", "http.post", "http.put", "http.patch", "http.delete"),
            example="""
local page = http.get("https://api.example.org/index.html", { timeout = "20s", check = false })
if page.ok then
  fs.write("index.html", page.body)
end
local made = http.post("https://api.example.org/releases", { json = { tag = "v1.2" }, retries = 3 })
log.info(made.status, made.json().method)
http.get("https://api.example.org/big.tar.gz", { to = "big.tar.gz", timeout = "10m" })
""",
        ),
        function(
            "http.request",
            "Sends a request of any method.",
            arguments=http.RequestArguments,
            positional=("url",),
            without=("client",),
            gives=_answer(),
            errors=ERRORS,
            example="""
local answer = http.request({ url = "https://api.example.org/", method = "OPTIONS" })
log.info(answer.headers["content-type"])
""",
        ),
        function(
            "http.client",
            """Gives functions like these for one server, with defaults for all of their requests. All jobs of a runner
            together ask one host at most 50 times a second, unless its owner says otherwise; a `rate` is a limit of the
            job's own.""",
            parameters=(Given("options", _client_options(), "what is shared"),),
            gives=_functions(),
            example="""
local api = http.client({ base_url = "https://api.example.org", rate = "10/s", headers = { Accept = "text/html" } })
log.info(api.get("/releases", { query = { page = 2 } }).json().path)
api.delete("/releases/7")
""",
        ),
    ),
)
