"""Test reports: what programs write, and what somebody might."""

from __future__ import annotations

import contextlib
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner import junit
from runner.junit import ReportInvalid
from schema.wire import ReportedTest

PYTEST = """<?xml version="1.0" encoding="utf-8"?>
<testsuites name="pytest tests"><testsuite name="pytest" errors="1" failures="1" skipped="1" tests="4" time="0.5">
<testcase classname="tests.test_a" name="test_good" time="0.001" />
<testcase classname="tests.test_a" name="test_bad[1]" time="0.25"><failure message="assert 1 == 2">def test_bad():
&gt;   assert 1 == 2</failure></testcase>
<testcase classname="tests.test_a" name="test_torn" time="0"><error message="failed on setup with &quot;x&quot;">long
</error></testcase>
<testcase classname="tests.test_a" name="test_later" time="0.1"><skipped type="pytest.skip" message="not now">a.py:3:
not now</skipped></testcase>
</testsuite></testsuites>"""

MAVEN = """<testsuite xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" name="org.example.AppTest" time="1,234.5">
<properties><property name="java.version" value="21"/></properties>
<testcase name="works" time="1,200.5"><system-out><![CDATA[noise]]></system-out></testcase>
<testsuite name="Inner"><testcase name="fails" time="NaN"><failure type="AssertionError"/></testcase></testsuite>
</testsuite>"""


def read(text: str | bytes) -> list[ReportedTest]:
    data = text.encode() if isinstance(text, str) else text
    return junit.read(io.BytesIO(data), len(data), "report.xml", lambda: None)


def test_reports_of_pytest_are_read():
    assert [(test.suite, test.name, test.state, test.duration) for test in read(PYTEST)] == [
        ("tests.test_a", "test_good", "passed", 0.001),
        ("tests.test_a", "test_bad[1]", "failed", 0.25),
        ("tests.test_a", "test_torn", "error", 0.0),
        ("tests.test_a", "test_later", "skipped", 0.1),
    ]
    assert [test.message for test in read(PYTEST)] == [
        None,
        "assert 1 == 2\ndef test_bad():\n>   assert 1 == 2",
        'failed on setup with "x"\nlong',
        "not now\na.py:3:\nnot now",
    ]


def test_reports_of_maven_are_read():
    assert [(test.suite, test.name, test.state, test.duration, test.message) for test in read(MAVEN)] == [
        ("org.example.AppTest", "works", "passed", 1200.5, None),
        ("org.example.AppTest / Inner", "fails", "failed", None, "AssertionError"),
    ]


def test_a_report_without_tests_is_one():
    assert read("<testsuites/>") == []


def test_names_and_messages_are_cut_and_can_be_stored():
    [test] = read(f'<testsuite><testcase name="{"n" * 600}"><failure>{"m" * 5000}</failure></testcase></testsuite>')
    assert len(test.name) == junit.NAME_LENGTH_MAXIMUM
    assert test.message is not None
    assert len(test.message) == junit.MESSAGE_LENGTH_MAXIMUM


BOMB = '<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;">]><testsuite><testcase name="&b;"/></testsuite>'
OUTSIDE = '<!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/passwd">]><testsuite><testcase name="&a;"/></testsuite>'
DTD = '<!DOCTYPE testsuite SYSTEM "http://127.0.0.1:9/x.dtd"><testsuite/>'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (BOMB, "declares a document type or entities"),
        (OUTSIDE, "declares a document type or entities"),
        (DTD, "declares a document type or entities"),
        ("", "is no XML"),
        ("<testsuite><testcase", "is no XML"),
        ("not xml", "is no XML"),
        ("<html><body/></html>", "its first element is `html`"),
        ("<testsuite>" * 60 + "</testsuite>" * 60, "more than 50 levels deep"),
        ('<?xml version="1.0" encoding="no-such"?><testsuite/>', "cannot be read as XML"),
        (b"\xff\xfe\xff", "is no XML"),
    ],
    ids=["bomb", "outside", "dtd", "empty", "torn", "text", "html", "deep", "encoding", "bytes"],
)
def test_what_is_no_report_is_refused(text: str | bytes, message: str):
    with pytest.raises(ReportInvalid) as raised:
        read(text)
    assert "report.xml" in raised.value.message
    assert message in raised.value.message


def test_a_report_that_is_too_large_is_refused_unread():
    with pytest.raises(ReportInvalid, match="64 MiB"):
        junit.read(io.BytesIO(b""), junit.BYTES_MAXIMUM + 1, "report.xml", lambda: None)


def test_too_many_tests_are_refused():
    with pytest.raises(ReportInvalid, match=f"more than {junit.TESTS_MAXIMUM} tests"):
        read(f"<testsuite>{'<testcase/>' * (junit.TESTS_MAXIMUM + 1)}</testsuite>")


@given(st.binary(max_size=300) | st.text(max_size=300).map(str.encode))
def test_whatever_the_bytes_are_it_is_a_report_or_none(data: bytes):
    # Anything else that it raised would be a defect.
    with contextlib.suppress(ReportInvalid):
        assert all(isinstance(test, ReportedTest) for test in read(data))


def test_what_may_not_be_seen_is_taken_out_before_a_text_is_cut():
    secret = "Zq7-correct-horse"
    message = "x" * (junit.MESSAGE_LENGTH_MAXIMUM - 8) + secret
    text = f'<testsuite><testcase name="a"><failure message="{message}"/></testcase></testsuite>'.encode()
    [test] = junit.read(io.BytesIO(text), len(text), "r.xml", lambda: None, lambda shown: shown.replace(secret, "-"))
    assert test.message == "x" * (junit.MESSAGE_LENGTH_MAXIMUM - 8) + "-"
