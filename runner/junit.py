"""Reads test reports in the XML that JUnit began with and everybody writes now, each program a little differently.

What is read is what all agree on: `testsuite` elements, in each other or not, with `testcase` elements in them that
have a `failure`, an `error` or a `skipped` inside, or nothing. A document type is refused, and with it all entities:
they are what XML is dangerous by. All that is kept has a limit.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Generator
from typing import IO, Final
from xml.etree.ElementTree import Element, ParseError

from defusedxml import DefusedXmlException
from defusedxml.ElementTree import iterparse

from runner.trees import Check
from schema.errors import MoonyardError
from schema.wire import ReportedTest, TestState

BYTES_MAXIMUM: Final = 64 * 1024 * 1024
TESTS_MAXIMUM: Final = 50_000
"""Of one report."""
DEPTH_MAXIMUM: Final = 50
NAME_LENGTH_MAXIMUM: Final = 500
MESSAGE_LENGTH_MAXIMUM: Final = 4000
_STATES: Final[dict[str, TestState]] = {"failure": "failed", "error": "error", "skipped": "skipped"}
_UNSTORABLE: Final = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff]")


class ReportInvalid(MoonyardError):
    """A file that is no test report, or more of one than is read."""

    code = "report_invalid"


def read(file: IO[bytes], size: int, path: str, check: Check, shown: Callable[[str], str] = str) -> list[ReportedTest]:
    """Give a report's tests, in its order.

    :param path: for messages.
    :param shown: gives a text as it may be shown: before it is cut, for a secret that is cut is not found any more.
    :raises ReportInvalid: when it is none.
    """
    if size > BYTES_MAXIMUM:
        raise ReportInvalid(f"`{path}` has {size} bytes, and a test report at most {BYTES_MAXIMUM} (64 MiB)")
    try:
        return list(_tests(file, path, check, shown))
    except ParseError as error:
        raise ReportInvalid(
            f"`{path}` is no XML: {error}", hint="Does the program write JUnit's XML, and was it written to its end?"
        ) from error
    except DefusedXmlException as error:
        raise ReportInvalid(f"`{path}` declares a document type or entities, which no test report needs") from error
    except (ValueError, LookupError) as error:  # an encoding that is not known, or not that of the text
        raise ReportInvalid(f"`{path}` cannot be read as XML: {error}") from error


def _tests(file: IO[bytes], path: str, check: Check, shown: Callable[[str], str]) -> Generator[ReportedTest]:
    suites: list[str] = []
    depth = count = 0
    is_report = False
    for event, element in iterparse(Checked(file, check), events=("start", "end"), forbid_dtd=True):
        tag = _tag(element)
        if event == "start":
            depth += 1
            if depth > DEPTH_MAXIMUM:
                raise ReportInvalid(f"`{path}` has elements in each other more than {DEPTH_MAXIMUM} levels deep")
            if depth == 1 and tag not in {"testsuites", "testsuite", "testrun"}:
                raise ReportInvalid(
                    f"`{path}` is no test report: its first element is `{tag[:60]}`, and `testsuites` or `testsuite` "
                    "is expected"
                )
            is_report = True
            if tag == "testsuite":
                suites.append(element.get("name") or "")
            continue
        depth -= 1
        if tag == "testsuite":
            suites.pop()
        elif tag == "testcase":
            count += 1
            if count > TESTS_MAXIMUM:
                raise ReportInvalid(f"`{path}` has more than {TESTS_MAXIMUM} tests")
            yield _test(element, suites, shown)
        if tag in {"testcase", "testsuite", "properties", "system-out", "system-err"}:
            element.clear()
    if not is_report:
        raise ReportInvalid(f"`{path}` is empty")


class Checked:
    """A file that is read until whoever waits for it waits no more."""

    def __init__(self, file: IO[bytes], check: Check) -> None:
        self._file = file
        self._check = check

    def read(self, size: int = -1) -> bytes:
        self._check()
        return self._file.read(size)


def _test(element: Element, suites: list[str], shown: Callable[[str], str]) -> ReportedTest:
    state: TestState = "passed"
    message: str | None = None
    for inner in element:
        found = _STATES.get(_tag(inner))
        if found is not None and (state == "passed" or found != "skipped"):
            state = found
            told = [part for part in (inner.get("message"), inner.text) if part and part.strip()]
            message = (
                _cut(shown("\n".join(dict.fromkeys(told) or [inner.get("type") or ""]).strip()), MESSAGE_LENGTH_MAXIMUM)
                or None
            )
    suite = element.get("classname") or " / ".join(name for name in suites if name)
    return ReportedTest(
        suite=_cut(shown(suite), NAME_LENGTH_MAXIMUM),
        name=_cut(shown(element.get("name") or "(without a name)"), NAME_LENGTH_MAXIMUM),
        state=state,
        duration=_seconds(element.get("time")),
        message=message,
    )


def _tag(element: Element) -> str:
    """Give an element's name without its namespace."""
    return str(element.tag).rpartition("}")[2]


def _seconds(text: str | None) -> float | None:
    try:
        seconds = float((text or "").replace(",", ""))
    except ValueError:
        return None
    return seconds if math.isfinite(seconds) and seconds >= 0 else None


def _cut(text: str, length: int) -> str:
    kept = _UNSTORABLE.sub("\N{REPLACEMENT CHARACTER}", text)
    return kept if len(kept) <= length else f"{kept[: length - 1]}…"
