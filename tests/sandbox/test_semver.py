"""``semver``: versions in order, ranges, and bumps; checked against the order that semver.org gives."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.sandbox.conftest import failure_of, run_script

ORDERED = "1.0.0-alpha 1.0.0-alpha.1 1.0.0-alpha.beta 1.0.0-beta 1.0.0-beta.2 1.0.0-beta.11 1.0.0-rc.1 1.0.0"
"""From semver.org, item 11."""

INVALID = [
    "1",
    "1.2",
    "1.2.3.4",
    "01.2.3",
    "1.2.03",
    "1.2.3-",
    "1.2.3-01",
    "1.2.3-a..b",
    "1.2.3+",
    "1.2.3+a..b",
    "a.b.c",
    "",
]

RANGES = [
    ("1.2.3", "1.2.3", True),
    ("1.2.4", "=1.2.3", False),
    ("1.9.9", "^1.2.3", True),
    ("2.0.0", "^1.2.3", False),
    ("2.0.0-rc.1", "^1.2.3", False),
    ("0.2.9", "^0.2.3", True),
    ("0.3.0", "^0.2.3", False),
    ("0.0.3", "^0.0.3", True),
    ("0.0.4", "^0.0.3", False),
    ("0.0.9", "^0.0", True),
    ("0.9.0", "^0", True),
    ("1.2.9", "~1.2.3", True),
    ("1.3.0", "~1.2.3", False),
    ("1.2.0", "~1.2", True),
    ("1.9.0", "~1", True),
    ("1.2.9", "1.2.x", True),
    ("1.3.0", "1.2.*", False),
    ("9.9.9", "*", True),
    ("1.0.0", ">=1 <2", True),
    ("2.0.0", ">=1 <2", False),
    ("1.2.9", "> 1.2", False),
    ("1.3.0", "> 1.2", True),
    ("1.2.9", "<=1.2", True),
    ("1.3.0", "<=1.2", False),
    ("1.2.0", "<1.2", False),
    ("2.3.9", "1.2.3 - 2.3", True),
    ("2.4.0", "1.2.3 - 2.3", False),
    ("3.1.0", "^1.2 || 3.x", True),
    ("2.1.0", "^1.2 || 3.x", False),
    ("1.2.3-rc.2", ">=1.2.3-rc.1", True),
    ("1.2.4-rc.2", ">=1.2.3-rc.1", False),
    ("1.2.3-rc.2", "*", False),
    ("v1.2.3+build", "1.2.3", True),
]

BUMPS = [
    ("1.2.3", "major", "2.0.0"),
    ("1.2.3", "minor", "1.3.0"),
    ("1.2.3", "patch", "1.2.4"),
    ("2.0.0-rc.1", "major", "2.0.0"),
    ("1.3.0-rc.1", "minor", "1.3.0"),
    ("1.2.4-rc.1", "patch", "1.2.4"),
    ("1.2.3", "prerelease", "1.2.4-rc.1"),
    ("1.2.4-rc.9", "prerelease", "1.2.4-rc.10"),
    ("1.2.4-beta.2", "prerelease", "1.2.4-rc.1"),
]


async def test_versions_have_the_order_of_the_specification() -> None:
    versions = ", ".join(f'"{version}"' for version in reversed(ORDERED.split()))
    host = await run_script(f"""
    log.info(table.concat(semver.sort({{ {versions} }}), " "))
    log.info(semver.compare("1.10.0", "1.9.0"), semver.compare("1.0.0+a", "1.0.0+b"))
    log.info(semver.max({{ "1.0.0", "2.0.0-a" }}))
    log.info(semver.max({{ "1.0.0", "1.5.0", "2.0.0" }}, "^1"), semver.max({{}}), semver.max({{ "1.0.0" }}, "2.x"))
    local parsed = semver.parse("v1.2.3-rc.1+7")
    log.info(parsed.major, parsed.minor, parsed.patch, parsed.prerelease, parsed.build, tostring(parsed))
    """)
    assert host.lines == [ORDERED, "1 0", "2.0.0-a", "1.5.0 nil nil", "1 2 3 rc.1 7 1.2.3-rc.1+7"]


async def test_ranges_and_bumps_and_what_is_no_version() -> None:
    lines = [
        *(f'log.info(semver.satisfies("{version}", "{given_range}"))' for version, given_range, _ in RANGES),
        *(f'log.info(semver.bump("{version}", "{part}"))' for version, part, _ in BUMPS),
        *(f'log.info(semver.valid("{text}"))' for text in INVALID),
    ]
    host = await run_script("\n".join(lines))
    expected = [
        *(str(holds).lower() for _, _, holds in RANGES),
        *(bumped for _, _, bumped in BUMPS),
        *("false" for _ in INVALID),
    ]
    given_lines = [*(f"{version} in {wanted}" for version, wanted, _ in RANGES), *BUMPS, *INVALID]
    wrong = [told for told, line, want in zip(given_lines, host.lines, expected, strict=True) if line != want]
    assert wrong == []


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ('semver.parse("1.2")', '`version` must be a version such as "1.4.2" or "2.0.0-rc.1", got "1.2"'),
        ("semver.compare({}, 1)", "`left` must be a version"),
        ('semver.satisfies("1.0.0", "newest")', "`range` must be a range"),
        ('semver.satisfies("1.0.0", ">> 1")', "`range` must be a range"),
        ('semver.bump("1.0.0", "big")', '`part` must be one of "major", "minor", "patch", "prerelease", got "big"'),
        ('semver.sort({ "1.0.0", "x" })', "`versions[2]` must be a version"),
    ],
)
async def test_what_is_not_taken_is_told(call: str, message: str) -> None:
    error = await failure_of(call)
    assert (error.code, error.where) == ("argument_invalid", "try.lua:2")
    assert message in error.message


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30), st.integers(0, 30)), min_size=1, max_size=30))
async def test_releases_are_in_the_order_of_their_numbers(numbers: list[tuple[int, int, int]]) -> None:
    versions = ", ".join('"{}.{}.{}"'.format(*number) for number in numbers)
    host = await run_script(f'log.info(table.concat(semver.sort({{ {versions} }}), " "))')
    assert host.lines == [" ".join("{}.{}.{}".format(*number) for number in sorted(numbers))]
