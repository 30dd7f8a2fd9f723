"""What no message has of a URL that holds a secret, whoever writes it: we, the system, or the server that answers."""

from __future__ import annotations

import functools
import re
import urllib.parse
from collections.abc import Iterable
from typing import Final

from yarl import URL

from schema.errors import ErrorInfo, MoonyardError

HIDDEN: Final = "***"
PART_LENGTH_MINIMUM: Final = 6
"""A shorter path, query or value is nothing that could be kept a secret, and stands in other words, too."""


class PrivatePlace:
    """A URL as messages may name it: ``https://api.example.org/bot***/send``.

    :param shown: it, with something in the place of what is secret.
    :param values: what is secret in it.
    """

    def __init__(self, shown: str, values: Iterable[str]) -> None:
        self.shown = re.split(r"[?#]", shown, maxsplit=1)[0]
        self._texts: set[str] = set()
        for value in values:
            self._add(value, urllib.parse.quote(value, safe=""), urllib.parse.quote(value))

    def add(self, url: URL) -> None:
        """Hide what the URL is made of as it is sent."""
        self._add(str(url), url.human_repr(), str(url.with_query(None).with_fragment(None)))
        self._add(url.path, url.raw_path, url.path_qs, url.raw_path_qs, url.query_string, url.raw_query_string)
        self._add(url.host or "", url.raw_host or "", minimum=1)

    def text(self, text: str) -> str:
        """Take it out of a text."""
        return self._hidden.sub(HIDDEN, text) if self._texts else text

    def error(self, error: MoonyardError) -> MoonyardError:
        """Give an error without it, with its causes."""
        return MoonyardError.from_info(self._info(error.info))

    def _add(self, *texts: str, minimum: int = PART_LENGTH_MINIMUM) -> None:
        # What the script has written itself may be read: a host, a path before the secret.
        shown = self.shown.lower()
        self._texts |= {text for text in texts if len(text) >= minimum and text.lower() not in shown}
        self.__dict__.pop("_hidden", None)

    @functools.cached_property
    def _hidden(self) -> re.Pattern[str]:
        longest_first = sorted(self._texts, key=len, reverse=True)
        return re.compile("|".join(re.escape(text) for text in longest_first), re.IGNORECASE)

    def _info(self, info: ErrorInfo) -> ErrorInfo:
        return ErrorInfo(
            code=info.code,
            message=self.text(info.message),
            where=info.where,
            cause=None if info.cause is None else self._info(info.cause),
            hint=None if info.hint is None else self.text(info.hint),
            trace=info.trace,
        )
