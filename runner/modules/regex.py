"""``regex``: patterns in the syntax of RE2, whose time grows with the text alone, whatever the pattern.

Positions count bytes from one, as those of Lua's ``string`` do.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from typing import Any, Final

import msgspec
import re2

from runner.formats.plain import is_text
from runner.modules.arguments import ArgumentInvalid, data
from runner.modules.data import DataCall
from sandbox.frames import Value
from schema.errors import MoonyardError

PATTERN_BYTES_MAXIMUM: Final = 16 * 1024
TEXT_BYTES_MAXIMUM: Final = 16 * 1024 * 1024
MATCHES_MAXIMUM: Final = 100_000
GROUPS_MAXIMUM: Final = 100
"""What a look costs grows with them."""
RESULT_BYTES_MAXIMUM: Final = 16 * 1024 * 1024
PROGRAM_BYTES_MAXIMUM: Final = 8 * 1024 * 1024
"""What a pattern may need when it is compiled, and while it is matched."""
SECONDS_MAXIMUM: Final = 10.0
_PLACEHOLDER: Final = re.compile(r"\$(?:(?P<number>\d{1,3})|\{(?P<name>\w+)\}|\$|)")


class RegexArguments(msgspec.Struct, frozen=True, kw_only=True):
    text: str
    """Any string; at most 16 MiB."""
    pattern: str
    """A regular expression, as RE2 has them."""
    ignore_case: bool = False
    """Whether small and large letters are the same."""
    multiline: bool = False
    """Whether `^` and `$` stand for the ends of each line."""
    dotall: bool = False
    """Whether `.` stands for a line's end, too."""


class FindAllArguments(RegexArguments, frozen=True, kw_only=True):
    limit: int | None = None
    """How many matches at most; by default up to 100,000, and more are an error."""


class SplitArguments(RegexArguments, frozen=True, kw_only=True):
    limit: int | None = None
    """In how many pieces at most; by default up to 100,000."""


class ReplaceArguments(RegexArguments, frozen=True, kw_only=True):
    replacement: str
    """What comes in the place of a match: `$1` and `${name}` stand for groups, `$0` for all of it, `$$` for a `$`."""
    count: int | None = None
    """How many matches are replaced; by default all."""


class EscapeArguments(msgspec.Struct, frozen=True, kw_only=True):
    text: str
    """Any string."""


class RegexTimeout(MoonyardError):
    """Matches took longer to find than they may."""

    code = "regex_timeout"


class _Pattern:
    """A compiled pattern, and a text as bytes: characters where both are UTF-8, and else bytes."""

    def __init__(self, call: str, arguments: RegexArguments) -> None:
        self._call = call
        self.text = data(arguments.text)
        pattern = data(arguments.pattern)
        if len(pattern) > PATTERN_BYTES_MAXIMUM:
            raise ArgumentInvalid(f"{call}: `pattern` has at most {PATTERN_BYTES_MAXIMUM} bytes, got {len(pattern)}")
        if len(self.text) > TEXT_BYTES_MAXIMUM:
            raise ArgumentInvalid(f"{call}: `text` has at most {TEXT_BYTES_MAXIMUM} bytes, got {len(self.text)}")
        self._is_text = is_text(arguments.text) and is_text(arguments.pattern)
        self._ends_at = time.monotonic() + SECONDS_MAXIMUM
        # Its stubs are none, and what it gives is used in this class alone.
        library: Any = re2
        options = library.Options()
        options.max_mem = PROGRAM_BYTES_MAXIMUM
        options.log_errors = False
        options.case_sensitive = not arguments.ignore_case
        options.dot_nl = arguments.dotall
        encodings = library.Options.Encoding
        options.encoding = encodings.UTF8 if self._is_text else encodings.LATIN1
        try:
            self._compiled = library.compile((b"(?m)" if arguments.multiline else b"") + pattern, options)
        except library.error as error:
            reason = error.args[0] if error.args else b"it is none"
            told = reason.decode(errors="replace") if isinstance(reason, bytes) else str(reason)
            raise ArgumentInvalid(
                f"{call}: `pattern` is no regular expression that is known here: {told}",
                hint="The syntax is RE2's: without back references (\\1) and look-around ((?=...), (?<!...)).",
            ) from error
        finally:
            library.purge()  # it would keep a hundred of them, with what each needed
        self.group_count: int = self._compiled.groups
        if self.group_count > GROUPS_MAXIMUM:
            raise ArgumentInvalid(
                f"{call}: `pattern` has {self.group_count} groups, and at most {GROUPS_MAXIMUM} are taken",
                hint="`(?:...)` is a group that is not counted.",
            )
        self._told_bytes = 0
        self.names: dict[str, int] = {
            name.decode() if isinstance(name, bytes) else name: group
            for name, group in self._compiled.groupindex.items()
        }

    def first(self) -> list[tuple[int, int]] | None:
        """Give where the first match and its groups are; (-1, -1) for one that took no part."""
        return self._found(0)

    def all(self, most: int | None) -> Iterator[list[tuple[int, int]]]:
        """Give the same of all matches, up to so many.

        :raises ArgumentInvalid: when no limit was given, and there are more than can be told.
        :raises RegexTimeout: when it takes too long: each look takes time in proportion to the text, and there may be
            as many looks as it has characters.
        """
        at = count = 0
        while at <= len(self.text) and (most is None or count < most):
            if time.monotonic() > self._ends_at:
                raise RegexTimeout(
                    f"{self._call} took longer than {SECONDS_MAXIMUM:.0f} s: {count} matches were found by then",
                    hint="Work of that size belongs in a container, or the text goes in pieces.",
                )
            spans = self._found(at)
            if spans is None:
                return
            count += 1
            if count > MATCHES_MAXIMUM:
                raise ArgumentInvalid(
                    f"{self._call}: there are more than {MATCHES_MAXIMUM} matches", hint="A `limit` takes the first."
                )
            yield spans
            begin, end = spans[0]
            at = end if end > begin else end + self._step(end)

    def _found(self, at: int) -> list[tuple[int, int]] | None:
        match = self._compiled.search(self.text, at)
        return None if match is None else [match.span(group) for group in range(self._compiled.groups + 1)]

    def check_size(self, size: int) -> None:
        """Refuse a result before it is made.

        :raises ArgumentInvalid: when it is larger than it may be.
        """
        if size > RESULT_BYTES_MAXIMUM:
            raise ArgumentInvalid(f"{self._call}: the result is larger than {RESULT_BYTES_MAXIMUM} bytes (16 MiB)")

    def _step(self, at: int) -> int:
        """Give how long the character is that begins there: after a match of nothing the next is looked for behind."""
        if not self._is_text or at >= len(self.text):
            return 1
        lead = self.text[at]
        return 1 if lead < 0xC0 else 2 if lead < 0xE0 else 3 if lead < 0xF0 else 4

    def told(self, spans: list[tuple[int, int]]) -> Value:
        """Give a match as Lua has it.

        :raises ArgumentInvalid: when all that were told are larger together than a result may be. Groups may hold the
            same text again and again.
        """
        named = dict.fromkeys(self.names.values(), 2)
        self._told_bytes += sum((end - begin) * named.get(group, 1) for group, (begin, end) in enumerate(spans))
        self.check_size(self._told_bytes)
        groups: dict[Any, Value] = {
            group: self.text[begin:end] for group, (begin, end) in enumerate(spans) if group and begin >= 0
        }
        for name, group in self.names.items():
            if group in groups:
                groups[name] = groups[group]
        begin, end = spans[0]
        return {"text": self.text[begin:end], "first": begin + 1, "last": end, "groups": groups}


def _match(arguments: RegexArguments) -> Value:
    pattern = _Pattern("regex.match", arguments)
    spans = pattern.first()
    return None if spans is None else pattern.told(spans)


def _find_all(arguments: FindAllArguments) -> Value:
    pattern = _Pattern("regex.find_all", arguments)
    return [pattern.told(spans) for spans in pattern.all(_limit("regex.find_all", "limit", arguments.limit))]


def _split(arguments: SplitArguments) -> Value:
    pattern = _Pattern("regex.split", arguments)
    limit = _limit("regex.split", "limit", arguments.limit)
    pieces: list[Value] = []
    at = 0
    for spans in pattern.all(None if limit is None else limit - 1):
        begin, end = spans[0]
        if begin == end and begin in {0, len(pattern.text)}:
            continue  # nothing stands before the text, or behind it
        pieces.append(pattern.text[at:begin])
        at = end
    return [*pieces, pattern.text[at:]]


def _replace(arguments: ReplaceArguments) -> Value:
    pattern = _Pattern("regex.replace", arguments)
    parts = _replacement(arguments.replacement, pattern)
    pieces: list[bytes] = []
    size = at = count = 0
    for spans in pattern.all(_limit("regex.replace", "count", arguments.count)):
        begin, end = spans[0]
        size += (
            begin
            - at
            + sum(
                len(part) if isinstance(part, bytes) else max(spans[part][1], 0) - max(spans[part][0], 0)
                for part in parts
            )
        )
        pattern.check_size(size)
        piece = pattern.text[at:begin] + b"".join(
            part if isinstance(part, bytes) else pattern.text[max(spans[part][0], 0) : max(spans[part][1], 0)]
            for part in parts
        )
        pieces.append(piece)
        at, count = end, count + 1
    return {"text": b"".join(pieces) + pattern.text[at:], "count": count}


def _replacement(text: str, pattern: _Pattern) -> list[bytes | int]:
    """Take a replacement apart: bytes, and numbers of groups.

    :raises ArgumentInvalid: when it names a group that the pattern does not have.
    """
    groups = pattern.group_count
    parts: list[bytes | int] = []
    at = 0
    for found in _PLACEHOLDER.finditer(text):
        parts.append(data(text[at : found.start()]))
        at = found.end()
        name = found["number"] or found["name"]
        if name is None:
            if found[0] != "$$":
                raise ArgumentInvalid("regex.replace: a `$` in `replacement` has nothing behind it; write `$$` for it")
            parts.append(b"$")
            continue
        group = int(name) if name.isdigit() else pattern.names.get(name, -1)
        if not 0 <= group <= groups:
            raise ArgumentInvalid(
                f"regex.replace: `replacement` names the group `{name[:60]}`, and the pattern has "
                + (f"{groups} groups" if name.isdigit() else f"the names {', '.join(pattern.names) or 'none'}")
            )
        parts.append(group)
    return [*parts, data(text[at:])]


def _escape(arguments: EscapeArguments) -> Value:
    library: Any = re2
    return library.escape(data(arguments.text))


def _limit(call: str, argument: str, value: int | None) -> int | None:
    if value is not None and value < 1:
        raise ArgumentInvalid(f"{call}: `{argument}` must be a whole number of at least 1, got {value}")
    return value


CALLS: Final = {
    "regex.match": DataCall("regex.match", RegexArguments, _match),
    "regex.find_all": DataCall("regex.find_all", FindAllArguments, _find_all),
    "regex.split": DataCall("regex.split", SplitArguments, _split),
    "regex.replace": DataCall("regex.replace", ReplaceArguments, _replace),
    "regex.escape": DataCall("regex.escape", EscapeArguments, _escape),
}
