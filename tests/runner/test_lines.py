"""Lines of output: whatever comes, in whatever pieces, all of it is told and no line is too long."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from runner.lines import LINE_BYTES_MAXIMUM, LineSplitter

MAXIMUM = 16


def split(pieces: list[bytes], maximum: int = MAXIMUM) -> list[str]:
    splitter = LineSplitter(maximum)
    return [line for piece in pieces for line in splitter.feed(piece)] + splitter.finish()


def cuts(data: bytes, at: list[int]) -> list[bytes]:
    places = sorted({0, len(data), *(place % (len(data) + 1) for place in at)})
    return [data[start:end] for start, end in itertools.pairwise(places)]


@given(st.lists(st.text(st.characters(exclude_characters="\n\r\0", exclude_categories=["Cs"]), max_size=4)),
       st.lists(st.integers(0, 1000)))  # fmt: skip
def test_short_lines_are_told_as_they_were_written_however_they_arrive(lines: list[str], at: list[int]) -> None:
    data = "".join(f"{line}\n" for line in lines).encode()
    assert split(cuts(data, at)) == lines


@given(st.binary(max_size=200), st.lists(st.integers(0, 1000)))
def test_any_bytes_in_any_pieces_are_told_in_order_and_no_line_is_longer_than_the_maximum(
    data: bytes, at: list[int]
) -> None:
    told = split(cuts(data, at))
    assert all(len(line.encode()) <= MAXIMUM * 4 for line in told)  # an escape takes four characters
    without_ends = data.replace(b"\r\n", b"\n").removesuffix(b"\r").replace(b"\n", b"")
    shown = "".join(told)
    # Escapes and real characters mix only where a character was cut apart, so compare what is plainly readable.
    assert [c for c in shown if c.isascii() and c.isalnum() and c not in "xabcdef0123456789"] == [
        c for c in without_ends.decode("ascii", errors="ignore") if c.isalnum() and c not in "xabcdef0123456789"
    ]


@given(st.lists(st.binary(max_size=12)), st.lists(st.integers(0, 1000)), st.booleans())
def test_a_flood_is_told_as_the_same_lines_that_it_would_be_one_by_one(
    lines: list[bytes], at: list[int], is_whole: bool
) -> None:
    data = b"".join(line + b"\n" for line in lines)
    splitter, told = LineSplitter(MAXIMUM), list[str]()
    for piece in cuts(data, [] if is_whole else at):
        block = splitter.feed_block(piece)
        if block is None:
            told += splitter.feed(piece)
        else:
            told += block.text.split("\n")
            assert block.lines == block.text.count("\n") + 1
    assert told + splitter.finish() == split([data])


@given(st.text("aü€😀", min_size=1, max_size=200), st.lists(st.integers(0, 1000)))
def test_a_long_line_is_told_in_pieces_that_cut_no_character(text: str, at: list[int]) -> None:
    told = split(cuts(text.encode(), at))
    assert "".join(told) == text
    assert all(len(piece.encode()) <= MAXIMUM for piece in told)


def test_line_ends_of_both_kinds_end_a_line_and_others_do_not() -> None:
    assert split([b"a\r\nb\n\n\r\nc\rd\n\re"]) == ["a", "b", "", "", "c\rd", "\re"]
    assert split([b"a\r", b"\nb"]) == ["a", "b"]
    # A carriage return that stands where a long line is cut is a part of it.
    assert split([b"x" * (MAXIMUM - 1) + b"\ryyy\n"]) == ["x" * (MAXIMUM - 1) + "\r", "yyy"]


def test_a_line_that_grows_past_the_maximum_together_with_its_end_is_cut_too() -> None:
    splitter = LineSplitter(MAXIMUM)
    assert splitter.feed(b"x" * MAXIMUM) == []
    assert splitter.feed(b"y" * 10 + b"\n") == ["x" * MAXIMUM, "y" * 10]
    assert splitter.finish() == []


def test_bytes_that_are_no_text_are_shown_as_escapes() -> None:
    assert split([b"a\xffb\0c\xc3\n\xc3\xbc"], 100) == ["a\\xffb\\x00c\\xc3", "ü"]


def test_a_last_line_without_an_end_is_told_once() -> None:
    splitter = LineSplitter()
    assert splitter.feed(b"one\ntwo") == ["one"]
    assert splitter.finish() == ["two"]
    assert splitter.finish() == []
    assert splitter.feed(b"x" * (LINE_BYTES_MAXIMUM + 1)) == ["x" * LINE_BYTES_MAXIMUM]
    assert splitter.finish() == ["x"]
