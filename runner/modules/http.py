"""``http``: requests from the runner, within the rules of its owner (``runner.web``)."""

from __future__ import annotations

import functools
import io
import re
import ssl
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from importlib import metadata
from pathlib import Path
from typing import Any, Final, cast
from weakref import WeakKeyDictionary

import aiohttp
import anyio.to_thread
import msgspec
from yarl import URL

from runner import files
from runner.formats import json as json_format
from runner.job_context import Call, JobContext
from runner.modules.arguments import ArgumentInvalid, Duration, data, parse, text, word
from runner.redaction.redactor import Redaction
from runner.web import rates
from runner.web.answers import Answer
from runner.web.errors import StatusRefused
from runner.web.private import PrivatePlace
from runner.web.request import Body, Request
from sandbox.frames import Value
from schema import times
from schema.errors import MoonyardError

METHODS: Final = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
REPEATABLE: Final = frozenset({"GET", "HEAD", "PUT", "DELETE", "OPTIONS"})
"""Sent twice, they do what they do once (RFC 9110, 9.2.2)."""
RETRIES_DEFAULT: Final = 2
RETRIES_MAXIMUM: Final = 20
REDIRECTS_DEFAULT: Final = 10
REDIRECTS_MAXIMUM: Final = 50
SECONDS_DEFAULT: Final = 60.0
SECONDS_MAXIMUM: Final = 6 * 3600.0
LIMIT_TO_LUA: Final = 16 * 1024 * 1024
LIMIT_TO_FILE: Final = 16 * 1024 * 1024 * 1024
BODIES: Final = ("json", "form", "body", "file", "files")
SHOWN_BODY_LENGTH: Final = 200
HIDDEN_PATH_BYTES_MINIMUM: Final = 16
"""A shorter path of a URL is a word that stands in other lines, too."""
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]")
_ABSOLUTE: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://|//")

Plain = str | int | float | bool


class Auth(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    user: str | None = None
    """With `password`."""
    password: str = ""
    """Of the user."""
    bearer: str | None = None
    """A token, instead of a user."""


class Part(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A file of a form."""

    path: str
    """A file of the workspace."""
    name: str | None = None
    """What the server is told; by default the file's name."""
    type: str | None = None
    """Its content type; by default `application/octet-stream`."""


class ClientArguments(msgspec.Struct, frozen=True, kw_only=True):
    """What ``http.client`` was given, that each of its calls brings along."""

    base_url: str | None = None
    """What the paths that its functions are given stand below."""
    rate: str | None = None
    """How many requests it sends, such as `"10/s"`, `"30/m"`, `"1000/h"`."""
    burst: int | None = None
    """How many of them at once; goes with a `rate`."""


class RequestArguments(msgspec.Struct, frozen=True, kw_only=True):
    url: str
    """`http://` or `https://`; of a client with a `base_url`, a path below it."""
    method: str = "GET"
    """`GET`, `HEAD`, `POST`, `PUT`, `PATCH`, `DELETE` or `OPTIONS`."""
    headers: dict[str, str | int | float] = {}
    """By name; a number is written as text."""
    query: dict[str, Any] = {}
    """What is put behind `?`, encoded; a value may be a list."""
    json: Any = msgspec.UNSET
    """The body, as `json.encode` writes it."""
    form: dict[str, Plain] | None = None
    """The body, as a form's fields."""
    body: str | None = None
    """The body itself."""
    file: str | None = None
    """A file of the workspace as the body, however large."""
    files: dict[str, str | Part] | None = None
    """A form's files, by the names of their fields: paths, or tables; goes with `form`."""
    timeout: Duration | None = None
    """For each try, from the first byte to the last; by default a minute."""
    retries: int | None = None
    """How often it is tried again after no answer, or 429, 502, 503, 504; by default 2, for `POST` and `PATCH` 0."""
    auth: Auth | None = None
    """Not sent on to another place by a redirect."""
    follow: bool | int = True
    """Whether, or how many, redirects are followed; `true` stands for 10."""
    verify: bool | str = True
    """`false` trusts whoever answers, and warns; a path names certificates (PEM) to trust instead of the usual ones."""
    to: str | None = None
    """Writes the answer's body into the workspace, when it is there as a whole."""
    limit: int | None = None
    """How many bytes of an answer are taken; by default, and at most, 16 MiB, with `to` 16 GiB."""
    check: bool = True
    """Whether a status from 400 on, or a redirect that is not followed to its end, raises `http_status`."""
    client: ClientArguments = ClientArguments()
    """What a client brings along."""


async def request(job: JobContext, call: Call) -> Value:
    """Send a request and give its answer.

    :raises StatusRefused: where the answer says that it did not work, unless ``check = false``.
    :raises RequestFailed: when there is no answer, or not all of it.
    """
    name = call.arguments[0]
    given = call.arguments[1] if len(call.arguments) > 1 else None
    assert isinstance(name, str), "our own Lua names the function"
    arguments = parse(name, RequestArguments, given)
    private = await _private_place(job, call, arguments)
    if private is None:
        return await _answer(job, call, name, arguments, None)
    try:
        return await _answer(job, call, name, arguments, private)
    except MoonyardError as error:
        # What the system, a server or a rule says of it names the place as it is.
        raise private.error(error) from None


async def _answer(
    job: JobContext, call: Call, name: str, arguments: RequestArguments, private: PrivatePlace | None
) -> Value:
    asked = await _request(job, name, arguments, private)
    if call.secrets:
        asked = await _kept_private(job, call, asked)

    if call.plugin is not None:
        asked = msgspec.structs.replace(asked, check=functools.partial(job.rights.check_host, call.plugin))

    async def tell(words: str) -> None:
        await job.stream.log(call.stage, "info", "system", words if private is None else private.text(words))

    if arguments.verify is False:
        await job.stream.log(
            call.stage,
            "warn",
            "system",
            f"{name}: whoever answers for {asked.shown(asked.url)} is trusted (`verify = false`)",
        )
    answer = await job.web.fetch(asked, job.workspace, tell)
    if arguments.check and not _is_ok(asked, answer):
        raise _refused(job.stream.redaction, asked, answer)
    return {
        "status": answer.status,
        "ok": 200 <= answer.status < 300,
        "headers": dict(answer.headers),
        "body": answer.body,
        "url": answer.url,
        "size": answer.size,
        "elapsed": answer.elapsed,
    }


async def _request(job: JobContext, name: str, arguments: RequestArguments, private: PrivatePlace | None) -> Request:
    method = arguments.method.upper()
    if method not in METHODS:
        raise ArgumentInvalid(f"{name}: `method` must be one of {', '.join(METHODS)}, got {arguments.method[:40]!r}")
    url = _url(name, arguments, private)
    if private is not None:
        private.add(url)
    body, headers = _body(job.workspace, name, arguments)
    headers = _headers(name, arguments, headers)
    retries = arguments.retries
    if retries is None:
        retries = RETRIES_DEFAULT if method in REPEATABLE else 0
    return Request(
        call=name,
        method=method,
        url=url,
        headers=headers,
        body=body,
        seconds=_seconds(name, arguments.timeout),
        retries=_within(name, "retries", retries, RETRIES_MAXIMUM),
        follow=_redirects(name, arguments.follow),
        verify=await _trusted(job.workspace, name, arguments.verify),
        bytes_maximum=_limit(name, arguments),
        to=None if arguments.to is None else text(name, "to", arguments.to),
        bucket=_bucket(job, name, arguments.client),
        private=private,
    )


def _url(name: str, arguments: RequestArguments, private: PrivatePlace | None) -> URL:
    written = text(name, "url", arguments.url)
    if _CONTROL.search(written + (arguments.client.base_url or "")):
        # They would be left out without a word, and another place be asked.
        raise ArgumentInvalid(f"{name}: `url` has a line break, or another control character, in it")
    try:
        url = URL(written)
        if (base := arguments.client.base_url) is not None and not url.absolute:
            root = URL(text("http.client", "base_url", base))
            # Below the base, whether the one ends, or the other begins, with a slash or not.
            url = root.with_path(root.path.rstrip("/") + "/" + url.path.lstrip("/")).with_query(url.query)
        if arguments.query:
            pairs = _pairs(name, arguments.query)
            url = url.update_query([*url.query.items(), *pairs]) if url.query else url.with_query(pairs)
    except (ValueError, TypeError) as error:
        if private is not None:
            raise ArgumentInvalid(f"{name}: `url` is no URL: {private.shown}") from None
        raise ArgumentInvalid(f"{name}: `url` is no URL: {error}") from error
    if url.scheme not in {"http", "https"} or not url.host or url.port is None:
        raise ArgumentInvalid(
            f"{name}: `url` must begin with http:// or https:// and name a host, "
            f"got {(written if private is None else private.shown)[:200]!r}",
            hint="Paths alone are for clients: http.client({ base_url = ... }).",
        )
    if url.user is not None or url.password is not None:
        raise ArgumentInvalid(
            f"{name}: `url` has a user or a password in it, which would stand in logs",
            hint="Give `auth = { user = ..., password = ... }`.",
        )
    return url


def _pairs(name: str, query: dict[str, Any]) -> list[tuple[str, str]]:
    pairs: list[tuple[str, str]] = []
    for key, value in query.items():
        values: list[Any] = cast("list[Any]", value) if isinstance(value, list) else [value]
        pairs += [(text(name, "a name in query", key), _plain(name, f"query.{key}", item)) for item in values]
    return pairs


@functools.cache
def _user_agent() -> str:
    return f"Moonyard/{metadata.version('moonyard')}"


def _headers(name: str, arguments: RequestArguments, own: Mapping[str, str]) -> list[tuple[str, str]]:
    headers = {"User-Agent": _user_agent(), **own}
    lower = {key.lower(): key for key in headers}
    for key, value in arguments.headers.items():
        written = word(name, f"headers.{key}", value)
        if not key or not key.isascii() or not key.isprintable() or any(sign in key for sign in ' :"(),/;<=>?@[\\]{}'):
            raise ArgumentInvalid(f"{name}: `headers` has a name that no header can have: {data(key)[:80]!r}")
        if "\r" in written or "\n" in written:
            raise ArgumentInvalid(f"{name}: `headers.{key}` has a line break in it")
        headers.pop(lower.get(key.lower(), key), None)
        headers[key] = written
    if (auth := arguments.auth) is not None:
        if (auth.user is None) == (auth.bearer is None):
            raise ArgumentInvalid(f"{name}: `auth` takes `user` and `password`, or `bearer`")
        if auth.bearer is not None:
            headers["Authorization"] = f"Bearer {text(name, 'auth.bearer', auth.bearer)}"
        else:
            if ":" in (auth.user or ""):
                raise ArgumentInvalid(f"{name}: `auth.user` has a `:` in it, which separates it from the password")
            user, password = text(name, "auth.user", auth.user or ""), text(name, "auth.password", auth.password)
            headers["Authorization"] = aiohttp.BasicAuth(user, password, "utf-8").encode()
    return list(headers.items())


def _body(workspace: Path, name: str, arguments: RequestArguments) -> tuple[Body | None, dict[str, str]]:
    """Give what opens the body for each hop, and the headers that belong to it."""
    values = {part: getattr(arguments, part) for part in BODIES}
    given = [part for part, value in values.items() if value is not None and value is not msgspec.UNSET]
    if len(given) > 1 and set(given) != {"form", "files"}:
        raise ArgumentInvalid(
            f"{name}: `{given[0]}` and `{given[1]}` are both a body; give one (`form` and `files` go together)"
        )
    if arguments.json is not msgspec.UNSET:
        encoded = json_format.encode(arguments.json)
        return _constant(encoded), {"Content-Type": "application/json"}
    if arguments.body is not None:
        return _constant(data(arguments.body)), {"Content-Type": "text/plain; charset=utf-8"}
    if arguments.file is not None:
        path = text(name, "file", arguments.file)
        return _file(workspace, path), {"Content-Type": "application/octet-stream"}
    fields = {
        text(name, "a name in form", key): _plain(name, f"form.{key}", value)
        for key, value in (arguments.form or {}).items()
    }
    if arguments.files is not None:
        parts = {
            text(name, "a name in files", key): Part(path=value) if isinstance(value, str) else value
            for key, value in arguments.files.items()
        }
        return _form(workspace, fields, parts), {}
    if arguments.form is not None:
        return _form(workspace, fields, {}), {}
    return None, {}


def _constant(encoded: bytes) -> Body:
    async def give(_: AsyncExitStack) -> bytes:
        return encoded

    return give


def _file(workspace: Path, path: str) -> Body:
    async def give(opened: AsyncExitStack) -> Any:
        return await _opened(opened, workspace, path)

    return give


def _form(workspace: Path, fields: Mapping[str, str], parts: Mapping[str, Part]) -> Body:
    async def give(opened: AsyncExitStack) -> aiohttp.FormData:
        form = aiohttp.FormData()
        for key, value in fields.items():
            form.add_field(key, value)
        for key, part in parts.items():
            file = await _opened(opened, workspace, part.path)
            form.add_field(
                key,
                file,
                filename=part.name or part.path.rpartition("/")[2],
                content_type=part.type or "application/octet-stream",
            )
        return form

    return give


async def _opened(opened: AsyncExitStack, workspace: Path, path: str) -> Any:
    def open_file() -> Any:
        return opened.enter_context(io.FileIO(opened.enter_context(files.reading(workspace, path)), closefd=False))

    return await anyio.to_thread.run_sync(open_file)


def _plain(name: str, argument: str, value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if not isinstance(value, str | int | float):
        raise ArgumentInvalid(f"{name}: `{argument}` must be a string, a number or a boolean")
    return word(name, argument, value)


def _seconds(name: str, timeout: float | str | None) -> float:
    if timeout is None:
        return SECONDS_DEFAULT
    try:
        seconds = times.duration_seconds(timeout)
    except ValueError as error:
        raise ArgumentInvalid(f"{name}: `timeout` is no duration: {error}") from error
    return min(seconds, SECONDS_MAXIMUM)


def _within(name: str, argument: str, value: int, most: int) -> int:
    if not 0 <= value <= most:
        raise ArgumentInvalid(f"{name}: `{argument}` is 0 to {most}, got {value}")
    return value


def _redirects(name: str, follow: bool | int) -> int:
    if isinstance(follow, bool):
        return REDIRECTS_DEFAULT if follow else 0
    return _within(name, "follow", follow, REDIRECTS_MAXIMUM)


def _limit(name: str, arguments: RequestArguments) -> int:
    most = LIMIT_TO_LUA if arguments.to is None else LIMIT_TO_FILE
    if arguments.limit is None:
        return most
    return _within(name, "limit", arguments.limit, most)


async def _trusted(workspace: Path, name: str, verify: bool | str) -> bool | ssl.SSLContext:
    if isinstance(verify, bool):
        return verify
    path = text(name, "verify", verify)
    certificates = await anyio.to_thread.run_sync(files.read, workspace, path)
    try:
        return ssl.create_default_context(cadata=certificates.decode("ascii"))
    except (ssl.SSLError, ValueError) as error:
        raise ArgumentInvalid(f"{name}: `verify` names `{path}`, which holds no certificate in PEM form") from error


_buckets: Final[WeakKeyDictionary[JobContext, dict[ClientArguments, rates.Bucket]]] = WeakKeyDictionary()
"""Clients of a job with the same base and rate share a limit, however often the script makes one."""


def _bucket(job: JobContext, name: str, client: ClientArguments) -> rates.Bucket | None:
    if client.rate is None:
        if client.burst is not None:
            raise ArgumentInvalid("http.client: `burst` goes with a `rate`")
        return None
    try:
        rate = rates.rate(client.rate, client.burst)
    except ValueError as error:
        raise ArgumentInvalid(f"{name}: the client's `rate` cannot be used: {error}") from error
    return _buckets.setdefault(job, {}).setdefault(client, rates.Bucket(rate))


def _is_ok(asked: Request, answer: Answer) -> bool:
    # One who wants to see redirects does not want them to be errors.
    return answer.status < 400 and (answer.status < 300 or not asked.follow or answer.status == 304)


async def _private_place(job: JobContext, call: Call, arguments: RequestArguments) -> PrivatePlace | None:
    """Tell how a URL that holds secrets is named; None where it holds none."""
    held = {path: secret for path, secret in call.secrets.items() if path[0] in {"url", "query", "client"}}
    if not held:
        return None
    url, base = held.get(("url",)), held.get(("client", "base_url"))
    place = arguments.url if url is None else url.shown
    if arguments.client.base_url is not None and not _ABSOLUTE.match(arguments.url):
        place = _below(arguments.client.base_url if base is None else base.shown, place)
    values: list[str] = []
    for secret in held.values():
        for name in secret.names:
            value = (await job.secrets.get(name, call.stage)).value
            values.append(value.decode())
            # Servers answer with the path alone of a secret that is a URL.
            path = value.partition(b"://")[2].partition(b"/")[2]
            if len(path) >= HIDDEN_PATH_BYTES_MINIMUM:
                await job.stream.redaction.add(name, b"/" + path)
    return PrivatePlace(place, values)


def _below(base: str, path: str) -> str:
    return f"{base.rstrip('/')}/{path.lstrip('/')}"


async def _kept_private(job: JobContext, call: Call, asked: Request) -> Request:
    """See that what holds a secret goes to no other place."""
    if asked.url.scheme == "http":
        await job.stream.log(
            call.stage,
            "warn",
            "system",
            f"{asked.call}: a secret is sent to {asked.shown(asked.url)} unencrypted (`http://`)",
        )
    return msgspec.structs.replace(
        asked,
        private_headers=frozenset(path[1].lower() for path in call.secrets if path[0] == "headers"),
        is_body_private=any(path[0] in BODIES for path in call.secrets),
    )


def _refused(redaction: Redaction, asked: Request, answer: Answer) -> StatusRefused:
    # Servers repeat what they were sent; cut in two, a secret would not be found any more.
    said = redaction.data(answer.body).decode("utf-8", errors="replace").strip()
    if asked.private is not None:
        said = asked.private.text(said)
    line = " ".join(said.split())[:SHOWN_BODY_LENGTH]
    is_page = "html" in answer.headers.get("content-type", "")
    return StatusRefused(
        f"{asked.call}: {asked.method} {asked.shown(asked.url)} answered {answer.status} {answer.reason}".rstrip()
        + (f": {line}" if line and not is_page else ""),
        hint="With `check = false` a script can look at `status` itself.",
    )


CALLS: Final[Mapping[str, Callable[[JobContext, Call], Any]]] = {"http.request": request}
