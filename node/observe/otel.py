"""The way to OpenTelemetry, which is imported only once somebody traces."""

from __future__ import annotations

from typing import TYPE_CHECKING

from peerjob.model.clock import Clock
from peerjob.model.errors import OptionError

if TYPE_CHECKING:
    from opentelemetry.trace import TracerProvider

    from .telemetry import Tracing


def make_tracing(clock: Clock, provider: TracerProvider | None = None) -> Tracing:
    """Raises OptionError where peerjob[otel] is not installed."""
    try:
        from .telemetry import Tracing
    except ModuleNotFoundError as missing:
        raise OptionError("trace", provider, f"peerjob[otel] installed ({missing})") from missing
    return Tracing(clock, provider)
