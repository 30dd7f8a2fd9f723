"""The spans of an attempt, its stages and its commands: read off its events, which say all that a span does.

So nothing that runs a job knows of traces, and an attempt that is not traced has a stream that does not either.
"""

from __future__ import annotations

from typing import Final

from runner.event_stream import EventStream, Sink
from runner.redaction.redactor import Redaction
from schema import tracing
from schema.errors import ErrorInfo
from schema.events import AnyEvent, CommandEvent, JobEvent, StageEvent
from schema.states import FINAL_JOB_STATES
from schema.tracing import Span, Tracer
from schema.wire import Assignment

STOPPED: Final = "attempt_stopped"


def stream(
    tracer: Tracer | None, assignment: Assignment, sink: Sink, redaction: Redaction | None = None
) -> EventStream:
    """Make the event stream of an attempt, a traced one where there is a tracer."""
    if tracer is not None:
        return TracedEventStream(tracer, assignment, sink, redaction)
    return EventStream(
        job=assignment.job, number=assignment.number, attempt=assignment.attempt, sink=sink, redaction=redaction
    )


class TracedEventStream(EventStream):
    """An event stream whose events make spans."""

    def __init__(self, tracer: Tracer, assignment: Assignment, sink: Sink, redaction: Redaction | None = None) -> None:
        super().__init__(
            job=assignment.job, number=assignment.number, attempt=assignment.attempt, sink=sink, redaction=redaction
        )
        self._trace = AttemptTrace(tracer, assignment)

    async def deliver_all(self) -> None:
        try:
            await super().deliver_all()
        finally:
            self._trace.end()

    def _append(self, event: AnyEvent) -> None:
        self._trace.follow(event)
        super()._append(event)


class AttemptTrace:
    """One attempt's span, and those below it."""

    def __init__(self, tracer: Tracer, assignment: Assignment) -> None:
        self._tracer = tracer
        self._attempt: Span | None = tracer.start(
            f"attempt {assignment.pipeline}",
            kind="consumer",
            below=assignment.traceparent,
            attributes={
                "moonyard.pipeline": assignment.pipeline,
                "moonyard.job.id": assignment.job,
                "moonyard.job.number": assignment.number,
                "moonyard.attempt": assignment.attempt,
            },
        )
        self._top = self._attempt.traceparent
        self._stages: dict[str, Span] = {}

    def follow(self, event: AnyEvent) -> None:
        """Begin and end spans as an event says."""
        match event:
            case StageEvent(state="running"):
                self._stages[event.stage] = self._tracer.start(
                    f"stage {event.stage}",
                    below=self._top,
                    attributes={"moonyard.stage": event.stage, "container.image.name": event.container or ""},
                )
            case StageEvent():
                if (stage := self._stages.pop(event.stage, None)) is not None:
                    _end(stage, event.state, event.error)
            case CommandEvent():
                self._command(event)
            case JobEvent() if event.state in FINAL_JOB_STATES and self._attempt is not None:
                _end(self._attempt, event.state, event.error)
                self._attempt = None
            case _:
                pass

    def end(self) -> None:
        """End what is still open: the attempt was taken from this runner, or given back."""
        for stage in self._stages.values():
            stage.end()
        self._stages.clear()
        if self._attempt is not None:
            self._attempt.fail(STOPPED, "the attempt was stopped before it had ended")
            self._attempt.end()
            self._attempt = None

    def _command(self, event: CommandEvent) -> None:
        stage = self._stages.get(event.stage)
        program = event.argv[0].rpartition("/")[2]
        span = self._tracer.start(
            f"command {program}",
            below=self._top if stage is None else stage.traceparent,
            at=tracing.ago(event.duration),
            attributes={
                "process.executable.name": program,
                "process.command_args": event.argv,
                "container.image.name": event.container,
            },
        )
        if event.code is not None:
            span.note({"process.exit.code": event.code})
        if event.error is not None:
            span.fail(event.error.code, event.error.message)
        elif event.code:
            span.fail("command_failed", f"exit code {event.code}")
        span.end()


def _end(span: Span, state: str, error: ErrorInfo | None) -> None:
    span.note({"moonyard.state": state})
    if error is not None:
        span.fail(error.code, error.message)
    span.end()
