"""Takes secrets and credentials out of bytes and texts: ``Redaction`` of an attempt, ``Stream`` of each output."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, cast

import anyio
import anyio.to_thread
import msgspec

from runner.redaction import credentials
from runner.redaction.credentials import KEY_BEGIN, KEY_BODY, PRIVATE_KEY, REACH_BYTES, Credentials
from runner.redaction.forms import Form, forms
from runner.redaction.pieces import Found, Index, Place, go_on
from runner.redaction.spans import Span, merged, replaced
from schema.errors import ErrorInfo

LINE_BYTES_HELD: Final = 64 * 1024
"""A line is waited for up to here; of a longer one, what is safe is told before it ends."""
KEY_LINES_MAXIMUM: Final = 2000
INDEX_SIZE_SMALL: Final = 1000
"""An index of so many literals is made in some 20 ms, and needs no other beside it."""
_KEY_BEGIN: Final = re.compile(KEY_BEGIN + rb"(?P<body>\s*" + KEY_BODY + rb")\Z")
_KEY_FIRST: Final = re.compile(rb"(?=[A-Za-z0-9+/=]{20}|[A-Z][A-Za-z-]{3,12}: |\s*\Z)" + KEY_BODY)
_KEY_MORE: Final = re.compile(rb"\s*" + KEY_BODY)
_KEY_LABEL: Final = b"[secret: %s]" % PRIVATE_KEY.encode()


@functools.cache
def default_credentials() -> Credentials:
    """Give what is looked for where the runner's owner says nothing."""
    return Credentials()


class Redaction:
    """What is not to be seen of one attempt: credentials from the start, and each secret once it is added."""

    def __init__(self, chosen: Credentials | None = None) -> None:
        self._credentials = default_credentials() if chosen is None else chosen
        self._known: set[tuple[str, bytes]] = set()
        self._indexes: list[Index] = []
        """One, or a large and a small one: two scans cost more than one, and to make a large one takes its time."""
        self._adding = anyio.Lock()

    async def add(self, name: str, value: bytes) -> None:
        """Look for a secret from now on. It counts when this returns."""
        async with self._adding:
            if (name, value) in self._known:
                return
            self._indexes = await anyio.to_thread.run_sync(_with, self._indexes, forms(name, value))
            self._known.add((name, value))

    def stream(self) -> Stream:
        """Begin with an output."""
        return Stream(self)

    def data(self, data: bytes) -> bytes:
        """Take out what is not to be seen of some bytes, which are all that there is."""
        spans = self.look(data).spans
        return replaced(data, merged(spans)) if spans else data

    def text(self, text: str) -> str:
        """Take it out of a text."""
        data = text.encode(errors="surrogatepass")
        shown = self.data(data)
        return text if shown is data else shown.decode(errors="surrogatepass")

    def words(self, words: Sequence[str]) -> list[str]:
        """Take it out of each of some texts."""
        return [self.text(word) for word in words]

    def values(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Take it out of plain data by name, names included."""
        return {self.text(name): self._value(value) for name, value in values.items()}

    def _value(self, value: Any) -> Any:
        match value:
            case str():
                return self.text(value)
            case list():
                return [self._value(item) for item in cast("list[Any]", value)]
            case dict():
                return self.values(cast("dict[str, Any]", value))
            case _:
                return value

    def error(self, info: ErrorInfo) -> ErrorInfo:
        """Take it out of an error, with all its causes."""
        return msgspec.structs.replace(
            info,
            code=self.text(info.code),  # a script may choose it
            message=self.text(info.message),
            where=None if info.where is None else self.text(info.where),
            hint=None if info.hint is None else self.text(info.hint),
            trace=None if info.trace is None else self.words(info.trace),
            cause=None if info.cause is None else self.error(info.cause),
        )

    def optional_error(self, info: ErrorInfo | None) -> ErrorInfo | None:
        return None if info is None else self.error(info)

    def look(self, block: bytes) -> Found:
        """Find what is not to be seen of a block."""
        found = _together(index.find(block) for index in self._indexes)
        kinds = self._credentials.present(block)
        for kind in kinds:
            label = b"[secret: %s]" % kind.name.encode()
            found.spans.extend(Span(start, end, label) for start, end in credentials.spans(kind, block))
        if any(kind.name == PRIVATE_KEY for kind in kinds):
            return found._replace(has_key=True)
        return found

    @property
    def reach(self) -> int:
        """How much has to be seen of a line at once for that nothing in it is missed."""
        return max([REACH_BYTES, *(index.reach for index in self._indexes)])


def _with(indexes: list[Index], added: Sequence[Form]) -> list[Index]:
    """Add forms to a small index beside a large one, and that to the large one when it has grown: both take time."""
    if not added:
        return indexes
    large, *small = indexes or [Index([])]
    nascent = Index([*(form for index in small for form in index.forms), *added])
    if nascent.size > max(INDEX_SIZE_SMALL, large.size // 4) or large.size + nascent.size <= INDEX_SIZE_SMALL:
        return [Index([*large.forms, *nascent.forms])]
    return [large, nascent]


def _together(parts: Iterable[Found]) -> Found:
    found = Found([], [])
    for part in parts:
        found.spans.extend(part.spans)
        found.open.extend(part.open)
    return found


class Stream:
    """One output: bytes in, as they come; whole lines out, at once, without what is not to be seen."""

    def __init__(self, redaction: Redaction) -> None:
        self._redaction = redaction
        self._rest = b""
        self._open: list[Place] = []
        """Pieces with which the last line ended."""
        self._key_lines_left = 0
        """The last line was of a private key, whose end has not come."""
        self._key_begins = False

    def feed(self, data: bytes) -> bytes:
        """Take the next bytes; give what can be told: all up to the last line's end, or more where a line is long."""
        end = data.rfind(b"\n") + 1
        told = b""
        if end:
            told = self._redacted(self._rest + data[:end] if self._rest else data[:end])
            self._rest = data[end:]
        else:
            self._rest += data
        if len(self._rest) > LINE_BYTES_HELD + self._redaction.reach:
            told += self._beginning_of_line()
        return told

    def finish(self) -> bytes:
        """Give the rest: a line without an end."""
        rest, self._rest = self._rest, b""
        return self._redacted(rest) if rest else b""

    def _redacted(self, block: bytes) -> bytes:
        spans = self._spans(block)
        return replaced(block, spans) if spans else block

    def _beginning_of_line(self) -> bytes:
        """Tell of a line what cannot be the beginning of something that is not to be seen."""
        block = self._rest
        spans = self._spans(block)
        cut = len(block) - self._redaction.reach
        for span in spans:
            if span.start < cut < span.end:
                cut = span.end
        if cut < len(block):
            self._open = []
        self._rest = block[cut:]
        return replaced(block[:cut], [span for span in spans if span.end <= cut])

    def _spans(self, block: bytes) -> list[Span]:
        found = self._redaction.look(block)
        if self._open:
            before = go_on(block, self._open)
            found.spans.extend(before.spans)
            found.open.extend(before.open)
        self._open = found.open
        if found.has_key or self._key_lines_left:
            self._look_for_key(block, found)
        return merged(found.spans) if found.spans else []

    def _look_for_key(self, block: bytes, found: Found) -> None:
        """A private key is known by its first line, and the others may come later."""
        if self._key_lines_left:
            body = (_KEY_FIRST if self._key_begins else _KEY_MORE).match(block)
            if body is not None and body.end():
                found.spans.append(Span(0, body.end(), _KEY_LABEL))
            goes_on = body is not None and body.end() == len(block)
            self._key_lines_left = max(0, self._key_lines_left - block.count(b"\n")) if goes_on else 0
            self._key_begins = False
        if found.has_key and (begun := _KEY_BEGIN.search(block)) is not None:
            self._key_lines_left = KEY_LINES_MAXIMUM
            self._key_begins = not begun["body"].strip()
