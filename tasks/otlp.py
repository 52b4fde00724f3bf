"""Send metrics and traces of one run to an OTLP endpoint over HTTP. Importing this loads OpenTelemetry.

The providers are this module's own: nothing that another library records through OpenTelemetry is sent with them.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import logging
import os
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, TypeAlias

from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from audit.machine.telemetry import shown_endpoint

if TYPE_CHECKING:
    from opentelemetry.metrics import Counter, Meter, _Gauge
    from opentelemetry.trace import Tracer

Value: TypeAlias = "str | int | float"
PREFIX = "erasure_audit"
REQUEST_SECONDS = 3.0  # for one request with its retries, unless OTEL_EXPORTER_OTLP_TIMEOUT says another
CLOSING_SECONDS = 5.0  # for everything that is left at the end of a run
_UNITS = {"seconds": "s", "memory": "By"}


class _Troubles(logging.Handler):
    """A handler that keeps the first error of OpenTelemetry's libraries; what they try again is none."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.first: str | None = None

    def emit(self, record: logging.LogRecord) -> None:
        self.first = self.first or record.getMessage().splitlines()[0][:200]


class _Span:
    def __init__(self, span: trace.Span) -> None:
        self.span = span

    def set(self, attributes: Mapping[str, Value]) -> None:
        """Add attributes."""
        self.span.set_attributes({f"{PREFIX}.{name}": value for name, value in attributes.items()})


class Exporting:
    """The tracer and the meter of one run. Spans and numbers are queued and sent by threads of their own."""

    def __init__(self, run_id: str, endpoints: Mapping[str, str], parent: str) -> None:
        """`endpoints` has an address for each signal that is sent, traces and metrics.

        `parent` is the W3C `traceparent` of what the run is a part of; empty for a trace of its own.
        """
        self._endpoints = endpoints
        self._troubles, self._warned = _Troubles(), False
        log = logging.getLogger("opentelemetry")
        log.handlers[:] = [handler for handler in log.handlers if not isinstance(handler, _Troubles)]
        log.addHandler(self._troubles)
        log.propagate = False
        resource = Resource.create({
            "service.name": os.environ.get("OTEL_SERVICE_NAME") or "erasure-audit",
            "service.version": importlib.metadata.version("erasure-audit"),
            "service.instance.id": uuid.uuid4().hex,  # of this process and run: counters of several are added up
            f"{PREFIX}.run": run_id,
        })  # fmt: skip
        self._closing: list[Callable[[], object]] = []
        self._flushing: list[Callable[[], object]] = []
        self._tracer: Tracer = trace.NoOpTracer()
        self._meter: Meter | None = None
        if "traces" in endpoints:
            tracing = TracerProvider(resource=resource, shutdown_on_exit=False)
            tracing.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(timeout=_timeout("TRACES"))))
            self._closing.append(tracing.shutdown)
            self._flushing.append(tracing.force_flush)
            self._tracer = tracing.get_tracer(PREFIX)
        if "metrics" in endpoints:
            reader = PeriodicExportingMetricReader(OTLPMetricExporter(timeout=_timeout("METRICS")))
            metering = MeterProvider(metric_readers=[reader], resource=resource, shutdown_on_exit=False)
            self._closing.append(metering.shutdown)
            self._flushing.append(metering.force_flush)
            self._meter = metering.get_meter(PREFIX)
        self._counters: dict[str, Counter] = {}
        self._gauges: dict[str, _Gauge] = {}
        self._contexts = [TraceContextTextMapPropagator().extract({"traceparent": parent})]

    @contextlib.contextmanager
    def step(self, name: str, attributes: Mapping[str, Value]) -> Iterator[_Span]:
        """Open a span inside the innermost step; what is opened in the block lies inside this one."""
        with self.span(name, attributes) as opened:
            self._contexts.append(trace.set_span_in_context(opened.span, self._contexts[-1]))
            try:
                yield opened
            finally:
                self._contexts.pop()

    @contextlib.contextmanager
    def span(self, name: str, attributes: Mapping[str, Value]) -> Iterator[_Span]:
        """Open a span inside the innermost step, in any thread; an error in the block is named by its class alone."""
        opened = _Span(self._tracer.start_span(name, self._contexts[-1]))
        opened.set(attributes)
        try:
            yield opened
        except BaseException as error:
            opened.span.set_status(trace.StatusCode.ERROR, type(error).__name__)
            raise
        finally:
            opened.span.end()

    def past(self, name: str, began: int, attributes: Mapping[str, Value]) -> None:
        """Record a span that began at a time, in nanoseconds since 1970, and ends now."""
        opened = _Span(self._tracer.start_span(name, self._contexts[-1], start_time=began))
        opened.set(attributes)
        opened.span.end()

    def parent(self) -> str:
        """Return the W3C `traceparent` of the innermost step."""
        carried: dict[str, str] = {}
        TraceContextTextMapPropagator().inject(carried, self._contexts[-1])
        return carried.get("traceparent", "")

    def count(self, name: str, amount: float, attributes: Mapping[str, str]) -> None:
        """Add to a counter."""
        if self._meter is not None:
            if name not in self._counters:
                self._counters[name] = self._meter.create_counter(f"{PREFIX}.{name}", _unit(name))
            self._counters[name].add(amount, dict(attributes))

    def gauge(self, name: str, value: float, attributes: Mapping[str, str]) -> None:
        """Set a gauge."""
        if self._meter is not None:
            if name not in self._gauges:
                self._gauges[name] = self._meter.create_gauge(f"{PREFIX}.{name}", _unit(name))
            self._gauges[name].set(value, dict(attributes))

    def trouble(self) -> str | None:
        """Return the first complaint, once; None before there is one."""
        if self._warned or self._troubles.first is None:
            return None
        self._warned = True
        hosts = " and ".join(dict.fromkeys(map(shown_endpoint, self._endpoints.values())))
        return f"{hosts} does not take them ({self._troubles.first})"

    def flush(self) -> None:
        """Send what there is now; nothing after the first error or `CLOSING_SECONDS` without an answer."""
        if self._troubles.first is None:
            self._within(self._flushing)

    def close(self) -> None:
        """Send what is left; what takes longer than `CLOSING_SECONDS` is given up."""
        self._within(self._closing)

    def _within(self, calls: Sequence[Callable[[], object]]) -> None:
        threads = [threading.Thread(target=call, daemon=True) for call in calls]
        for thread in threads:
            thread.start()
        deadline = time.monotonic() + CLOSING_SECONDS
        for thread in threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        if any(thread.is_alive() for thread in threads):
            self._troubles.first = self._troubles.first or f"no answer within {CLOSING_SECONDS:.0f} seconds"


def _timeout(signal: str) -> float | None:
    """Return the time for one request; None where the user has set it."""
    names = ("OTEL_EXPORTER_OTLP_TIMEOUT", f"OTEL_EXPORTER_OTLP_{signal}_TIMEOUT")
    return None if any(os.environ.get(name) for name in names) else REQUEST_SECONDS


def _unit(name: str) -> str:
    """Return the unit of a metric, as UCUM writes it."""
    return _UNITS.get(name.rpartition(".")[2], "1")
