"""The forms in which a secret's value may stand in what a job writes.

A **whole** form counts only where all of it is there: the value itself, one of its lines, and both as JSON, shells,
URLs, HTML and C write them. Parts of them do not count, for a part of a value (a host's name, a word) may be no secret.

A **broken** form counts in pieces too: base64 and hexadecimal, which programs break over lines, and in which a part of
the value has a place and a meaning of its own. Of base64 it is what is the value's alone: with other text around it,
the value begins at the first, second or third byte of a group, and its first and last characters are mixed with that.
"""

from __future__ import annotations

import base64
import html
import json
import re
import shlex
import urllib.parse
from collections.abc import Iterator
from typing import Final

import msgspec

from schema.secrets import looked_for

BASE64_GROUP_BYTES: Final = 3
PIECE_BASE64: Final = 12
"""So many characters of a broken form count where they reach to the end of a line: 9 bytes of the value."""
PIECE_HEX: Final = 16
ALONE: Final = 2
"""So many times more of them count anywhere."""
LINE_BYTES_OF_ITS_OWN: Final = 64
"""A longer line is found by the pieces of the value that it is of."""
_SHELL_SPECIAL: Final = re.compile(rb"[^A-Za-z0-9_@%+=:,./-]")
_SHELL_DOUBLE: Final = re.compile(rb'[\\"$`]')
_JSON_HTML: Final = {b"<": b"\\u003c", b">": b"\\u003e", b"&": b"\\u0026"}
_C_ESCAPES: Final = {b"\n": b"\\n", b"\r": b"\\r", b"\t": b"\\t", b"\\": b"\\\\", b'"': b'\\"', b"'": b"\\'"}


class Form(msgspec.Struct, frozen=True):
    """One form of one secret."""

    name: str
    """The secret's."""
    text: bytes
    piece: int = 0
    """From how many characters on a piece counts; 0 where only the whole does."""
    edges: tuple[bool, bool] = (False, False)
    """Whether a character before, and one after it, is mixed of it and of its neighbours."""

    @property
    def label(self) -> bytes:
        """What stands in its place."""
        return b"[secret %s]" % self.name.encode()


def forms(name: str, value: bytes) -> list[Form]:
    """List the forms of a secret, without those that are not looked for."""
    parts = looked_for(value)
    whole = max(parts, key=len, default=b"")
    texts = {text for part in parts for text in _whole(part)}
    broken: dict[bytes, Form] = {}
    for part in parts:
        if part == whole or len(part) < LINE_BYTES_OF_ITS_OWN:
            for form in _broken(name, part):
                broken.setdefault(form.text, form)
    return [*(Form(name, text) for text in sorted(texts, key=len, reverse=True)), *broken.values()]


def _whole(part: bytes) -> Iterator[bytes]:
    yield part
    yield from _urls(part)
    yield from _shells(part)
    yield from _c(part)
    text = part.decode("utf-8", errors="backslashreplace")
    # As logs and errors of ours show what is no UTF-8.
    yield text.encode()
    yield from _json(text)
    yield from _html(text)


def _urls(part: bytes) -> Iterator[bytes]:
    # What is left as it is differs: RFC 3986, `encodeURIComponent`, `encodeURI`, forms.
    for safe in ("", "/", "!*'()", "!*'();/?:@&=+$,#"):
        quoted = urllib.parse.quote(part, safe=safe)
        for text in (quoted, quoted.replace("%20", "+")):
            yield text.encode()
            yield re.sub(r"%[0-9A-F]{2}", lambda match: match[0].lower(), text).encode()


def _shells(part: bytes) -> Iterator[bytes]:
    inner = part.replace(b"'", b"'\\''")
    yield inner  # between single quotes, as `set -x` of dash and busybox, and `export -p`, write it
    yield part.replace(b"'", b"'\"'\"'")  # as Python's shlex does
    yield shlex.quote(part.decode("utf-8", errors="surrogateescape")).encode(errors="surrogateescape")
    yield _SHELL_DOUBLE.sub(rb"\\\g<0>", part)
    if b"\n" not in part:
        yield _SHELL_SPECIAL.sub(rb"\\\g<0>", part)  # `printf %q`


def _c(part: bytes) -> Iterator[bytes]:
    """Escape as C, Python, Go and `$'...'` do: either quote, or both."""
    for quotes in (b"'", b'"', b"'\"", b""):
        text = part.replace(b"\\", b"\\\\")
        for raw, escaped in _C_ESCAPES.items():
            if raw != b"\\" and (raw not in b"'\"" or raw in quotes):
                text = text.replace(raw, escaped)
        yield text


def _json(text: str) -> Iterator[bytes]:
    for ascii_only in (True, False):
        inner = json.dumps(text, ensure_ascii=ascii_only)[1:-1]
        yield inner.encode()
        yield inner.replace("/", "\\/").encode()
        yield json.dumps(inner, ensure_ascii=ascii_only)[1:-1].encode()  # JSON in JSON
        escaped = inner.encode()
        for raw, short in _JSON_HTML.items():  # as Go writes it
            escaped = escaped.replace(raw, short)
        yield escaped


def _html(text: str) -> Iterator[bytes]:
    escaped = html.escape(text, quote=False)
    yield escaped.encode()
    for quote in ("&#x27;", "&#39;", "&apos;", "'"):
        for double in ("&quot;", "&#34;", '"'):
            yield escaped.replace("'", quote).replace('"', double).encode()


def _broken(name: str, part: bytes) -> Iterator[Form]:
    digits = part.hex().encode()
    for text in (digits, digits.upper()):
        yield Form(name, text, PIECE_HEX)
    for before in range(BASE64_GROUP_BYTES):
        encoded = base64.b64encode(b"\0" * before + part)
        # The characters that hold nothing but bits of the value.
        first, last = -(-before * 8 // 6), (before + len(part)) * 8 // 6
        inner = encoded[first:last]
        edges = (before > 0, (before + len(part)) % BASE64_GROUP_BYTES > 0)
        for text in (inner, inner.translate(bytes.maketrans(b"+/", b"-_"))):
            yield Form(name, text, PIECE_BASE64, edges)
        if b"+" in inner or b"/" in inner:  # base64 in a URL
            for text in (
                inner.replace(b"+", b"%2B").replace(b"/", b"%2F"),
                inner.replace(b"+", b"%2b").replace(b"/", b"%2f"),
            ):
                yield Form(name, text, PIECE_BASE64, edges)
