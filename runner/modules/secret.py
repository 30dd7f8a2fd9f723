"""``secret``: values that a script hands on without seeing them.

In Lua a secret is a name (``sandbox/lua/secret.lua``). ``opened`` puts values in the place of names, in the arguments
of the few calls that take them, at the places that ``ACCEPTED`` lists; anywhere else the name stays, and
``runner.modules.arguments`` refuses it. So a module knows nothing of secrets, and one that nobody thought of takes
none.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, cast

from runner.job_context import Call, JobContext
from runner.modules.arguments import ArgumentInvalid, SecretNotAccepted
from runner.secrets import SecretNotReadable
from sandbox.frames import Secret, SecretName, Value, lua_type
from schema.errors import MoonyardError

GET: Final = "secret.get"
REVEAL: Final = "secret.reveal"
EVERY: Final = "*"
"""Stands for any name."""
ALL_BELOW: Final = "**"
"""Stands for anything in it, however deep."""

Path = tuple[str, ...]


class SecretNotText(MoonyardError):
    """A secret's value is wanted where only text can stand."""

    code = "secret_not_text"


class _Accepted:
    """Where a call takes secrets, in the table that is one of its arguments."""

    def __init__(
        self, argument: int, places: tuple[Path, ...], *, data: tuple[Path, ...] = (), hidden: bool = False
    ) -> None:
        self.argument = argument
        self.places = places
        self.data = data
        """Where it may be any bytes."""
        self.hidden = hidden
        """Whether Lua cannot get at what is there: then it takes secrets that are for commands' environments alone."""

    def takes(self, path: Path) -> bool:
        return any(_fits(path, place) for place in self.places)


ACCEPTED: Final[Mapping[str, tuple[_Accepted, ...]]] = {
    "process.run": (
        _Accepted(1, (("env", EVERY),), hidden=True),
        _Accepted(1, (("stdin",),), data=(("stdin",),)),
    ),
    "http.request": (
        _Accepted(
            1,
            (
                ("headers", EVERY),
                ("url",),
                ("client", "base_url"),
                ("query", ALL_BELOW),
                ("auth", "user"),
                ("auth", "password"),
                ("auth", "bearer"),
                ("json", ALL_BELOW),
                ("form", EVERY),
                ("body",),
            ),
            data=(("body",),),
        ),
    ),
    "hash.hmac": (_Accepted(0, (("key",),), data=(("key",),)),),
    "fs.write": (_Accepted(0, (("data",),), data=(("data",),)),),
}
WRITE: Final = "fs.write"
WRITE_MODE: Final = "0600"
OPENED_BYTES_MAXIMUM: Final = 4 * 1024 * 1024
"""Of all secrets in the arguments of one call."""


async def opened(job: JobContext, name: str, call: Call) -> Call:
    """Put the values of secrets into a call's arguments, where it takes them.

    :raises SecretNotReadable: for one that is for commands' environments alone.
    :raises MoonyardError: when the attempt is not to have one.
    """
    accepted = ACCEPTED.get(name)
    if accepted is None:
        return call
    opening = _Opening(job, _function(name, call), call.stage, accepted)
    arguments: list[Value] = []
    for index, argument in enumerate(call.arguments):
        arguments.append(await opening.open(index, argument, ()))
    if not opening.places:
        return call
    if name == WRITE and isinstance(arguments[0], dict):
        # Whoever says nothing else wants nobody else to read it.
        arguments[0] = {"mode": WRITE_MODE, **arguments[0]}
    return Call(
        stage=call.stage,
        arguments=arguments,
        plugin=call.plugin,
        group=call.group,
        secrets=opening.places,
    )


def _function(name: str, call: Call) -> str:
    """Name the function as its caller did: all of `http` are one call."""
    first = call.arguments[0] if call.arguments else None
    return first if name == "http.request" and isinstance(first, str) else name


class _Opening:
    def __init__(self, job: JobContext, function: str, stage: str, accepted: tuple[_Accepted, ...]) -> None:
        self._job = job
        self._function = function
        self._stage = stage
        self._accepted = accepted
        self.places: dict[Path, Secret] = {}
        self._size = 0

    async def open(self, index: int, value: object, path: Path) -> Any:
        """Give a value with all secrets in it opened that may be."""
        match value:
            case Secret():
                for accepted in self._accepted:
                    if accepted.argument == index and accepted.takes(path):
                        self.places[path] = value
                        return await self._value(value, path, accepted)
                return value
            case dict() if self._leads_on(index, path):
                items = cast("dict[Any, Any]", value).items()
                return {key: await self.open(index, item, (*path, str(key))) for key, item in items}
            case list() if self._leads_on(index, path):
                items = enumerate(cast("list[Any]", value), 1)
                return [await self.open(index, item, (*path, str(position))) for position, item in items]
            case _:
                return value

    def _leads_on(self, index: int, path: Path) -> bool:
        """Tell whether something below a place may be a secret."""
        return any(
            place[: len(path)] == path or _fits_beginning(path, place)
            for accepted in self._accepted
            if accepted.argument == index
            for place in accepted.places
        )

    async def _value(self, secret: Secret, path: Path, accepted: _Accepted) -> str:
        where = ".".join(path)
        value = bytearray()
        before = 0
        for part in secret.parts:
            match part:
                case SecretName(name=name):
                    delivery = await self._job.secrets.get(name, self._stage)
                    if not (delivery.readable or accepted.hidden):
                        raise SecretNotReadable(
                            f"{self._function}: `{where}`: secret `{name}` is for the environment of commands alone",
                            hint=f'Give it to a command: process.run({{ ..., secrets = {{ "{name}" }} }}).',
                        )
                    value += delivery.value
                case str():
                    value += part.encode()
                case bytes():
                    value += part
            self._size = _checked_size(self._function, self._size, len(value) - before)
            before = len(value)
        if path not in accepted.data:
            text_of(self._function, where, secret.names, bytes(value))
        return value.decode(errors="surrogateescape")


def text_of(function: str, where: str, names: list[str], value: bytes) -> str:
    """Give a value as text.

    :raises SecretNotText: when it is none; the message has nothing of it.
    """
    try:
        if b"\0" not in value:
            return value.decode()
    except UnicodeDecodeError:
        pass
    raise SecretNotText(
        f"{function}: `{where}` has to be text, and secret `{'`, `'.join(names)}` is not UTF-8, or has a NUL byte",
        hint="Store it as base64, and let the command decode it; `stdin` and fs.write take any bytes.",
    )


def _fits(path: Path, place: Path) -> bool:
    if place[-1] == ALL_BELOW:
        return path[: len(place) - 1] == place[:-1]
    return len(path) == len(place) and all(
        expected in {EVERY, name} for name, expected in zip(path, place, strict=True)
    )


def _fits_beginning(path: Path, place: Path) -> bool:
    return place[-1] == ALL_BELOW and path[: len(place) - 1] == place[:-1]


async def get(job: JobContext, call: Call) -> Value:
    """See that the stage may have a secret; its value stays here.

    :raises MoonyardError: when the attempt is not to have it there.
    """
    name = call.arguments[0] if call.arguments else None
    if not isinstance(name, str):
        raise ArgumentInvalid(f"{GET} takes a secret's name, got {lua_type(name)}")
    await job.secrets.get(name, call.stage)
    return None


async def reveal(job: JobContext, call: Call) -> Value:
    """Give a secret's value to Lua, and write down that it was.

    :raises SecretNotReadable: for one that is for commands' environments alone.
    """
    secret = cast("object", call.arguments[0] if call.arguments else None)
    if not isinstance(secret, Secret):
        raise ArgumentInvalid(f"{REVEAL} takes a secret, got {lua_type(secret)}")
    value = b""
    for part in secret.parts:
        match part:
            case SecretName(name=name):
                value += await _read(job, name, call.stage)
            case str():
                value += part.encode()
            case bytes():
                value += part
        _checked_size(REVEAL, 0, len(value))
    return value


def _checked_size(function: str, size: int, more: int) -> int:
    """Count what the secrets of one call come to: a few bytes of Lua's name a large value, as often as it likes.

    :raises ArgumentInvalid: when it is more than a call may bring along by itself.
    """
    if size + more > OPENED_BYTES_MAXIMUM:
        raise ArgumentInvalid(
            f"{function}: the secrets in its arguments are larger than {OPENED_BYTES_MAXIMUM} bytes together"
        )
    return size + more


async def _read(job: JobContext, name: str, stage: str) -> bytes:
    is_first = not job.secrets.was_read(name, stage)
    if not (await job.secrets.get(name, stage)).readable:
        raise SecretNotReadable(
            f"{REVEAL}: secret `{name}` is for the environment of commands alone",
            hint=f'Give it to a command: process.run({{ ..., secrets = {{ "{name}" }} }}).',
        )
    delivery = await job.secrets.get(name, stage, "lua")
    if is_first:
        await job.stream.log(stage, "info", "system", f"the script reads secret `{name}` in plain (`reveal`)")
    return delivery.value


__all__ = ["ACCEPTED", "CALLS", "SecretNotAccepted", "SecretNotText", "opened", "text_of"]

CALLS: Final = {GET: get, REVEAL: reveal}
