"""OpenTelemetry traces: the way of a job from its submit through its claim and attempt to its stages and commands.

    client's span ── POST /v1/jobs ── claim ── attempt 1 ── stage build ── command cargo
       (traceparent header)   (stored with the job)   (handed out with the claim)

The context travels as W3C Trace Context. It is stored and handed on by orchestrators that write no traces themselves,
so that the parts may be traced one by one.

Traces are written where the standard variables name a receiver, by the standard exporter, which comes with the extra
`moonyard[tracing]`. Elsewhere none of it is imported, and who could write a span finds no tracer.
"""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Final, Literal

from schema.errors import MoonyardError

if TYPE_CHECKING:
    from opentelemetry import trace

ENDPOINT_VARIABLES: Final = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
PROTOCOL_VARIABLES: Final = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
PROTOCOL: Final = "http/protobuf"
HEADER: Final = "traceparent"
FLUSH_SECONDS: Final = 3.0
_TRACEPARENT: Final = re.compile(r"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")

Kind = Literal["server", "consumer", "internal"]
Attribute = str | int | float | list[str]

parent: Final[ContextVar[str | None]] = ContextVar("moonyard_traceparent", default=None)
"""What began where this runs, as a `traceparent`: what is done here belongs below it."""


class TracingUnusable(MoonyardError):
    """Traces are asked for, and cannot be written as asked."""

    code = "tracing_unusable"


def is_wanted() -> bool:
    """Say whether the standard variables ask for traces."""
    if os.environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return False
    if os.environ.get("OTEL_TRACES_EXPORTER", "otlp").strip().lower() == "none":
        return False
    return any(os.environ.get(name, "").strip() for name in ENDPOINT_VARIABLES)


def checked(traceparent: str | None) -> str | None:
    """Give a `traceparent` that is one, and None for anything else: a trace is never worth a refusal."""
    return traceparent if traceparent is not None and _TRACEPARENT.fullmatch(traceparent) else None


@contextmanager
def tracer(service: str) -> Generator[Tracer | None]:
    """Have a tracer for the span of a block, or None where no traces are asked for. Its end writes what is left.

    :raises TracingUnusable: when the extra is not installed, or the receiver is to be spoken to in another protocol.
    """
    if not is_wanted():
        yield None
        return
    for name in PROTOCOL_VARIABLES:
        if (asked := os.environ.get(name, "").strip()) not in {"", PROTOCOL}:
            raise TracingUnusable(
                f"{name} is `{asked}`, and Moonyard writes traces as `{PROTOCOL}` alone",
                hint="Receivers of OTLP take that too, mostly on port 4318.",
            )
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import OTELResourceDetector, Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as error:
        variable = next(name for name in ENDPOINT_VARIABLES if os.environ.get(name, "").strip())
        raise TracingUnusable(
            f"{variable} asks for traces, and what writes them is not installed ({error})",
            hint="Install it: pip install 'moonyard[tracing]'. Or unset the variable.",
        ) from error
    # The standard variables name the service before we do.
    resource = Resource.create({"service.name": service}).merge(OTELResourceDetector().detect())
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    exporter = OTLPSpanExporter()
    provider.add_span_processor(BatchSpanProcessor(exporter))
    try:
        yield Tracer(provider.get_tracer("moonyard"))
    finally:
        # A receiver that is not there is asked again and again: whoever stops us does not wait for that.
        limit = threading.Timer(FLUSH_SECONDS, exporter.shutdown)
        limit.start()
        provider.shutdown()
        limit.cancel()


class Span:
    """Something that began and will end."""

    def __init__(self, span: trace.Span) -> None:
        self._span = span

    @property
    def traceparent(self) -> str:
        """What is handed to those who go on with it."""
        context = self._span.get_span_context()
        return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"

    @property
    def trace_id(self) -> str:
        return f"{self._span.get_span_context().trace_id:032x}"

    def name(self, name: str) -> None:
        self._span.update_name(name)

    def note(self, attributes: Mapping[str, Attribute]) -> None:
        self._span.set_attributes(attributes)

    def fail(self, code: str, message: str) -> None:
        """Say that it failed."""
        from opentelemetry.trace import StatusCode

        self._span.set_attribute("error.type", code)
        self._span.set_status(StatusCode.ERROR, message)

    def end(self, at: int | None = None) -> None:
        """End it now, or at a time in nanoseconds."""
        self._span.end(at)


class Tracer:
    """Begins spans."""

    def __init__(self, tracer: trace.Tracer) -> None:
        from opentelemetry.trace import SpanKind
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self._tracer = tracer
        self._propagator = TraceContextTextMapPropagator()
        self._kinds = {"server": SpanKind.SERVER, "consumer": SpanKind.CONSUMER, "internal": SpanKind.INTERNAL}

    def start(
        self,
        name: str,
        *,
        below: str | None,
        attributes: Mapping[str, Attribute],
        kind: Kind = "internal",
        at: int | None = None,
    ) -> Span:
        """Begin a span, now or at a time in nanoseconds.

        :param below: the ``traceparent`` of what it is a part of; without one it begins a trace.
        """
        from opentelemetry.context import Context

        context = Context() if below is None else self._propagator.extract({HEADER: below}, Context())
        return Span(
            self._tracer.start_span(name, context, kind=self._kinds[kind], attributes=attributes, start_time=at)
        )


def ago(seconds: float) -> int:
    """Give a time in nanoseconds, so many seconds before now."""
    return time.time_ns() - round(seconds * 1e9)
