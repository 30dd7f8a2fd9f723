"""Secrets in Lua: values that can be handed on, put together and compared, and that no script can look into."""

from __future__ import annotations

import msgspec
import pytest

from sandbox import frames
from sandbox.frames import Secret, SecretName
from tests.sandbox.conftest import RecordingHost, failure_of, run_script

GET = 'local t, u = secret.get("TOKEN"), secret.get("USER_NAME")\n'


def given(host: RecordingHost) -> object:
    """What the first command was given."""
    call = next(arguments for name, arguments in host.calls if name == "process.run")
    return call[1]


async def test_a_secret_goes_out_as_its_name_and_nothing_else() -> None:
    host = await run_script(
        GET + 'process.run({ command = "x", env = { A = t, B = "Bearer " .. t, C = u .. ":" .. t .. 1 } })'
    )
    assert host.calls[:2] == [("secret.get", ["TOKEN", None]), ("secret.get", ["USER_NAME", None])]
    assert given(host) == {
        "command": "x",
        "env": {
            "A": Secret((SecretName("TOKEN"),)),
            "B": Secret(("Bearer ", SecretName("TOKEN"))),
            "C": Secret((SecretName("USER_NAME"), ":", SecretName("TOKEN"), "1")),
        },
    }


@pytest.mark.parametrize(
    ("expression", "shown"),
    [
        ("tostring(t)", "***"),
        ("t", "***"),
        ('tostring("Bearer " .. t)', "Bearer ***"),
        ('string.format("%s and %s", t, "x" .. u)', "*** and x***"),
        ('("a"):rep(2) .. tostring(t .. "b")', "aa***b"),
        ("#tostring(t)", "3"),
        ("type(t)", "table"),
        ("getmetatable(t)", "secret"),
        ("next(t)", "nil"),
        ("rawlen(t)", "0"),
        ('rawget(t, "name")', "nil"),
        ("pcall(json.encode, 1) and select('#', pairs(t)(t))", "1"),
    ],
)
async def test_what_a_script_sees_of_it(expression: str, shown: str) -> None:
    host = await run_script(GET + f"log.info({expression})\nprint({expression})")
    assert host.lines == [shown, shown]


@pytest.mark.parametrize(
    ("expression", "holds"),
    [
        ("t == t", True),
        ('t == secret.get("TOKEN")', True),
        ("t == u", False),
        ('("a" .. t) == ("a" .. t)', True),
        ('("a" .. t) == ("b" .. t)', False),
        ('("a" .. ("b" .. t)) == ("ab" .. t)', True),
        ('t == "***"', False),
        ('t .. "" == t', True),
        ("t == setmetatable({}, { __eq = function() return true end })", False),
    ],
)
async def test_secrets_are_compared_by_their_names(expression: str, holds: bool) -> None:
    host = await run_script(GET + f"log.info({expression})")
    assert host.lines == [str(holds).lower()]


@pytest.mark.parametrize(
    ("body", "code", "words"),
    [
        ("local x = #t", "secret_not_accepted", "length of a secret"),
        ("local x = t.value", "secret_not_accepted", "`value` of a secret"),
        ("local x = t:upper()", "secret_not_accepted", "`upper` of a secret"),
        ("t.value = 1", "secret_not_accepted", "`value` of a secret was to be set"),
        ("local x = t .. {}", "lua_error", "concatenate a secret with a table"),
        ("local x = t .. nil", "lua_error", "concatenate a secret with a nil"),
        ("local x = t < u", "lua_error", "attempt to compare two secret values"),
        ("local x = t + 1", "lua_error", "attempt to perform arithmetic"),
        ('local x = table.concat({ "a", t })', "lua_error", "invalid value"),
        ("setmetatable(t, {})", "lua_error", "protected metatable"),
        ('process.run({ command = "x", env = { [t] = "a" } })', "not_plain", "a table for a key"),
        ("secret.get()", "argument_invalid", "secret.get takes a secret's name, got nil"),
        ("secret.get({})", "argument_invalid", "got a table"),
        ('secret.get("A", "B")', "argument_invalid", "more than one argument"),
        ('t.reveal("x")', "argument_invalid", "reveal takes nothing but the secret"),
        ("for _ = 1, 2000 do t = t .. u end", "argument_invalid", "more than 1,000 parts"),
        ("error(t)", "lua_error", "error called with"),
        ('error({ message = "no " .. t })', "lua_error", "no ***"),
    ],
)
async def test_what_cannot_be_done_with_it_is_told(body: str, code: str, words: str) -> None:
    error = await failure_of(GET + body)
    assert error.code == code
    assert words in error.message
    assert "TOKEN" not in error.message


async def test_reveal_asks_the_runner_with_the_name() -> None:
    host = await run_script(GET + 'local ok, x = pcall(function() return ("x" .. t):reveal() end)')
    assert host.calls[-1] == ("secret.reveal", [Secret(("x", SecretName("TOKEN"))), None])


async def test_a_secret_is_one_also_deep_in_a_table_and_as_an_argument_of_its_own() -> None:
    host = await run_script(GET + 'fs.write("f", t)\npcall(http.post, "http://x/", { json = { a = { b = { t } } } })')
    assert host.calls[2] == ("fs.write", [{"path": "f", "data": Secret((SecretName("TOKEN"),))}, None])
    name, arguments = host.calls[3]
    assert name == "http.request"
    assert arguments[1] == {
        "url": "http://x/",
        "method": "POST",
        "json": {"a": {"b": [Secret((SecretName("TOKEN"),))]}},
    }


async def test_what_scripts_put_on_it_changes_nothing() -> None:
    host = await run_script(
        GET + 'rawset(t, "name", "OTHER")\nrawset(t, 1, "x")\nprocess.run({ command = "x", env = { A = t } })'
    )
    assert given(host) == {"command": "x", "env": {"A": Secret((SecretName("TOKEN"),))}}


async def test_it_cannot_be_had_while_the_file_is_loaded() -> None:
    error = await failure_of("", before='local t = secret.get("TOKEN")')
    assert error.code == "call_at_top_level" or "cannot be called while the file is loaded" in error.message


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\x90",
        b"\xa1x",
        b"\x91\x01",
        b"\x91\xc0",
        b"\x91\x92\xa1a\xa1b",
        b"\x91\x91\x01",
        b"\x91\x91\xa0",
        b"\x91\x91\xd9\xc8" + b"a" * 200,
        b"\xdc\x04\x00" + b"\xa1a" * 1024,
        b"\x91\x91\xa1a rest",
    ],
)
def test_a_forged_secret_of_a_wrong_shape_is_a_breach(payload: bytes) -> None:
    extension = msgspec.msgpack.Ext(frames.SECRET_EXTENSION, payload)
    frame = msgspec.msgpack.encode({"op": "call", "name": "process.run", "arguments": [extension]})
    with pytest.raises((msgspec.DecodeError, ValueError, TypeError)):
        frames.decoder.decode(frame)
