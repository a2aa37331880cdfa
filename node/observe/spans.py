"""Spans of OpenTelemetry: one trace from the caller of `schedule()` to the body, on any node and at any time later.

The context of `schedule()` is stored with the instance, as the W3C's `traceparent` and `tracestate`. There are four
spans:

* "schedule" (producer).
* "run" (consumer): one for each attempt, a child of "schedule", and current in the body.
* "claim" and "commit": one for each round trip to the store that involves a sampled trace, with links to the instances.

Attributes have the names of OpenTelemetry's conventions for messaging, if there is one. Times are those of the node's
clock. This module needs peerjob[otel]; it is imported only if an application asks for traces.
"""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Iterable, Sequence
from typing import Any

from opentelemetry.context import Context, attach, detach
from opentelemetry.trace import (
    Link,
    Span,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TracerProvider,
    get_current_span,
    get_tracer,
    use_span,
)
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from peerjob.model.clock import Clock
from peerjob.model.errors import DecodeError
from peerjob.model.record import Action, Claim, Outcome
from peerjob.model.spec import decode_error, decode_spec
from peerjob.version import __version__

MAX_LINKS = 128
"""Most instances that the span of a batch links to: by default, exporters take no more links."""
FAILED = (Action.TERMINATE, Action.TIME_OUT, Action.RETRY)

_propagator = TraceContextTextMapPropagator()


class Tracing:
    """Makes the spans of one node, through `provider` (default: the application's global provider)."""

    def __init__(self, clock: Clock, provider: TracerProvider | None = None) -> None:
        self._clock = clock
        self.provider = provider
        self._tracer = get_tracer("peerjob", __version__, provider)

    def carrier(self) -> dict[str, str]:
        """The current trace context in its stored form; empty if there is none."""
        carrier: dict[str, str] = {}
        _propagator.inject(carrier)
        return carrier

    @contextlib.contextmanager
    def within(self, metadata: Iterable[tuple[str, Any]]) -> Generator[None]:
        """Enter the trace context in the metadata of a remote call, if the metadata has one."""
        sent = {name: value for name, value in metadata if name in _propagator.fields and isinstance(value, str)}
        if not sent:
            yield
            return
        token = attach(_propagator.extract(sent))
        try:
            yield
        finally:
            detach(token)

    @contextlib.contextmanager
    def scheduling(self, kinds: Sequence[str]) -> Generator[None]:
        """Make a span around the scheduling of one instance of each of these kinds."""
        is_one_kind = len(set(kinds)) == 1
        attributes = _operation("send", "schedule")
        if is_one_kind:
            attributes["messaging.destination.name"] = kinds[0]
        if len(kinds) != 1:
            attributes["messaging.batch.message_count"] = len(kinds)
        span = self._tracer.start_span(
            f"schedule {kinds[0]}" if is_one_kind else "schedule",
            kind=SpanKind.PRODUCER,
            attributes=attributes,
            start_time=self._now(),
        )
        try:
            with use_span(span):  # an error inside the block becomes the status of the span
                yield
        finally:
            span.end(self._now())

    @contextlib.contextmanager
    def running(self, claim: Claim, node: str) -> Generator[Span]:
        """Make a span around one attempt, as the current span; `ended` adds the outcome."""
        span = self._tracer.start_span(
            f"run {claim.kind}",
            context=_stored_context(claim),
            kind=SpanKind.CONSUMER,
            attributes={
                **_operation("process", "run"),
                "messaging.destination.name": claim.kind,
                "messaging.message.id": claim.id,
                "peerjob.attempt": claim.attempts,
                "peerjob.node": node,
                "peerjob.priority": claim.priority,
                "peerjob.wait_seconds": max(0, claim.at_us - claim.due_us) / 1_000_000,
            },
            start_time=self._now(),
        )
        try:
            with use_span(span, record_exception=False, set_status_on_exception=False):
                yield span
        finally:
            span.end(self._now())

    @staticmethod
    def ended(span: Span, outcome: Outcome) -> None:
        """Add the outcome of an attempt to its span."""
        if not span.is_recording():
            return
        span.set_attribute("peerjob.outcome", outcome.action.value)
        if outcome.action in FAILED and outcome.error is not None:
            error = decode_error(outcome.error)
            span.set_attribute("error.type", error.type)
            span.add_event(
                "exception",
                {
                    "exception.type": error.type,
                    "exception.message": error.message,
                    "exception.stacktrace": error.traceback,
                },
            )
            span.set_status(Status(StatusCode.ERROR, str(error)))

    def claimed(self, claims: Sequence[Claim], seconds: float) -> None:
        """Make a span of a claim that the store has just answered, after so many seconds."""
        contexts = [get_current_span(_stored_context(claim)).get_span_context() for claim in claims]
        self._round_trip("claim", "receive", contexts, seconds)

    def committed(self, contexts: Sequence[SpanContext], seconds: float) -> None:
        """Make a span of a commit of these attempts, which the store has just answered."""
        self._round_trip("commit", "settle", contexts, seconds)

    def _round_trip(self, name: str, operation: str, contexts: Sequence[SpanContext], seconds: float) -> None:
        sampled = [context for context in contexts if context.is_valid and context.trace_flags.sampled]
        if not sampled:
            return
        now = self._now()
        span = self._tracer.start_span(
            name,
            context=Context(),
            kind=SpanKind.CLIENT,
            attributes={**_operation(operation, name), "messaging.batch.message_count": len(contexts)},
            links=[Link(context) for context in sampled[:MAX_LINKS]],
            start_time=now - round(seconds * 1_000_000_000),
        )
        span.end(now)

    def _now(self) -> int:
        """Return the time of the clock in nanoseconds, the unit of OpenTelemetry."""
        return self._clock.time_us() * 1_000


def _operation(type: str, name: str) -> dict[str, str | int]:
    return {"messaging.system": "peerjob", "messaging.operation.type": type, "messaging.operation.name": name}


def _stored_context(claim: Claim) -> Context:
    """Return the trace context in which an instance was scheduled, or an empty one; never that of the node's start."""
    if b"traceparent" not in claim.spec:
        return Context()
    try:
        return _propagator.extract(decode_spec(claim.spec).trace, Context())
    except DecodeError:  # the spec cannot be decoded, which the attempt itself reports
        return Context()
