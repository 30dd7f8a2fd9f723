"""``json``, ``yaml``, ``toml``, ``hash`` and ``base64``: values and texts, and nothing of the job.

They run in threads like work on files, for a large text takes its time.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Callable
from typing import Annotated, Any, Final, TypeVar

import msgspec

from runner import file_work
from runner.formats import json, toml, yaml
from runner.formats.plain import DataInvalid
from runner.job_context import Call, JobContext
from runner.modules.arguments import OneOf, choice, data, parse
from sandbox.frames import Value

Arguments = TypeVar("Arguments", bound=msgspec.Struct)
HMAC_ALGORITHMS: Final = ("sha256", "sha512", "sha1")
HMAC_ENCODINGS: Final = ("hex", "base64", "bytes")


class JsonDecodeArguments(msgspec.Struct, frozen=True, kw_only=True):
    text: str
    """JSON."""
    nulls: bool = True
    """Whether null is `json.null` in tables with names, or nothing."""


class JsonEncodeArguments(msgspec.Struct, frozen=True, kw_only=True):
    value: Any
    """Whatever Lua has."""
    pretty: bool = False
    """Whether it is written over several lines."""


class YamlDecodeArguments(msgspec.Struct, frozen=True, kw_only=True):
    text: str
    """YAML 1.2."""
    every: bool = msgspec.field(name="all", default=False)
    """Whether all documents are given, in a list."""


class ValueArguments(msgspec.Struct, frozen=True, kw_only=True):
    value: Any
    """Whatever Lua has."""


class TextArguments(msgspec.Struct, frozen=True, kw_only=True):
    text: str
    """TOML."""


class HashArguments(msgspec.Struct, frozen=True, kw_only=True):
    data: str
    """Any string."""


class HmacArguments(msgspec.Struct, frozen=True, kw_only=True):
    key: str
    """What both ends know, any bytes."""
    data: str
    """What is signed, any string."""
    algorithm: Annotated[str, OneOf(HMAC_ALGORITHMS)] = "sha256"
    """The hash in it."""
    encoding: Annotated[str, OneOf(HMAC_ENCODINGS)] = "hex"
    """How it is given: `bytes` is the signature itself, which may be the next one's key."""


class Base64EncodeArguments(msgspec.Struct, frozen=True, kw_only=True):
    data: str
    """Any string."""
    url: bool = False
    """Whether `-` and `_` take the place of `+` and `/`, and there is no padding."""


class Base64DecodeArguments(msgspec.Struct, frozen=True, kw_only=True):
    text: str
    """Of both alphabets, with or without padding, also over several lines."""


def text_value(text: bytes) -> Value:
    """Give text as it goes to Lua."""
    return text.decode()


def _json_decode(arguments: JsonDecodeArguments) -> Value:
    return json.decode(data(arguments.text), nulls=arguments.nulls)


def _json_encode(arguments: JsonEncodeArguments) -> Value:
    return text_value(json.encode(arguments.value, pretty=arguments.pretty))


def _yaml_decode(arguments: YamlDecodeArguments) -> Value:
    return yaml.decode(data(arguments.text), every=arguments.every)


def _yaml_encode(arguments: ValueArguments) -> Value:
    return text_value(yaml.encode(arguments.value))


def _toml_decode(arguments: TextArguments) -> Value:
    return toml.decode(data(arguments.text))


def _toml_encode(arguments: ValueArguments) -> Value:
    return text_value(toml.encode(arguments.value))


def _hash_by(algorithm: str) -> Callable[[HashArguments], Value]:
    return lambda arguments: hashlib.new(algorithm, data(arguments.data), usedforsecurity=False).hexdigest()


def _hmac(arguments: HmacArguments) -> Value:
    algorithm = choice("hash.hmac", "algorithm", arguments.algorithm, HMAC_ALGORITHMS)
    encoding = choice("hash.hmac", "encoding", arguments.encoding, HMAC_ENCODINGS)
    made = hmac.digest(data(arguments.key), data(arguments.data), algorithm)
    match encoding:
        case "bytes":
            return made
        case "base64":
            return base64.b64encode(made).decode()
        case _:
            return made.hex()


def _base64_encode(arguments: Base64EncodeArguments) -> Value:
    if arguments.url:
        return base64.urlsafe_b64encode(data(arguments.data)).rstrip(b"=").decode()
    return base64.b64encode(data(arguments.data)).decode()


def _base64_decode(arguments: Base64DecodeArguments) -> Value:
    # Of both alphabets, with or without padding, and in lines, as programs write it.
    text = b"".join(data(arguments.text).split()).replace(b"-", b"+").replace(b"_", b"/")
    try:
        return base64.b64decode(text.rstrip(b"=") + b"=" * (-len(text.rstrip(b"=")) % 4), validate=True)
    except binascii.Error as error:
        raise DataInvalid(f"`text` is not base64: {str(error).lower()}") from error


class DataCall:
    """A handler: what the call takes, and what it makes of it."""

    def __init__(self, name: str, kind: type[Arguments], work: Callable[[Arguments], Value]) -> None:
        self._name = name
        self.arguments: type[msgspec.Struct] = kind
        # A large table takes its time to be checked, too.
        self._answer: Callable[[Value], Value] = lambda given: work(parse(name, kind, given))

    async def __call__(self, _job: JobContext, call: Call) -> Value:
        """Answer a call.

        :raises ArgumentInvalid: for what it does not take.
        :raises DataInvalid: for what cannot be read or written.
        """
        given = call.arguments[0] if call.arguments else None
        return await file_work.run(self._name, lambda _check: self._answer(given))


CALLS: Final = {
    "json.decode": DataCall("json.decode", JsonDecodeArguments, _json_decode),
    "json.encode": DataCall("json.encode", JsonEncodeArguments, _json_encode),
    "yaml.decode": DataCall("yaml.decode", YamlDecodeArguments, _yaml_decode),
    "yaml.encode": DataCall("yaml.encode", ValueArguments, _yaml_encode),
    "toml.decode": DataCall("toml.decode", TextArguments, _toml_decode),
    "toml.encode": DataCall("toml.encode", ValueArguments, _toml_encode),
    "base64.encode": DataCall("base64.encode", Base64EncodeArguments, _base64_encode),
    "base64.decode": DataCall("base64.decode", Base64DecodeArguments, _base64_decode),
    **{
        f"hash.{algorithm}": DataCall(f"hash.{algorithm}", HashArguments, _hash_by(algorithm))
        for algorithm in ("blake2b", "md5", "sha1", "sha256", "sha512")
    },
    "hash.hmac": DataCall("hash.hmac", HmacArguments, _hmac),
}
