"""``time``: moments as text and back, in any time zone."""

from __future__ import annotations

import math
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.modules import time
from runner.modules.arguments import ArgumentInvalid
from runner.modules.time import FormatArguments, ParseArguments, PartsArguments

MOMENT = 1795543200.25
"""2026-11-24T18:00:00.250Z."""


def format_(seconds: float, **options: Any) -> Any:
    return time._format(FormatArguments(seconds=seconds, **options))


def parse(text: str, **options: Any) -> Any:
    return time._parse(ParseArguments(text=text, **options))


def parts(seconds: float, **options: Any) -> Any:
    return time._parts(PartsArguments(seconds=seconds, **options))


def test_moments_are_written_as_rfc_3339_or_as_it_is_asked_for():
    assert format_(MOMENT) == "2026-11-24T18:00:00.250Z"
    assert format_(MOMENT, zone="Europe/Berlin") == "2026-11-24T19:00:00.250+01:00"
    assert format_(MOMENT, format="%Y-%m-%d %H:%M %Z", zone="Asia/Tokyo") == "2026-11-25 03:00 JST"
    assert format_(0, format="%d%%") == "01%"
    assert format_(-1) == "1969-12-31T23:59:59.000Z"


def test_texts_are_read():
    assert parse("2026-11-24T18:00:00.25Z") == MOMENT
    assert parse("2026-11-24t19:00:00.250+01:00") == MOMENT
    assert parse("24.11.2026 19:00", format="%d.%m.%Y %H:%M", zone="Europe/Berlin") == 1795543200.0
    assert parse("2026-11-24 18:00 +0000", format="%Y-%m-%d %H:%M %z", zone="Asia/Tokyo") == 1795543200.0


def test_moments_are_taken_apart():
    assert parts(MOMENT, zone="Europe/Berlin") == {
        "year": 2026,
        "month": 11,
        "day": 24,
        "hour": 19,
        "minute": 0,
        "second": 0.25,
        "weekday": 2,
        "yearday": 328,
        "week": 48,
        "offset": 3600,
        "zone": "CET",
    }


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: format_(0, zone="Mars/Olympus"), '`zone` must be a time zone such as "Europe/Berlin" or "UTC"'),
        (lambda: format_(0, zone="../../etc/passwd"), "`zone` must be a time zone"),
        (lambda: format_(0, zone="/etc/localtime"), "`zone` must be a time zone"),
        (lambda: format_(math.inf), "`seconds` must be seconds since 1970 in the years 1 to 9999"),
        (lambda: format_(math.nan), "`seconds` must be seconds since 1970"),
        (lambda: format_(1e15), "`seconds` must be seconds since 1970"),
        (lambda: format_(0, format="%s"), "no directives but"),
        (lambda: format_(0, format="%"), "no directives but"),
        (lambda: format_(0, format="x" * 300), "up to 200 characters"),
        (lambda: parse("yesterday"), "`text` must be a time such as 2026-11-24T18:00:00Z, got 'yesterday'"),
        (lambda: parse("2026-11-24T18:00:00"), "`text` must be a time such as"),
        (lambda: parse("2026-13-24T18:00:00Z"), "`text` must be a time such as"),
        (lambda: parse("x", format="%Y"), "`text` must be a time such as %Y, got 'x'"),
    ],
)
def test_what_is_not_taken_is_told(call: Any, message: str):
    with pytest.raises(ArgumentInvalid) as raised:
        call()
    assert message in raised.value.message


@given(
    st.integers(-(2**34), 2**34).map(lambda milliseconds: milliseconds / 1000 * 100),
    st.sampled_from(["UTC", "Europe/Berlin", "America/New_York", "Asia/Kolkata", "Pacific/Apia"]),
)
def test_what_is_written_is_read_as_it_was(seconds: float, zone: str):
    assert abs(parse(format_(seconds, zone=zone)) - seconds) < 0.001


def test_a_text_is_asked_for_each_part_once():
    with pytest.raises(ArgumentInvalid, match="`format` has %Y more than once"):
        parse("2026 2026", format="%Y %Y")
    assert parse("2026%%", format="%Y%%%%") == parse("2026", format="%Y")


@given(
    st.text(max_size=20),
    st.lists(
        st.sampled_from([*(f"%{letter}" for letter in time.DIRECTIVES), " ", "-", "(", "[", "\\", "*"]), max_size=8
    ),
)
def test_any_format_is_read_by_or_told(text: str, parts_of_format: list[str]):
    with suppress(ArgumentInvalid):
        parse(text, format="".join(parts_of_format))
