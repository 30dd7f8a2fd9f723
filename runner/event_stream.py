"""The events of one attempt: numbered, bounded in memory, delivered in order.

Whoever has something to tell (the job, a module, a command's output) awaits one of this stream's methods; the event
gets its ``seq`` and time and joins a buffer. One delivery loop takes what has gathered and hands it to a ``Sink`` as
JSON lines; while a delivery is under way the next batch gathers, so batches grow with the load. Where a delivery costs
a request and a commit, a batch waits a moment for company, unless it ends the job: a job without a command is one batch
in all. A full buffer makes the tellers wait: a command that writes faster than its log can be stored is slowed down,
and memory stays bounded.

A job's log has a limit. Past it, output lines are counted and dropped, and the log says so where it happens and at
the end.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, Protocol

import anyio
import msgspec

from runner.engine.usage import Usage
from runner.lines import Block
from runner.redaction.redactor import Redaction
from sandbox.process import LogPlace
from schema import times
from schema.errors import ErrorInfo
from schema.events import AnyEvent, CommandEvent, JobEvent, LogEvent, StageEvent, encode_line
from schema.states import FINAL_JOB_STATES, JobState, Level, Source, StageState

BUFFER_BYTES_MAXIMUM: Final = 4 * 1024 * 1024
BATCH_BYTES: Final = 1024 * 1024
LOG_BYTES_MAXIMUM: Final = 256 * 1024 * 1024
ARGV_LENGTH_MAXIMUM: Final = 64 * 1024
PIECE_LENGTH: Final = 32 * 1024
LINE_OVERHEAD_BYTES: Final = 64
"""What a line costs besides its text, roughly, so that a flood of empty lines meets the limit too."""


NO_PLACE: Final = LogPlace()
REDACTED_SOURCES: Final = frozenset({"stdout", "stderr", "service", "lua"})
"""Their bytes went through the attempt's redaction before they were split into lines."""


class Sink(Protocol):
    """Where events go."""

    @property
    def gathering_seconds(self) -> float:
        """How long the first event of a batch waits for others."""
        ...

    async def deliver(self, first_seq: int, lines: Sequence[bytes]) -> None:
        """Take events ``first_seq``, ``first_seq + 1``, ... as JSON lines; return when they are safe there."""
        ...


class EventStream:
    """Numbers, buffers and delivers the events of one attempt. ``deliver_all`` has to run beside the tellers."""

    def __init__(
        self,
        *,
        job: str,
        number: int | None,
        attempt: int,
        sink: Sink,
        log_bytes_maximum: int = LOG_BYTES_MAXIMUM,
        redaction: Redaction | None = None,
    ) -> None:
        self.redaction = Redaction() if redaction is None else redaction
        """What is not to be seen of this attempt. All that is told of it goes by this."""
        self.job = job
        self.number = number
        self.attempt = attempt
        self._sink = sink
        self._seq = 0
        self._buffer: list[bytes] = []
        self._buffer_bytes = 0
        self._filled = anyio.Event()
        self._hurried = anyio.Event()
        """Nothing more is worth waiting for: the job ended, or a batch is full."""
        self._drained = anyio.Event()
        self._finished = False
        self._is_ended = False
        self._log_bytes_left = log_bytes_maximum
        self._log_bytes_maximum = log_bytes_maximum
        self._lines_dropped = 0
        self._bytes_dropped = 0
        self._nobody_listens = False

    async def log(self, stage: str | None, level: Level, source: Source, text: str) -> None:
        await self.log_lines(stage, level, source, [text])

    async def log_lines(
        self,
        stage: str | None,
        level: Level,
        source: Source,
        lines: Sequence[str],
        service: str | None = None,
        place: LogPlace = NO_PLACE,
    ) -> None:
        """Tell lines of one source that arrived together."""
        if source not in REDACTED_SOURCES:
            lines = self.redaction.words(lines)
        await self._room()
        at = times.now()
        place = self._shown(place)
        for text in lines:
            cost = len(text) + LINE_OVERHEAD_BYTES
            if source != "system" and (self._lines_dropped or self._log_bytes_left < cost):
                await self._drop(stage, at, text)
                continue
            self._log_bytes_left -= cost
            self._append_log(at, stage, level, source, text, service, place)
            if self._buffer_bytes >= BUFFER_BYTES_MAXIMUM:
                await self._room()

    async def log_block(
        self, stage: str | None, level: Level, source: Source, block: Block, place: LogPlace = NO_PLACE
    ) -> None:
        """Tell lines of a flood, many in an event: an event a line would be slower than any command writes."""
        cost = len(block.text) + block.lines * LINE_OVERHEAD_BYTES
        if self._lines_dropped or self._log_bytes_left < cost:
            await self.log_lines(stage, level, source, block.text.split("\n"), place=place)
            return
        self._log_bytes_left -= cost
        at = times.now()
        place = self._shown(place)
        for text in _pieces(block.text):
            await self._room()
            self._append_log(at, stage, level, source, text, place=place)

    def _shown(self, place: LogPlace) -> LogPlace:
        if not place.fields and not place.group:
            return place
        return msgspec.structs.replace(
            place, fields=self.redaction.values(place.fields), group=self.redaction.words(place.group)
        )

    async def stage(
        self,
        stage: str,
        state: StageState,
        *,
        container: str | None = None,
        duration: float | None = None,
        error: ErrorInfo | None = None,
        outputs: Mapping[str, Any] | None = None,
    ) -> None:
        await self._room()
        self._seq += 1
        self._append(
            StageEvent(
                at=times.now(),
                job=self.job,
                attempt=self.attempt,
                seq=self._seq,
                stage=stage,
                state=state,
                container=container,
                duration=duration,
                error=self.redaction.optional_error(error),
                outputs=self.redaction.values(outputs) if outputs else msgspec.UNSET,
            )
        )

    async def command(
        self,
        stage: str,
        argv: list[str],
        container: str,
        *,
        digest: str | None = None,
        code: int | None,
        duration: float,
        used: Usage | None = None,
        output_bytes: int = 0,
        error: ErrorInfo | None = None,
        group: Sequence[str] = (),
    ) -> None:
        await self._room()
        self._seq += 1
        self._append(
            CommandEvent(
                at=times.now(),
                job=self.job,
                attempt=self.attempt,
                seq=self._seq,
                stage=stage,
                argv=shortened(self.redaction.words(argv)),
                container=self.redaction.text(container),  # a script may have put its name together
                digest=digest,
                code=code,
                duration=duration,
                cpu_seconds=None if used is None else used.cpu_seconds,
                memory_peak_bytes=None if used is None else used.memory_peak_bytes,
                output_bytes=output_bytes,
                error=self.redaction.optional_error(error),
                group=self.redaction.words(group) if group else msgspec.UNSET,
            )
        )

    async def job_state(self, state: JobState, error: ErrorInfo | None = None) -> JobEvent:
        """Tell the job's state; with a final one, the stream takes no more afterwards."""
        await self._room()
        self._seq += 1
        event = JobEvent(
            at=times.now(),
            job=self.job,
            attempt=self.attempt,
            seq=self._seq,
            id=self.job,
            number=self.number,
            state=state,
            error=self.redaction.optional_error(error),
        )
        self._append(event)
        if state in FINAL_JOB_STATES:
            self._is_ended = True
            self._hurried.set()
        return event

    async def say_what_was_dropped(self) -> None:
        if self._lines_dropped:
            await self.log(
                None,
                "warn",
                "system",
                f"the log's limit dropped {self._lines_dropped} lines ({self._bytes_dropped} bytes)",
            )

    def finish(self) -> None:
        """Let ``deliver_all`` return once all is delivered."""
        self._finished = self._is_ended = True
        self._filled.set()
        self._hurried.set()

    async def deliver_all(self) -> None:
        """Deliver batches in order until ``finish`` was called and nothing is left.

        When the sink raises, nobody listens any more: what is told from then on is thrown away, and no teller waits,
        for those who clean up after a job tell things too.
        """
        try:
            await self._deliver_all()
        except BaseException:
            self._nobody_listens = True
            self._forget_buffer()
            raise

    async def _deliver_all(self) -> None:
        while True:
            if not self._buffer:
                if self._finished:
                    return
                self._filled = anyio.Event()
                await self._filled.wait()
                continue
            if self._sink.gathering_seconds:
                with anyio.move_on_after(self._sink.gathering_seconds):
                    await self._hurried.wait()
            batch, size = self._batch()
            await self._sink.deliver(self._seq - len(self._buffer) + 1, batch)
            del self._buffer[: len(batch)]
            self._buffer_bytes -= size
            if self._buffer_bytes < BATCH_BYTES and not self._is_ended:
                self._hurried = anyio.Event()
            self._drained.set()
            self._drained = anyio.Event()

    def _forget_buffer(self) -> None:
        self._buffer.clear()
        self._buffer_bytes = 0
        self._drained.set()

    def _batch(self) -> tuple[list[bytes], int]:
        if self._buffer_bytes <= BATCH_BYTES:
            return self._buffer[:], self._buffer_bytes
        size = 0
        for count, line in enumerate(self._buffer):
            if size + len(line) > BATCH_BYTES and count:
                return self._buffer[:count], size
            size += len(line)
        return self._buffer[:], size

    def _append_log(
        self,
        at: str,
        stage: str | None,
        level: Level,
        source: Source,
        text: str,
        service: str | None = None,
        place: LogPlace = NO_PLACE,
    ) -> None:
        self._seq += 1
        self._append(
            LogEvent(
                at=at,
                job=self.job,
                attempt=self.attempt,
                seq=self._seq,
                stage=stage,
                level=level,
                source=source,
                text=text,
                service=msgspec.UNSET if service is None else service,
                fields=place.fields or msgspec.UNSET,
                group=place.group or msgspec.UNSET,
                heading=place.heading or msgspec.UNSET,
            )
        )

    def _append(self, event: AnyEvent) -> None:
        if self._nobody_listens:
            return
        line = encode_line(event)
        self._buffer.append(line)
        self._buffer_bytes += len(line)
        self._filled.set()
        if self._buffer_bytes >= BATCH_BYTES:
            self._hurried.set()

    async def _room(self) -> None:
        while self._buffer_bytes >= BUFFER_BYTES_MAXIMUM:
            await self._drained.wait()

    async def _drop(self, stage: str | None, at: str, text: str) -> None:
        if not self._lines_dropped:
            limit = self._log_bytes_maximum // (1024 * 1024)
            told = f"the log reached its limit of {limit} MiB; output from here on is dropped"
            self._append_log(at, stage, "warn", "system", told)
        self._lines_dropped += 1
        self._bytes_dropped += len(text)


def _pieces(text: str) -> Iterator[str]:
    """Cut a text of many lines between lines, into pieces that are not long unless a line is."""
    start = 0
    while len(text) - start > PIECE_LENGTH:
        end = text.rfind("\n", start, start + PIECE_LENGTH)
        if end < 0:
            end = text.find("\n", start)
            if end < 0:
                break
        yield text[start:end]
        start = end + 1
    yield text[start:]


def shortened(argv: list[str]) -> list[str]:
    """Cut a command line that no event can hold, and say how much is left out."""
    if sum(len(word) + 1 for word in argv) <= ARGV_LENGTH_MAXIMUM:
        return argv
    kept: list[str] = []
    room = ARGV_LENGTH_MAXIMUM
    for count, word in enumerate(argv):
        if room <= 0:
            kept.append(f"... ({len(argv) - count} more arguments)")
            break
        kept.append(word if len(word) <= room else f"{word[:room]}... ({len(word) - room} more characters)")
        room -= len(word) + 1
    return kept
