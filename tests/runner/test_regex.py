"""``regex``: matches as Lua has them, in time that grows with the text alone."""

from __future__ import annotations

import re
import tracemalloc
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.modules import regex
from runner.modules.arguments import ArgumentInvalid
from runner.modules.regex import FindAllArguments, RegexArguments, RegexTimeout, ReplaceArguments, SplitArguments


def match(text: str, pattern: str, **options: Any) -> Any:
    return regex._match(RegexArguments(text=text, pattern=pattern, **options))


def find_all(text: str, pattern: str, **options: Any) -> Any:
    return regex._find_all(FindAllArguments(text=text, pattern=pattern, **options))


def replaced(text: str, pattern: str, replacement: str, **options: Any) -> tuple[bytes, int]:
    made: Any = regex._replace(ReplaceArguments(text=text, pattern=pattern, replacement=replacement, **options))
    return made["text"], made["count"]


def split(text: str, pattern: str, **options: Any) -> Any:
    return regex._split(SplitArguments(text=text, pattern=pattern, **options))


def test_a_match_has_its_place_and_its_groups_by_number_and_name():
    assert match("app 1.4.2", r"(?P<major>\d+)\.(\d+)(-rc)?") == {
        "text": b"1.4",
        "first": 5,
        "last": 7,
        "groups": {1: b"1", 2: b"4", "major": b"1"},
    }
    assert match("app", r"\d") is None


def test_places_count_bytes_and_characters_are_whole():
    assert match("ü", "^.$") == {"text": "ü".encode(), "first": 1, "last": 2, "groups": {}}
    assert [(one["first"], one["last"]) for one in find_all("aüb", "x*")] == [(1, 0), (2, 1), (4, 3), (5, 4)]
    assert match("\udcff\udcfe", r"^..$")["text"] == b"\xff\xfe"  # no UTF-8: byte by byte


def test_options_say_what_is_the_same():
    assert match("ABC", "b") is None
    assert match("ABC", "b", ignore_case=True)["first"] == 2
    assert match("a\nb", "^b$") is None
    assert match("a\nb", "^b$", multiline=True)["first"] == 3
    assert match("a\nb", "a.b") is None
    assert match("a\nb", "a.b", dotall=True)["last"] == 3


def test_replacements_name_groups():
    assert replaced("a1b22", r"(?P<n>\d)(\d)?", "<$0|$1|${n}|$2|$$>") == (b"a<1|1|1||$>b<22|2|2|2|$>", 2)
    assert replaced("aaa", "a", "b", count=2) == (b"bba", 2)
    assert replaced("ab", "", "-") == (b"-a-b-", 3)


def test_texts_are_split():
    assert split("a, b,c", r",\s*") == [b"a", b"b", b"c"]
    assert split("a,b,c", ",", limit=2) == [b"a", b"b,c"]
    assert split(",a,", ",") == [b"", b"a", b""]
    assert split("abc", "") == [b"a", b"b", b"c"]
    assert split("", ",") == [b""]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: match("a", "("), "`pattern` is no regular expression that is known here"),
        (lambda: match("a", r"(a)\1"), "`pattern` is no regular expression that is known here"),
        (lambda: match("a", "(?=a)"), "`pattern` is no regular expression that is known here"),
        (lambda: match("a", "a{1000}{1000}"), "`pattern` is no regular expression that is known here"),
        (lambda: match("a", "a" * 20_000), "`pattern` has at most 16384 bytes, got 20000"),
        (lambda: match("a" * (regex.TEXT_BYTES_MAXIMUM + 1), "a"), "`text` has at most 16777216 bytes"),
        (lambda: find_all("a" * 200_000, "a"), "there are more than 100000 matches"),
        (lambda: find_all("a", "a", limit=0), "`limit` must be a whole number of at least 1, got 0"),
        (lambda: replaced("a", "a", "$2"), "names the group `2`, and the pattern has 0 groups"),
        (lambda: replaced("a", "(?P<x>a)", "${y}"), "names the group `y`, and the pattern has the names x"),
        (lambda: replaced("a", "a", "$"), "a `$` in `replacement` has nothing behind it"),
        (lambda: replaced("a" * 90_000, "a", "b" * 1000), "the result is larger than 16777216 bytes"),
    ],
)
def test_what_is_not_taken_is_told(call: Any, message: str):
    with pytest.raises(ArgumentInvalid) as raised:
        call()
    assert message in raised.value.message


@pytest.mark.parametrize("pattern", ["(a*)*b", "(a|a)*b", "(a?){30}a{30}b", "(.*)(.*)(.*)(.*)(.*)[^a]", "((a+)+)+$b"])
def test_no_pattern_takes_longer_than_the_text_is_long(pattern: str):
    # The usual engines take longer than the universe is old for each of these.
    assert match("a" * 50_000, pattern) is None


def test_looking_for_all_matches_has_an_end(monkeypatch: pytest.MonkeyPatch):
    # Each match looks at all the rest of the text, so all of them take the square of its length.
    monkeypatch.setattr(regex, "SECONDS_MAXIMUM", 0.05)
    with pytest.raises(RegexTimeout) as raised:
        find_all("x" * 4_000_000, "x*y|x")
    assert raised.value.code == "regex_timeout"


@given(st.text(max_size=60), st.text(max_size=60))
def test_an_escaped_text_matches_itself_and_nothing_else(text: str, other: str):
    escaped: Any = regex._escape(regex.EscapeArguments(text=text))
    pattern = f"^(?s:{escaped.decode()})$"
    assert match(text, pattern) is not None
    assert (match(other, pattern) is not None) == (other == text)


@given(st.text("ab,ü", max_size=30), st.sampled_from(["a", "a+", ",", "[^a]", "b*", "(a)(b)?", "ü|,", ""]))
def test_matches_are_those_of_another_engine(text: str, pattern: str):
    expected = [
        (len(text[: one.start()].encode()) + 1, len(text[: one.end()].encode())) for one in re.finditer(pattern, text)
    ]
    found = [(one["first"], one["last"]) for one in find_all(text, pattern)]
    # Python's finds an empty match right behind another one, too; RE2's callers do not.
    behind = {last for first, last in found if last >= first}
    assert found == [place for place in expected if place[1] >= place[0] or place[1] not in behind] or (
        [place for place in found if place[1] >= place[0]] == [place for place in expected if place[1] >= place[0]]
    )


@pytest.mark.parametrize(
    ("made", "peak_bytes"),
    [
        (lambda: match("b" + "a" * 1_000_000, "b" + "(" * 50 + "a*" + ")" * 50), 8_000_000),
        (lambda: replaced("a" * 1_000_000, "a+", "$0" * 200), 8_000_000),
    ],
)
def test_a_result_that_is_too_large_is_refused_before_it_is_made(made: Callable[[], object], peak_bytes: int):
    tracemalloc.start()
    try:
        with pytest.raises(ArgumentInvalid, match="the result is larger than 16777216 bytes"):
            made()
        assert tracemalloc.get_traced_memory()[1] < peak_bytes
    finally:
        tracemalloc.stop()


def test_a_pattern_with_very_many_groups_is_refused():
    with pytest.raises(ArgumentInvalid, match="101 groups, and at most 100"):
        match("a", "(a)?" * 101)
