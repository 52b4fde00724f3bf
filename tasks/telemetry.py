"""Metrics and traces of a run: sent to an OpenTelemetry endpoint where one is set, and nowhere else.

Hooks in tasks and flows call this module. Without an endpoint they do nothing and nothing of OpenTelemetry's is imported here.
What is sent never slows a run down: what cannot be sent is dropped, with one warning.
"""

from __future__ import annotations

import contextlib
import functools
import os
import time
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, ParamSpec, Protocol, TypeAlias

from audit.machine import telemetry
from tasks.networks import Networks
from tasks.progress import reporter

if TYPE_CHECKING:
    from audit.compute.worker import UnitReport
    from audit.plan.identities import Unit
    from tasks.context import Run
    from tasks.units import StageReport

P = ParamSpec("P")
Attributes: TypeAlias = Mapping[str, str | int | float]


class Sender(Protocol):
    """What sends the telemetry of one run."""

    def step(self, name: str, attributes: Attributes) -> contextlib.AbstractContextManager[Span]:
        """Open a span inside the innermost step; what is opened in the block lies inside this one."""

    def span(self, name: str, attributes: Attributes) -> contextlib.AbstractContextManager[Span]:
        """Open a span inside the innermost step, in any thread."""

    def past(self, name: str, began: int, attributes: Attributes) -> None:
        """Record a span that began at a time, in nanoseconds since 1970, and ends now."""

    def parent(self) -> str:
        """Return the W3C `traceparent` of the innermost step."""

    def count(self, name: str, amount: float, attributes: dict[str, str]) -> None:
        """Add to a counter."""

    def gauge(self, name: str, value: float, attributes: dict[str, str]) -> None:
        """Set a gauge."""

    def trouble(self) -> str | None:
        """Return why nothing arrives, once; None when nothing is known of it."""

    def flush(self) -> None:
        """Send what there is, for a bounded time, and not where nothing arrives."""

    def close(self) -> None:
        """Send what is left, for a bounded time."""


class Span(Protocol):
    """A span that is open."""

    def set(self, attributes: Attributes) -> None:
        """Add attributes."""


_sender: Sender | None = None
_networks = Networks()
_joined: str | None = None  # the run whose units this process computes for another one


@contextlib.contextmanager
def running(run: Run) -> Iterator[None]:
    """Send the telemetry of a run inside the block, as one trace; one warning says when that is not possible."""
    opened = None if _sender else _open(run.run_id, os.environ.get("TRACEPARENT", ""))
    if opened is None:
        yield
        return
    try:
        with step("run", {"command": run.command}):
            yield
    finally:
        _close(opened)


def join(run: Run) -> None:
    """Send the telemetry of the units that this process computes for a run that another one leads.

    It is sent after each unit: whoever started this process may end it at any time.
    """
    global _joined
    if _joined == run.run_id:
        return
    if _joined is not None and _sender is not None:
        _close(_sender)
    if _sender is None:
        _joined = run.run_id
        _open(run.run_id, run.trace)


def parent() -> str:
    """Return the W3C `traceparent` of the step that this process is in; empty without one."""
    return _sender.parent() if _sender else ""


def _open(run_id: str, parent: str) -> Sender | None:
    """Return what sends the telemetry of a run, this process's from now on; None when nothing is to be sent, or can be."""
    global _sender
    endpoints = telemetry.endpoints()
    if not endpoints:
        return None
    try:
        from tasks.otlp import Exporting  # loads OpenTelemetry

        _sender = Exporting(run_id, endpoints, parent)
    except Exception as error:  # packages that are missing or unfit, settings that they refuse
        missing = f"its packages are not installed; {telemetry.EXTRA}"
        why = missing if isinstance(error, ImportError) else f"{type(error).__name__}: {str(error)[:200]}"
        reporter().note(f"no metrics and traces are sent: an endpoint is set, and {why}; the run goes on")
    return _sender


def _close(sender: Sender) -> None:
    global _sender
    _sender = None
    sender.close()
    _warn(sender)


@contextlib.contextmanager
def step(name: str, attributes: Attributes | None = None) -> Iterator[Span | None]:
    """Trace one step of a run."""
    sender = _sender
    if sender is None:
        yield None
        return
    with sender.step(name, attributes or {}) as span:
        yield span
    _warn(sender)


def staged(run_units: Callable[P, StageReport]) -> Callable[P, StageReport]:
    """Trace a function that runs the units of one `kind`, a keyword of it."""

    @functools.wraps(run_units)
    def traced(*args: P.args, **kwargs: P.kwargs) -> StageReport:
        with step(f"stage {kwargs['kind']}", {"kind": str(kwargs["kind"])}) as span:
            report = run_units(*args, **kwargs)
            if span is not None:
                span.set(_outcome(report))
        return report

    return traced


def stage_ended(report: StageReport, began: int) -> None:
    """Trace a stage that ended now and began at a time, in nanoseconds since 1970, beside others that may go on."""
    if _sender is not None:
        _sender.past(f"stage {report.kind}", began, {"kind": report.kind, **_outcome(report)})


def _outcome(report: StageReport) -> Attributes:
    return {
        "units": report.units, "before": report.before, "computed": report.computed, "elsewhere": report.elsewhere,
        "failed": len(report.failures),
    }  # fmt: skip


@contextlib.contextmanager
def unit(unit: Unit) -> Iterator[Callable[[UnitReport], UnitReport]]:
    """Trace and count one unit, in whatever process computes it; give what takes its report and returns it."""
    sender = _sender
    if sender is None:
        yield lambda report: report
        return
    kind, attempt = {"kind": unit.kind}, _attempt()
    if attempt > 1:
        sender.count("retries", 1, kind)
    reports: list[UnitReport] = []

    def measured(report: UnitReport) -> UnitReport:
        reports.append(report)
        return report

    outcome, began = "failed", time.perf_counter()
    with sender.span(f"unit {unit.kind}", {**kind, "unit": unit.key, "attempt": attempt}) as span, _networks.measured():
        try:
            yield measured
            outcome = "errors" if reports and reports[0].errors else "complete"
        finally:
            span.set({"outcome": outcome, **(_facts(reports[0]) if reports else {})})
            sender.count("units", 1, {**kind, "outcome": outcome})
            sender.count("unit.seconds", time.perf_counter() - began, kind)
            for network, seconds in _networks.take().items():
                sender.count("network.seconds", seconds, {**kind, "network": network})
            for report in reports:
                sender.count("compute.seconds", report.seconds, kind)
                sender.count("rows", report.rows, kind)
                sender.count("errors", report.errors, kind)
                sender.count("unet.evaluations", report.unet_calls, kind)
            _gpu_memory(sender)
    if _joined is not None:
        sender.flush()
    _warn(sender)


def retried(kind: str) -> None:
    """Count a unit that is computed again because its process was lost."""
    if _sender is not None:
        _sender.count("retries", 1, {"kind": kind})


def pending(kind: str, units: int) -> None:
    """Tell how many units of a stage wait."""
    if _sender is not None:
        _sender.gauge("queue", units, {"kind": kind})


def _facts(report: UnitReport) -> Attributes:
    return {
        "rows": report.rows, "errors": report.errors, "unassessed": report.unassessed,
        "unet_calls": report.unet_calls, "seconds": report.seconds,
    }  # fmt: skip


def _attempt() -> int:
    """Return which try of the task this is, from 1."""
    from prefect.context import TaskRunContext

    context = TaskRunContext.get()
    return max(context.task_run.run_count, 1) if context else 1


def _gpu_memory(sender: Sender) -> None:
    from torch import cuda  # a unit was computed, so it is loaded

    if cuda.is_available() and cuda.is_initialized():
        for state, size in (
            ("allocated", cuda.memory_allocated()),
            ("reserved", cuda.memory_reserved()),
            ("peak", cuda.max_memory_allocated()),
        ):
            sender.gauge("gpu.memory", size, {"state": state})


def _warn(sender: Sender) -> None:
    if trouble := sender.trouble():
        with contextlib.suppress(RuntimeError):  # at the end of a process that only computed units
            reporter().note(f"metrics and traces do not arrive: {trouble}; the run goes on without them")
