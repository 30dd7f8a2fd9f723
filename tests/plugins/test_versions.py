"""Which versions a range takes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plugins import versions

NUMBER = st.integers(0, 30)
VERSION = st.builds("{}.{}.{}".format, NUMBER, NUMBER, NUMBER)


@pytest.mark.parametrize(
    ("wanted", "version", "takes"),
    [
        (None, "0.1.0", True),
        (None, "1.0.0-rc.1", False),
        ("1", "1.9.9", True),
        ("1", "10.0.0", False),
        ("1", "2.0.0", False),
        ("1", "1.0.0-rc.1", False),
        ("1.2", "1.2.0", True),
        ("1.2", "1.20.0", False),
        ("1.2", "1.3.0", False),
        ("1.2.3", "1.2.3", True),
        ("1.2.3", "1.2.4", False),
        ("1.2.3-rc.1", "1.2.3-rc.1", True),
        ("1.2.3-rc.1", "1.2.3", False),
    ],
)
def test_a_range_is_the_beginning_of_a_version(wanted: str | None, version: str, takes: bool):
    assert versions.fits(version, wanted) is takes


@pytest.mark.parametrize("text", ["", "v1", "1.", "01", "1.2.3.4", ">=1", "^1", "1 ", "1.2.3+build", "*", "1.x"])
def test_what_is_no_range_is_told(text: str):
    assert not versions.is_range(text)


def test_the_newest_is_taken_by_number_and_not_by_letter():
    known = ["1.2.0", "1.10.0", "1.9.9", "2.0.0-rc.1"]
    assert versions.newest(known, None) == "1.10.0"
    assert versions.newest(known, "1.2") == "1.2.0"
    assert versions.newest(known, "2") is None
    assert versions.newest(known, "2.0.0-rc.1") == "2.0.0-rc.1"
    assert versions.in_order(known) == ["2.0.0-rc.1", "1.10.0", "1.9.9", "1.2.0"]


@given(VERSION)
def test_a_version_is_taken_by_each_of_its_own_beginnings(version: str):
    major, minor, _ = version.split(".")
    for wanted in (None, major, f"{major}.{minor}", version):
        assert wanted is None or versions.is_range(wanted)
        assert versions.fits(version, wanted)
    assert not versions.fits(version, str(int(major) + 1))
