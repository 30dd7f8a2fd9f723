"""What goes wrong with a request.

MoonyardError
└── RequestFailed            http_failed       nobody answered: no such host, no connection, a broken one, bad TLS
    ├── DestinationRefused   http_refused      jobs may not connect there
    ├── RequestTimeout       http_timeout      no whole answer in time
    ├── AnswerTooLarge       http_too_large    more than is taken
    ├── TooManyRedirects     http_redirects    from one place to the next without an end
    └── StatusRefused        http_status       an answer, and one that says that it did not work
"""

from __future__ import annotations

from schema.errors import MoonyardError


class RequestFailed(MoonyardError):
    """Nobody answered."""

    code = "http_failed"


class DestinationRefused(RequestFailed):
    """Jobs may not connect there."""

    code = "http_refused"


class RequestTimeout(RequestFailed):
    """There was no whole answer in time."""

    code = "http_timeout"


class AnswerTooLarge(RequestFailed):
    """The answer is larger than what is taken."""

    code = "http_too_large"


class TooManyRedirects(RequestFailed):
    """One place leads to the next without an end."""

    code = "http_redirects"


class StatusRefused(RequestFailed):
    """The answer says that it did not work."""

    code = "http_status"
