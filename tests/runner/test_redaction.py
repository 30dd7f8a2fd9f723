"""No form of a secret stands in what comes out of the redaction, however it comes in; and nothing else is taken out."""

from __future__ import annotations

import base64
import binascii
import html
import itertools
import json
import random
import shlex
import string
import subprocess
import textwrap
import urllib.parse
from collections.abc import Callable, Iterable

import anyio
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from runner.redaction.redactor import LINE_BYTES_HELD, Redaction, Stream
from schema.errors import ErrorInfo
from schema.secrets import looked_for

TOKEN = b's3cr3t-T0ken/with+odd=chars&"quo\'tes"<>'
PASSWORD = b"correct horse battery staple!"
SIMPLE = b"hunter2hunter3"
LONG = b"Zm9vYmFyYmF6cXV4" * 12
KEY = (
    b"-----BEGIN RSA KEY-----\n"
    + b"\n".join(base64.b64encode(bytes([n]) * 48) for n in range(1, 9))
    + b"\n-----END RSA KEY-----\n"
)
CONFIG = b'{\n  "type": "service",\n  "private": "q8fJ2k-kd92ks-2kd8f",\n  "e": 1\n}\n'
LATIN = "gr\u00fc\u00dfe-aus-K\u00f6ln-42".encode("latin-1")
UNICODE = "p\u00e4ssw\u00f6rt-\u2603-\u732b".encode()

VALUES = {
    "token": TOKEN,
    "password": PASSWORD,
    "simple": SIMPLE,
    "long": LONG,
    "key": KEY,
    "config": CONFIG,
    "latin": LATIN,
    "unicode": UNICODE,
}


def wrapped(encoded: bytes, width: int) -> bytes:
    return b"\n".join(encoded[start : start + width] for start in range(0, len(encoded), width))


def quoted(text: str, safe: str) -> bytes:
    return urllib.parse.quote(text.encode("latin-1"), safe=safe).encode()


ENCODINGS: dict[str, Callable[[bytes], bytes]] = {
    "plain": lambda value: value,
    "echo": lambda value: value + b"\n",
    "base64": base64.b64encode,
    "base64 of echo": lambda value: base64.b64encode(value + b"\n"),
    "base64 after one byte": lambda value: base64.b64encode(b"x" + value + b"tail"),
    "base64 after two bytes": lambda value: base64.b64encode(b"xy" + value + b"t"),
    "base64 of basic auth": lambda value: base64.b64encode(b"user:" + value),
    "base64 in lines of 76": lambda value: base64.encodebytes(b"some text before it: " + value),
    "base64 in lines of 64": lambda value: wrapped(base64.b64encode(b"before" + value + b"after"), 64),
    "base64 in lines of 20": lambda value: wrapped(base64.b64encode(value), 20),
    "urlsafe base64": base64.urlsafe_b64encode,
    "urlsafe base64 after one byte": lambda value: base64.urlsafe_b64encode(b"?" + value + b"?"),
    "urlsafe base64 without padding": lambda value: base64.urlsafe_b64encode(value).rstrip(b"="),
    "base64 in a URL": lambda value: urllib.parse.quote(base64.b64encode(value), safe="").encode(),
    "hex": binascii.hexlify,
    "upper hex": lambda value: binascii.hexlify(value).upper(),
    "hex in lines of 60": lambda value: wrapped(binascii.hexlify(b"abc" + value), 60),
    "percent": lambda value: urllib.parse.quote(value, safe="").encode(),
    "percent with slashes": lambda value: urllib.parse.quote(value).encode(),
    "percent in small letters": lambda value: _small(urllib.parse.quote(value, safe="")),
    "form": lambda value: urllib.parse.quote_plus(value).encode(),
    "encodeURIComponent": lambda value: urllib.parse.quote(value, safe="!*'()").encode(),
    "json": lambda value: json.dumps(_text(value)).encode(),
    "json not ascii": lambda value: json.dumps(_text(value), ensure_ascii=False).encode(),
    "json in json": lambda value: json.dumps(json.dumps({"a": _text(value)})).encode(),
    "json with slashes escaped": lambda value: json.dumps(_text(value)).replace("/", "\\/").encode(),
    "json of Go": lambda value: _go(json.dumps(_text(value), ensure_ascii=False)),
    "shlex": lambda value: shlex.quote(_text(value)).encode(),
    "single quotes": lambda value: b"'" + value.replace(b"'", b"'\\''") + b"'",
    "double quotes": lambda value: b'"' + _escaped(value, b'\\"$`') + b'"',
    "html": lambda value: html.escape(_text(value)).encode(),
    "html in numbers": lambda value: (
        html.escape(_text(value)).replace("&#x27;", "&#39;").replace("&quot;", "&#34;").encode()
    ),
    "html of text": lambda value: html.escape(_text(value), quote=False).encode(),
    "python": lambda value: repr(_text(value)).encode(),
    "env": lambda value: b"TOKEN=" + value,
}


def _text(value: bytes) -> str:
    return value.decode("utf-8", errors="backslashreplace")


def _small(text: str) -> bytes:
    return b"".join(
        part.lower() if part.startswith(b"%") else part
        for part in (text.replace("%", "\0%").encode().split(b"\0"))
        for part in ([part[:3], part[3:]] if part.startswith(b"%") else [part])
    )


def _go(text: str) -> bytes:
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026").encode()


def _escaped(value: bytes, special: bytes) -> bytes:
    return b"".join(b"\\" + bytes([byte]) if byte in special else bytes([byte]) for byte in value)


async def knowing(**secrets: bytes) -> Redaction:
    redaction = Redaction()
    for name, value in secrets.items():
        await redaction.add(name, value)
    return redaction


def pieces(data: bytes, cuts: Iterable[int]) -> list[bytes]:
    at = [0, *sorted({cut % (len(data) + 1) for cut in cuts}), len(data)]
    return [data[start:end] for start, end in itertools.pairwise(at)]


def told(stream: Stream, chunks: Iterable[bytes]) -> bytes:
    return b"".join([*(stream.feed(chunk) for chunk in chunks), stream.finish()])


def leaks(value: bytes, shown: bytes) -> list[bytes]:
    """List what of a value can be had from what was told: in plain, or by decoding any run of base64 or hex in it."""
    joined = shown.replace(b"\r", b"").replace(b"\n", b"")
    texts = [
        shown,
        joined,
        urllib.parse.unquote_to_bytes(shown.replace(b"+", b" ")),
        urllib.parse.unquote_to_bytes(shown),
    ]
    texts.append(html.unescape(shown.decode("latin-1")).encode("latin-1", errors="replace"))
    texts.append(shown.replace(b"\\", b""))
    for alphabet in (string.ascii_letters + string.digits + "+/-_",):
        run = bytearray()
        for byte in joined + b"\0":
            if chr(byte) in alphabet:
                run.append(byte)
                continue
            text = bytes(run).translate(bytes.maketrans(b"-_", b"+/"))
            for start in range(4):
                cut = text[start:]
                texts.append(base64.b64decode(cut[: len(cut) - len(cut) % 4]))
            if len(run) % 2 == 0 and all(chr(one) in string.hexdigits for one in run):
                texts.append(binascii.unhexlify(bytes(run)))
            run.clear()
    return [part for part in looked_for(value) if any(part in text for text in texts)]


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("name", VALUES)
@pytest.mark.parametrize("position", ["alone", "in a line", "between lines", "at the end"])
async def test_no_form_of_a_value_is_told_however_it_is_cut(encoding: str, name: str, position: str) -> None:
    value = VALUES[name]
    form = ENCODINGS[encoding](value)
    data = {
        "alone": form + b"\n",
        "in a line": b"the value is [" + form + b"], and more\n",
        "between lines": b"before\n" + form + b"\nafter\n",
        "at the end": b"first line\nlast: " + form,
    }[position]
    redaction = await knowing(VALUE=value)
    chance = random.Random(f"{encoding} {name} {position}")  # noqa: S311  # the same cuts each time
    cuttings: list[list[bytes]] = [
        [data],
        [data[at : at + 1] for at in range(len(data))],
        data.splitlines(keepends=True),
    ]
    cuttings += [pieces(data, [chance.randrange(len(data)) for _ in range(4)]) for _ in range(3)]
    for chunks in cuttings:
        shown = told(redaction.stream(), chunks)
        assert b"[secret VALUE]" in shown
        assert leaks(value, shown) == [], shown
        if position == "in a line" and b"\n" not in form:
            assert shown.startswith(b"the value is [")
            assert shown.endswith(b"], and more\n")
        if position == "between lines":
            assert shown.startswith(b"before\n")
            assert shown.endswith(b"\nafter\n")
            assert shown.count(b"\n") == data.count(b"\n")


NO_DEADLINE = settings(deadline=None)  # each begins with an event loop
# Of a value with several lines, the lines count: those of the corpus above.
random_values = st.binary(min_size=8, max_size=90).filter(
    lambda value: not set(b"\0\r\n") & set(value) and value.strip() in looked_for(value)
)
fillers = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r"), max_size=40).map(str.encode)


@NO_DEADLINE
@given(
    value=random_values,
    encoding=st.sampled_from(sorted(ENCODINGS)),
    before=fillers,
    after=fillers,
    cuts=st.lists(st.integers(0, 10_000), max_size=8),
)
@example(value=b"abcdefgh", encoding="base64 in lines of 20", before=b"", after=b"", cuts=[])
async def test_no_random_value_is_told(
    value: bytes, encoding: str, before: bytes, after: bytes, cuts: list[int]
) -> None:
    redaction = await knowing(VALUE=value)
    data = before + b" " + ENCODINGS[encoding](value.strip()) + b" " + after + b"\n"
    shown = told(redaction.stream(), pieces(data, cuts))
    assert leaks(value, shown) == []


@NO_DEADLINE
@given(
    value=st.binary(min_size=24, max_size=300).filter(
        lambda value: b"\0" not in value and b"\n" not in value and b"\r" not in value
    ),
    before=st.integers(0, 80),
    width=st.integers(16, 80),
    cuts=st.lists(st.integers(0, 10_000), max_size=6),
    is_hex=st.booleans(),
)
async def test_of_what_is_broken_over_lines_at_most_a_few_bytes_are_told(
    value: bytes, before: int, width: int, cuts: list[int], is_hex: bool
) -> None:
    if value.strip() not in looked_for(value):
        return
    plain = b"\xff" * before + value.strip() + b"\xff" * 7
    data = wrapped(binascii.hexlify(plain) if is_hex else base64.b64encode(plain), width) + b"\n"
    shown = told((await knowing(VALUE=value)).stream(), pieces(data, cuts))
    joined = shown.replace(b"\n", b"")
    secret = value.strip()
    for start in range(len(secret) - 7):
        for offset in range(3):
            part = base64.b64encode(b"\0" * offset + secret[start : start + 8])
            assert part[-(-offset * 8 // 6) : (offset + 8) * 8 // 6] not in joined
        assert binascii.hexlify(secret[start : start + 8]) not in joined


@NO_DEADLINE
@given(
    lines=st.lists(
        st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\n"), max_size=60), max_size=30
    ),
    cuts=st.lists(st.integers(0, 3000), max_size=10),
)
async def test_what_holds_nothing_comes_out_as_it_went_in(lines: list[str], cuts: list[int]) -> None:
    data = "\n".join(lines).encode()
    redaction = await knowing(TOKEN=TOKEN, KEY=KEY, CONFIG=CONFIG)
    assert told(redaction.stream(), pieces(data, cuts)) == data


# --- what others got wrong


async def test_a_secret_with_lines_of_one_sign_does_not_take_that_sign_out_of_the_log() -> None:
    value = b'{\n"e": "kj2h3kj4h23kj4h",\n"l"\n:\n1\n}\n========\n'
    redaction = await knowing(JSON=value)
    line = b"{ see } the here : where 1 e and l and ======== stay }\n"
    assert redaction.data(line) == line
    assert redaction.data(b'"e": "kj2h3kj4h23kj4h",\n') == b"[secret JSON]\n"


@pytest.mark.parametrize("size", range(8, 40))
def test_echo_into_base64_is_found_whatever_the_padding(size: int) -> None:
    chance = random.Random(size)  # noqa: S311  # the same values each time
    value = "".join(chance.choices(string.ascii_letters + string.digits, k=size))
    script = 'echo "$V" | base64; printf "x$V" | base64; echo "--$V" | base64 -w 0'
    environment = {"V": value, "PATH": "/usr/bin:/bin"}
    piped = subprocess.run(["sh", "-c", script], env=environment, capture_output=True, check=True)
    redaction = Redaction()
    anyio.run(redaction.add, "V", value.encode())
    shown = redaction.data(piped.stdout)
    assert shown.count(b"[secret V]") >= 3
    assert leaks(value.encode(), shown) == []


async def test_what_is_short_or_common_is_not_looked_for() -> None:
    redaction = await knowing(A=b"1", B=b"true", C=b"password", D=b"000000", E=b"")
    line = b"1 true password 000000 and the rest\n"
    assert redaction.data(line) == line


async def test_ordinary_lines_stay_as_they_are() -> None:
    redaction = await knowing(TOKEN=TOKEN, PASSWORD=PASSWORD, KEY=KEY, SIMPLE=SIMPLE)
    log = textwrap.dedent("""\
        2026-11-27T09:00:00Z INFO  server listening on http://127.0.0.1:8080/?token=none
        Compiling serde v1.0.219 (registry+https://github.com/rust-lang/crates.io-index)
        sha256:3f2c0e6f1a5d9b7c4e8f0a1b2c3d4e5f60718293a4b5c6d7e8f9012345678abc
        "integrity": "sha512-qxIPo3W8Xg3v3hXX4KkqFm8fhhhhYvZ9k1fPaNZ8uXm6oZQ0xg5d1p9Z+O2j2R9/6vQKQ=="
        -----BEGIN CERTIFICATE-----
        MIIDdzCCAl+gAwIBAgIEAgAAuTANBgkqhkiG9w0BAQUFADBaMQswCQYDVQQGEwJJ
        -----END CERTIFICATE-----
        user=me password=*** horse battery staple hunter2
        eyJhbGciOi is how a token begins, and ghp_ another; sk_live_ too
        commit 4b825dc642cb6eb9a060e54bf8d69288fbee4904 (HEAD -> main)
        PASSED tests/test_a.py::test_b[secret-TOKEN] 0.01s
        """).encode()
    assert redaction.data(log) == log
    assert told(redaction.stream(), log.splitlines(keepends=True)) == log


# --- streams


async def test_a_whole_line_is_told_at_once() -> None:
    stream = (await knowing(TOKEN=TOKEN, LONG=LONG)).stream()
    assert stream.feed(b"waiting\n") == b"waiting\n"
    assert stream.feed(base64.b64encode(LONG)[:30] + b"\n") != b""
    assert stream.feed(b"no end yet") == b""
    assert stream.feed(b", and here\nnext") == b"no end yet, and here\n"
    assert stream.finish() == b"next"


async def test_a_long_line_is_told_in_pieces_and_no_piece_cuts_a_secret() -> None:
    redaction = await knowing(TOKEN=TOKEN)
    stream = redaction.stream()
    shown = bytearray()
    held_most = 0
    for _ in range(40):
        for chunk in (b"x" * 5001, TOKEN[:7], TOKEN[7:], b"y" * 4999):
            shown += stream.feed(chunk)
            held_most = max(held_most, len(stream._rest))
    assert len(shown) > 100_000
    assert held_most <= LINE_BYTES_HELD + redaction.reach + 10_000
    shown += stream.finish()
    assert bytes(shown) == (b"x" * 5001 + b"[secret TOKEN]" + b"y" * 4999) * 40


async def test_a_long_line_of_an_encoding_is_taken_out_as_a_whole() -> None:
    chance = random.Random(1)  # noqa: S311  # the same value each time
    value = bytes(chance.choices(sorted({*range(1, 256)} - {*b"\r\n"}), k=50_000))
    redaction = await knowing(BLOB=value)
    encoded = base64.b64encode(b"ab" + value + b"c")
    shown = told(redaction.stream(), [encoded[at : at + 3000] for at in range(0, len(encoded), 3000)] + [b" end\n"])
    assert leaks(value, shown) == []
    assert shown.endswith(b" end\n")
    assert len(shown) < 1000


async def test_a_secret_counts_from_the_moment_it_is_added_also_in_the_middle_of_a_line() -> None:
    redaction = Redaction()
    stream = redaction.stream()
    assert stream.feed(b"before: " + SIMPLE + b"\nthen: " + SIMPLE[:5]) == b"before: " + SIMPLE + b"\n"
    await redaction.add("SIMPLE", SIMPLE)
    assert stream.feed(SIMPLE[5:] + b"\n") == b"then: [secret SIMPLE]\n"


async def test_streams_of_one_attempt_share_its_secrets() -> None:
    redaction = Redaction()
    streams = [redaction.stream(), redaction.stream()]
    await redaction.add("ONE", SIMPLE)
    await redaction.add("TWO", PASSWORD)
    for stream in streams:
        assert stream.feed(SIMPLE + b" " + PASSWORD + b"\n") == b"[secret ONE] [secret TWO]\n"


async def test_a_secret_in_a_secret_goes_by_the_name_of_the_whole() -> None:
    redaction = await knowing(PART=b"hunter2hunter3", URL=b"postgres://me:hunter2hunter3@db/x")
    assert redaction.data(b"at postgres://me:hunter2hunter3@db/x!") == b"at [secret URL]!"
    assert redaction.data(b"hunter2hunter3") == b"[secret PART]"


async def test_two_secrets_with_one_value_are_both_known_and_one_is_named() -> None:
    redaction = await knowing(ONE=SIMPLE, TWO=SIMPLE)
    assert redaction.data(SIMPLE) in {b"[secret ONE]", b"[secret TWO]"}


async def test_the_old_value_still_counts_after_a_new_one_came() -> None:
    redaction = await knowing(TOKEN=SIMPLE)
    await redaction.add("TOKEN", PASSWORD)
    assert redaction.data(SIMPLE + b" " + PASSWORD) == b"[secret TOKEN] [secret TOKEN]"


@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
async def test_line_ends_stay(end: bytes) -> None:
    redaction = await knowing(KEY=KEY)
    lines = KEY.strip().split(b"\n")
    shown = told(redaction.stream(), [line + end for line in lines])
    assert shown.split(end) == [lines[0], *[b"[secret KEY]"] * (len(lines) - 2), lines[-1], b""]


# --- texts and errors


async def test_an_error_is_looked_through_with_all_its_causes() -> None:
    redaction = await knowing(TOKEN=SIMPLE)
    text = SIMPLE.decode()
    cause = ErrorInfo(code=f"code_{text}", message=f"no {text}", hint=text, where=f"{text}:1", trace=[f"a {text}"])
    shown = redaction.error(ErrorInfo(code="stage_failed", message=f"failed: {text}", cause=cause))
    assert text not in repr(shown)
    assert shown.cause is not None
    assert shown.cause.message == "no [secret TOKEN]"
    assert shown.code == "stage_failed"


async def test_plain_data_is_looked_through() -> None:
    redaction = await knowing(TOKEN=SIMPLE)
    text = SIMPLE.decode()
    shown = redaction.values({"a": text, text: [1, True, None, {"b": f"x{text}y"}]})
    assert shown == {"a": "[secret TOKEN]", "[secret TOKEN]": [1, True, None, {"b": "x[secret TOKEN]y"}]}


@NO_DEADLINE
@given(st.text())
async def test_any_text_comes_through(text: str) -> None:
    assert Redaction().text(text) == text
