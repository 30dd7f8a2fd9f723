"""What host calls take from Lua: read into types, or refused in the user's words; never anything else."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.modules.arguments import ArgumentInvalid, choice, data, environment, parse, text, word
from runner.modules.container import RunOptions, size_bytes
from runner.modules.process import RunArguments
from sandbox.process import Value
from schema.errors import ErrorInfo

RUN = "process.run"

plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats()
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=5)
    | st.binary(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["command", "args", "env", "cwd", "stdin", "user", "check", "capture", b"\xff", 1]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=8,
)


def refused(value: Value, kind: type[msgspec.Struct]) -> ErrorInfo | None:
    try:
        parse(RUN, kind, value)
    except ArgumentInvalid as error:
        return error.info
    return None


def refusal(value: Value, kind: type[msgspec.Struct] = RunArguments) -> str:
    with pytest.raises(ArgumentInvalid) as caught:
        parse(RUN, kind, value)
    assert caught.value.code == "argument_invalid"
    return caught.value.message


@given(plain)
def test_any_value_is_read_or_refused_in_words_that_json_can_hold(value: Value) -> None:
    for kind in (RunArguments, RunOptions):
        told = refused(value, kind)
        if told is not None:
            assert told.message.startswith(RUN)
            assert "``" not in told.message
            assert msgspec.json.encode(told)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (None, "takes one table of named arguments, got nil"),
        ("make", "takes one table of named arguments, got a string"),
        (["make"], "takes one table of named arguments, got a list"),
        ([], "`command` is required"),
        ({"comand": "x"}, "`comand` is not an argument; did you mean `command`? (accepted: command, args, "),
        ({"command": "x", 1: "y"}, "`1` is not an argument (accepted: "),
        ({"command": 5}, "`command` must be a string, got an integer"),
        ({"command": "x", "args": "y"}, "`args` must be a list, got a string"),
        ({"command": "x", "args": {1: "a", 3: "b"}}, "`args` must be a list, got a table with names"),
        ({"command": "x", "args": ["a", True]}, "`args[2]` must be an integer or a number or a string, got true or"),
        ({"command": "x", "args": ["a", ["b"]]}, "`args[2]` must be an integer or a number or a string, got a list"),
        ({"command": "x", "env": ["A=b"]}, "`env` must be a table with names, got a list"),
        ({"command": "x", "env": {"A": True}}, "`env[?]` must be an integer or a number or a string, got true or"),
        ({"command": "x", "env": {5: "b"}}, "the names in `env` must be strings, got an integer"),
        ({"command": "x", "capture": "1m"}, "`capture` must be true or false or an integer, got a string"),
    ],
)
def test_what_does_not_fit_is_told_in_the_users_words(value: Value, words: str) -> None:
    assert words in refusal(value)


def test_an_empty_table_is_a_list_or_has_names_as_the_argument_wants() -> None:
    empties: list[Value] = [{}, []]
    for empty in empties:
        read = parse(RUN, RunArguments, {"command": "x", "args": {}, "env": {}, "secrets": empty})
        assert (read.args, read.env, read.secrets) == ([], {}, [])
    assert parse("container.run", RunOptions, []).env == {}


@given(st.binary())
def test_bytes_of_a_lua_string_come_out_as_they_went_in(value: bytes) -> None:
    read = parse(RUN, RunArguments, {"command": "cat", "stdin": value})
    assert data(read.stdin) == value


def test_text_is_refused_where_it_is_none() -> None:
    assert text(RUN, "cwd", "ü\n") == "ü\n"
    with pytest.raises(ArgumentInvalid, match=r"`cwd` is not valid UTF-8 text: b'\\xff'"):
        text(RUN, "cwd", "\udcff")
    with pytest.raises(ArgumentInvalid, match="NUL"):
        text(RUN, "cwd", "a\0b")
    with pytest.raises(ArgumentInvalid, match='must be one of "a", "b", got "c"'):
        choice(RUN, "x", "c", ("a", "b"))


@pytest.mark.parametrize(
    ("value", "written"),
    [(1, "1"), (-(2**63), "-9223372036854775808"), (3.0, "3.0"), (-0.0, "-0.0"), (2.5, "2.5"), (0.1 + 0.2, "0.3"),
     (1e15, "1e+15"), (2.0**53, "9.007199254741e+15"), (1e100, "1e+100"), (float("inf"), "inf"), ("ü x", "ü x")],
)  # fmt: skip
def test_numbers_become_the_words_that_tostring_makes_of_them(value: str | float, written: str) -> None:
    assert word(RUN, "args[1]", value) == written


def test_the_environment_takes_any_name_that_a_variable_can_have() -> None:
    assert environment(RUN, {"A": "x=y\n", "a.b-c d": 1, "ü": 0.5}) == {"A": "x=y\n", "a.b-c d": "1", "ü": "0.5"}
    for name in ("", "A=B", "A\0", "\udcff"):
        with pytest.raises(ArgumentInvalid):
            environment(RUN, {name: "x"})
    with pytest.raises(ArgumentInvalid, match=r"env\.A"):
        environment(RUN, {"A": "\udcff"})


def test_sizes_of_memory_are_read_and_held_to_what_an_engine_takes() -> None:
    assert size_bytes("512m") == size_bytes("512MiB") == size_bytes("0.5g") == size_bytes(2.0**29) == 512 * 1024 * 1024
    for value in ("", "m", "-1g", "1p", "1 2g", 1, 0, -5, "7m", "99999999999g", 2.0**70, float("inf"), float("nan")):
        with pytest.raises(ArgumentInvalid, match="memory"):
            size_bytes(value)
