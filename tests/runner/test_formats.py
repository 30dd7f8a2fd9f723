"""JSON, YAML and TOML come back as they went; what is none is told with its line and column, and nothing exhausts."""

from __future__ import annotations

import json as json_library
import math
from contextlib import suppress
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runner.formats import json, toml, yaml
from runner.formats.plain import DEPTH_MAXIMUM, DataInvalid
from sandbox.frames import NULL, NULL_EXTENSION, Function, Value

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
NUMBERS = st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False)
SCALARS = (
    st.none() | st.booleans() | NUMBERS | TEXTS | st.sampled_from(["on", "No", "1e3", "0o7", "~", "", "1:2", "<<"])
)
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner) | st.dictionaries(TEXTS, inner), max_leaves=20)
TOML_SCALARS = st.booleans() | NUMBERS | TEXTS
TOML_VALUES = st.dictionaries(
    TEXTS, st.recursive(TOML_SCALARS, lambda inner: st.lists(inner) | st.dictionaries(TEXTS, inner), max_leaves=20)
)


def plain(value: Value) -> Any:
    """Give a value as Lua would give it back."""
    return msgspec.msgpack.decode(msgspec.msgpack.encode(value), ext_hook=as_none)


def as_none(code: int, _data: memoryview) -> None:
    assert code == NULL_EXTENSION


@settings(deadline=None)
@given(VALUES)
def test_json_comes_back_as_it_went(value: Value) -> None:
    assert plain(json.decode(json.encode(value))) == value
    assert plain(json.decode(json.encode(value, pretty=True))) == value
    assert json_library.loads(json.encode(value)) == value


@settings(deadline=None)
@given(VALUES)
def test_yaml_comes_back_as_it_went(value: Value) -> None:
    assert plain(yaml.decode(yaml.encode(value))) == value


@settings(deadline=None, max_examples=50)
@given(TOML_VALUES)
def test_toml_comes_back_as_it_went(value: Value) -> None:
    assert plain(toml.decode(toml.encode(value))) == value


@settings(deadline=None)
@given(st.binary(max_size=40) | st.text("[]{}:,-&*!|>'\"%@`#?<~ \n\tab1.=", max_size=40).map(str.encode))
def test_any_bytes_are_a_value_or_told(text: bytes) -> None:
    for decode in (json.decode, yaml.decode, toml.decode):
        with suppress(DataInvalid):
            plain(decode(text))


def test_tables_are_written_in_the_order_of_their_names() -> None:
    assert json.encode({"b": 1, "a": {"d": 1, "c": [True, None]}}) == b'{"a":{"c":[true,null],"d":1},"b":1}'
    assert yaml.encode({"b": 1, "a": "x\ny\n", "on": "no"}) == b"a: |\n  x\n  y\nb: 1\n'on': 'no'\n"
    assert toml.encode({"b": 1, "a": {"c": "x"}, "0": [1]}) == b'0 = [\n    1,\n]\nb = 1\n\n[a]\nc = "x"\n'


def test_null_has_a_place_where_it_is_wanted_and_in_lists_always() -> None:
    text = b'{"a": null, "b": [null, 1], "c": {"d": null}}'
    assert json.decode(text) == {"a": NULL, "b": [NULL, 1], "c": {"d": NULL}}
    assert json.decode(text, nulls=False) == {"b": [NULL, 1], "c": {}}


def test_numbers_beyond_those_of_lua_become_what_lua_makes_of_them() -> None:
    text = b"[9223372036854775807, 9223372036854775808, -9223372036854775808, 1" + b"0" * 300 + b"]"
    for decode in (json.decode, yaml.decode):
        assert decode(text) == [2**63 - 1, 2.0**63, -(2**63), 1e300]
    assert yaml.decode(b"[1" + b"0" * 5000 + b", -1" + b"0" * 5000 + b"]") == [math.inf, -math.inf]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (b'{"a": 1,\n "b": }', "line 2, column 7: expecting value, found `}`"),
        (b"[1, 2", "line 1, column 6: expecting ',' delimiter, found the end"),
        (b"", "line 1, column 1: expecting value, found the end"),
        (b"[1]\n\n[2]", "line 3, column 1: extra data, found `[2]`"),
        (b'["\xc3\xbc",\n"\xff"]', "line 2, column 2: a byte that is not UTF-8 text"),
        (b"[NaN]", "`NaN` is no JSON"),
        (b"[\x01]", "line 1, column 2: expecting value, found `\\x01]`"),
        (b"[" * 100_000, f"it is nested deeper than {DEPTH_MAXIMUM} levels"),
        (b"[" * 61 + b"]" * 61, f"it is nested deeper than {DEPTH_MAXIMUM} levels"),
        (b"[" + b"0," * 1_000_000 + b"0]", "it has more than 1000000 values"),
    ],
)
def test_what_is_no_json_is_told_with_its_place(text: bytes, told: str) -> None:
    with pytest.raises(DataInvalid) as caught:
        json.decode(text)
    assert caught.value.message == told


def doubled(levels: int) -> bytes:
    """A text that stands for ten values, ten times as many a level."""
    lines = ["a0: &a0 [" + "x," * 10 + "]"]
    lines += [f"a{level}: &a{level} [" + f"*a{level - 1}," * 10 + "]" for level in range(1, levels)]
    return "\n".join(lines).encode()


def merged(levels: int) -> bytes:
    lines = ["a0: &a0 {x: 1, y: 2}"]
    lines += [f"a{level}: &a{level} {{<<: [" + f"*a{level - 1}," * 10 + "]}" for level in range(1, levels)]
    return "\n".join(lines).encode()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (b"a: [1\nb", r"line 3, column 1: while parsing a flow sequence"),
        (b"a: 1\nb: 2\na: 3", r"line 3, column 1: key `a` is there twice"),
        (b"a: !Ref b", r"line 1, column 4: tag `!Ref` is not known here"),
        (b"a: !!python/object/apply:os.system [id]", r"tag `!!python/object/apply:os.system` is not known here"),
        (b"a: !!int x", r"line 1, column 4: `x` is no !!int"),
        (b"a: *b", r"line 1, column 4: `\*b` stands for nothing that came before"),
        (b"a: &a [*a]", r"line 1, column 8: `\*a` stands for nothing that came before"),
        (b"? [a]\n: 1", r"line 1, column 3: a key that is neither text nor a number"),
        (b"~: 1", r"line 1, column 1: a key that is neither text nor a number"),
        (b".nan: 1", r"line 1, column 1: a key that is neither text nor a number"),
        (b"<<: 1", r"line 1, column 5: `<<` takes tables with names"),
        (b"a: 1\n---\nb: 2", r"it has several documents, not one"),
        (b"---\n" * 1_000_000, r"it has several documents, not one"),
        (b"a: \xff", r"utf-8|UTF-8"),
        (b"[" * 100_000, r"line 1, column 61: it is nested deeper than 60 levels"),
        (b"- " * 100_000, r"column 121: it is nested deeper than 60 levels"),
        (doubled(8), r"with what its aliases stand for, it has more than 1000000 values"),
        (merged(10), r"with what its aliases stand for, it has more than 1000000 values"),
        (b"- &a '" + b"x" * 1_000_000 + b"'\n" + b"- *a\n" * 100, r"it has more than 1000000 values"),
        (b"#" * (4 * 1024 * 1024 + 1), r"at most 4194304 \(4 MiB\) of YAML are read"),
    ],
)
def test_what_is_no_yaml_is_told_with_its_place(text: bytes, told: str) -> None:
    with pytest.raises(DataInvalid, match=told):
        yaml.decode(text)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (b"", NULL),
        (b"[on, yes, No, y, true, False, ~, null, '', '1']",
         ["on", "yes", "No", "y", True, False, NULL, NULL, "", "1"]),
        (b"[1, -1, 012, 0x1F, 0o17, 1_000, 1:30, 3.10, 1e3, .5, -.inf, 2020-01-01]",
         [1, -1, 12, 31, 15, "1_000", "1:30", 3.1, 1000.0, 0.5, -math.inf, "2020-01-01"]),
        (b"a: &x {b: 1, c: 2}\nd: {<<: *x, c: 3}", {"a": {"b": 1, "c": 2}, "d": {"c": 3, "b": 1}}),
        (b"<<: [{a: 1}, {a: 2, b: 3}]\nc: 4", {"c": 4, "a": 1, "b": 3}),
        (b"[!!str 1, !!int '1', !!float 1, ! 1, !!null x, !!bool true]", ["1", 1, 1.0, "1", NULL, True]),
        (b"2: a\ntrue: b\n1.5: c", {2: "a", True: "b", 1.5: "c"}),
        (b"a: |\n  x\n  y\nb: >-\n  x\n  y\n", {"a": "x\ny\n", "b": "x y"}),
    ],
)  # fmt: skip
def test_yaml_is_that_of_version_1_2(text: bytes, value: Value) -> None:
    assert yaml.decode(text) == value


def test_documents_of_one_text_come_as_a_list() -> None:
    assert yaml.decode(b"a: &x 1\n---\nb\n---\n", every=True) == [{"a": 1}, "b", NULL]
    assert yaml.decode(b"", every=True) == []
    with pytest.raises(DataInvalid, match="stands for nothing"):
        yaml.decode(b"a: &x 1\n---\n*x", every=True)


def test_documents_together_are_no_more_than_one_may_be() -> None:
    part = doubled(5).rstrip(b"\n") + b"\n"
    assert yaml.decode(b"--- 1\n" * 10_000, every=True) == [1] * 10_000
    with pytest.raises(DataInvalid, match="it has more than 10000 documents"):
        yaml.decode(b"--- 1\n" * 10_001, every=True)
    yaml.decode(part)
    with pytest.raises(DataInvalid, match="it has more than 1000000 values"):
        yaml.decode((b"---\n" + part) * 10, every=True)


def test_keys_of_toml_with_dots_are_read_as_far_as_values_go() -> None:
    assert toml.decode(b"a." * 30 + b"b = '" + b"1.2.3." * 9 + b"'")
    with pytest.raises(DataInvalid, match="deeper"):
        toml.decode(b"a." * 60 + b"b = 1")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (b"a = ", "line 1, column 5: invalid value"),
        (b"a = 1\nb = = 2", "line 2, column 5: invalid value"),
        (b"[a]\n[a]", "line 2, column 3: cannot declare"),
        (b"a = '\xff'", "line 1, column 6: a byte that is not UTF-8 text"),
        (b"a = " + b"[" * 100_000, "it is nested deeper than 60 levels"),
        (b"x = 1\n" + b"a." * 1_000_000 + b"b = 1", "line 2: it is nested deeper than 60 levels"),
        (b"[" + b'"a" . ' * 500_000 + b"b]", "line 1: it is nested deeper than 60 levels"),
        (b"a = " + b"9" * 5000, "it has a number of more digits than are read"),
        (b"#" * (4 * 1024 * 1024 + 1), r"at most 4194304 \(4 MiB\) of TOML are read"),
    ],
)
def test_what_is_no_toml_is_told_with_its_place(text: bytes, told: str) -> None:
    with pytest.raises(DataInvalid, match=told):
        toml.decode(text)


def test_times_of_toml_come_as_text() -> None:
    assert toml.decode(b"a = 2020-01-02\nb = 03:04:05\nc = 2020-01-02T03:04:05Z") == {
        "a": "2020-01-02",
        "b": "03:04:05",
        "c": "2020-01-02T03:04:05+00:00",
    }


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ({"a": [1, {"b": math.nan}]}, r"`value\.a\[2\]\.b` is nan"),
        ([math.inf], r"`value\[1\]` is inf"),
        ({"a": "\udcff"}, r"`value\.a` is a string that is not UTF-8 text"),
        ({"\udcff": 1}, r"the value has a name that is not UTF-8 text"),
        ({1: "a", 3: "b"}, r"the value has a number for a key \(1\), and is no list"),
        ({"x": {True: 1}}, r"`value\.x` has a boolean for a key"),
    ],
)
def test_what_json_cannot_hold_is_told_with_its_place(value: Any, told: str) -> None:
    with pytest.raises(DataInvalid, match=told):
        json.encode(value)


@pytest.mark.parametrize(
    ("value", "told"),
    [([1], "a table with names"), ("x", "a table with names"), ({"a": [None]}, r"`value\.a\[1\]` is null")],
)
def test_what_toml_cannot_hold_is_told_with_its_place(value: Any, told: str) -> None:
    with pytest.raises(DataInvalid, match=told):
        toml.encode(value)


def test_an_empty_table_is_one_of_toml() -> None:
    assert toml.encode([]) == toml.encode({}) == b""


def test_numbers_of_yaml_beyond_any_are_the_infinite_one_and_texts_of_them_are_texts() -> None:
    digits = "9" * 400
    assert yaml.decode(f"[{digits}, -{digits}, 0x{'f' * 400}]".encode()) == [math.inf, -math.inf, math.inf]
    assert yaml.decode(yaml.encode({"a": digits})) == {"a": digits}


@pytest.mark.parametrize("encode", [json.encode, yaml.encode, toml.encode])
def test_what_only_a_hostile_process_sends_is_told_as_any_other(encode: Any) -> None:
    with pytest.raises(DataInvalid, match=r"value\.a` is a function, which cannot be written"):
        encode({"a": Function(3)})
