"""``json``, ``yaml``, ``toml``, ``hash`` and ``base64``."""

from __future__ import annotations

from typing import Any, Final

from runner.modules import data
from runner.reference.description import Constant, Given, Module, function
from runner.reference.lua_types import ANY

JSON: Final = Module(
    name="json",
    words="Values as JSON, and back. A table with the keys 1 to n is a list, any other has names.",
    functions=(
        function(
            "json.decode",
            "Reads a value.",
            arguments=data.JsonDecodeArguments,
            positional=("text",),
            gives=Any,
            errors=("data_invalid",),
            example="""
local answer = json.decode('{"name": "app", "error": null}', { nulls = false })
assert(answer.name == "app" and answer.error == nil)
""",
        ),
        function(
            "json.encode",
            "Writes a value as text. The same value gives the same text.",
            parameters=(
                Given("value", Any, "whatever Lua has"),
                Given("options", data.JsonEncodeArguments, "how", required=False, without=("value",)),
            ),
            gives=str,
            errors=("data_invalid",),
            example="""
log.info(json.encode({ list = { 1, 2 }, none = json.array({}), nothing = json.null }))
log.info(json.encode({ name = "app" }, { pretty = true }))
""",
        ),
        function(
            "json.array",
            "Makes a table a list also when it is empty: an empty table is `{}` otherwise.",
            parameters=(Given("list", list[Any], "the table"),),
            gives=list[Any],
            gives_words="the same table",
            example="""
assert(json.encode(json.array({})) == "[]")
""",
        ),
    ),
    constants=(
        Constant(
            name="json.null",
            type=ANY,
            words="what null is in Lua; YAML's null is it too. `json.encode` writes it as null",
        ),
    ),
)

YAML: Final = Module(
    name="yaml",
    words="Values as YAML 1.2, and back: `on`, `yes` and `no` are strings, aliases and `<<` work.",
    functions=(
        function(
            "yaml.decode",
            "Reads the value of a text's only document.",
            arguments=data.YamlDecodeArguments,
            positional=("text",),
            gives=Any,
            errors=("data_invalid",),
            example="""
local config = yaml.decode("on: [push]\\nlimits: { memory: 512 }\\n")
assert(config.on[1] == "push" and config.limits.memory == 512)
assert(#yaml.decode("--- 1\\n--- 2\\n", { all = true }) == 2)
""",
        ),
        function(
            "yaml.encode",
            "Writes a value as text.",
            parameters=(Given("value", Any, "whatever Lua has"),),
            gives=str,
            errors=("data_invalid",),
            example="""
log.info(yaml.encode({ image = "alpine", ports = { 80 } }))
""",
        ),
    ),
)

TOML: Final = Module(
    name="toml",
    words="Tables as TOML, and back. Dates and times are text.",
    functions=(
        function(
            "toml.decode",
            "Reads a table.",
            arguments=data.TextArguments,
            positional=("text",),
            gives=dict[str, Any],
            errors=("data_invalid",),
            example="""
assert(toml.decode('[package]\\nname = "app"\\n').package.name == "app")
""",
        ),
        function(
            "toml.encode",
            "Writes a table as text.",
            parameters=(Given("value", dict[str, Any], "a table with names"),),
            gives=str,
            errors=("data_invalid",),
            example="""
log.info(toml.encode({ package = { name = "app", version = "1.4.2" } }))
""",
        ),
    ),
)

HASH: Final = Module(
    name="hash",
    words="Hashes and signatures of strings. `fs.hash` gives the hash of a file.",
    functions=(
        function(
            "hash.sha256",
            "Gives the hash of a string in hexadecimal.",
            arguments=data.HashArguments,
            positional=("data",),
            gives=str,
            alike=("hash.sha512", "hash.sha1", "hash.md5", "hash.blake2b"),
            example="""
assert(hash.sha256("moon") == hash.sha256("mo" .. "on"))
log.info(hash.blake2b("moon"))
""",
        ),
        function(
            "hash.hmac",
            """Gives the signature of a string with a key (RFC 2104). The key may be a secret, which the script does not
            have to read for that; the signature is none.""",
            arguments=data.HmacArguments,
            positional=("key", "data"),
            gives=str,
            example="""
local body = json.encode({ state = "succeeded" })
local signature = hash.hmac("a key", body)
assert(#signature == 64 and signature ~= hash.hmac("another key", body))
log.info(hash.hmac("a key", body, { algorithm = "sha512", encoding = "base64" }))
""",
        ),
    ),
)

BASE64: Final = Module(
    name="base64",
    words="Any string as letters, and back.",
    functions=(
        function(
            "base64.encode",
            "Writes a string in letters and digits.",
            arguments=data.Base64EncodeArguments,
            positional=("data",),
            gives=str,
            example="""
assert(base64.encode("moon") == "bW9vbg==")
log.info(base64.encode("\\0\\xff\\xfe", { url = true }))
""",
        ),
        function(
            "base64.decode",
            "Reads it.",
            arguments=data.Base64DecodeArguments,
            positional=("text",),
            gives=str,
            errors=("data_invalid",),
            example="""
assert(base64.decode("bW9vbg==") == "moon")
""",
        ),
    ),
)
