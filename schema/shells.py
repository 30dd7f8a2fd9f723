"""The messages about shells: a user's terminal in a container of a job, through Postgres.

Both ends, the user's command line and the job's runner, speak to any replica by ordinary requests: each sends what it
has (``ShellSend``) and waits for what the other sent (``ShellReceive``). Bytes are numbered from 0, each way: what is
sent twice, for an answer was lost, is stored once, and asking from a position on says that all below it was taken. So
either end goes on with another replica when one dies, and nothing is lost or doubled.
"""

from __future__ import annotations

from typing import Final, Literal

from schema.errors import ErrorInfo
from schema.wire import Answer, Message

SEND_BYTES_MAXIMUM: Final = 128 * 1024
"""The most that one message carries."""
AHEAD_BYTES_MAXIMUM: Final = 256 * 1024
"""How much may be on its way: whoever sends more waits until some was taken."""
WAIT_SECONDS: Final = 20.0
"""How long a message waits at the orchestrator, for bytes to come or for room."""

ShellState = Literal["wanted", "open", "ended"]


class ShellOpen(Message, frozen=True, kw_only=True):
    """Asks for a shell in a container of a job."""

    stage: str | None = None
    """In this stage's container; by default in that of the stage that runs, or else the job's default one."""
    container: str | None = None
    """In the container of this image."""
    command: list[str] | None = None
    """What to run; by default `bash`, or else `sh`."""
    terminal: str | None = None
    """The kind of terminal, as TERM names it; None for plain streams."""
    lines: int = 24
    columns: int = 80


class Shell(Answer, frozen=True, kw_only=True):
    id: str
    job: str
    number: int
    """The job's."""
    attempt: int
    state: ShellState
    runner: str
    actor: str
    image: str | None = None
    exit_code: int | None = None
    error: ErrorInfo | None = None


class ShellSend(Message, frozen=True, kw_only=True):
    """Bytes that follow those before ``position``; also the user's size of terminal, and the end of what is sent."""

    position: int
    data: bytes = b""
    is_stderr: bool = False
    is_over: bool = False


class ShellSent(Answer, frozen=True, kw_only=True):
    position: int
    """All below it is stored: what was not is to be sent again."""
    state: ShellState


class ShellResize(Message, frozen=True, kw_only=True):
    lines: int
    columns: int


class ShellReceive(Message, frozen=True, kw_only=True):
    """Waits for bytes from ``position`` on; all below it was taken."""

    position: int
    wait: float = WAIT_SECONDS
    is_over: bool = False
    """It is known that no more bytes come: what is waited for is the shell's end."""
    lines: int | None = None
    """What the runner knows of the terminal's size: it is told at once of another."""
    columns: int | None = None


class ShellPiece(Answer, frozen=True, kw_only=True):
    data: bytes
    is_stderr: bool = False


class ShellReceived(Answer, frozen=True, kw_only=True):
    pieces: list[ShellPiece]
    position: int
    """From which to ask the next time."""
    is_over: bool
    """Nothing comes after these pieces."""
    shell: Shell
    lines: int
    columns: int


class ShellEnd(Message, frozen=True, kw_only=True):
    """The runner's word that a shell is over, after all that it said was sent."""

    exit_code: int | None = None
    error: ErrorInfo | None = None


class ShellOpened(Message, frozen=True, kw_only=True):
    image: str
    """Of the container that it is in."""


class ContainersKeep(Message, frozen=True, kw_only=True):
    """The runner's word that it keeps the containers of an attempt that failed."""

    seconds: float
    images: list[str]


class ContainersKept(Answer, frozen=True, kw_only=True):
    expires_at: str


class ContainersReleased(Answer, frozen=True, kw_only=True):
    released: int
    """How many attempts' containers are removed before their time."""


class ContainersForgotten(Answer, frozen=True, kw_only=True):
    job: str
    attempt: int
