"""Metrics and traces go to an OpenTelemetry endpoint where one is set, say nothing that is private, and delay nothing."""

from __future__ import annotations

import contextlib
import dataclasses
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from prefect.states import Completed, Failed
from transformers import PreTrainedConfig, PreTrainedModel

from audit.compute.worker import UnitReport
from audit.machine import telemetry as settings
from audit.plan.identities import Unit
from tasks import context, progress, stages, telemetry
from tasks.collect import collect
from tasks.context import Run
from tasks.networks import Networks
from tasks.opening import open_run
from tasks.plan import plan
from tests.flows.audits import tiny_spec
from tests.machines import REPOSITORY, fresh_environment
from tests.synthetic import unit

SECRET = "zyx"
IDLE = Run("tiny-1", "nowhere", context.Settings())


@dataclasses.dataclass
class Receiver:
    """An OTLP/HTTP endpoint on loopback that keeps what it gets."""

    url: str
    bodies: dict[str, list[bytes]] = dataclasses.field(default_factory=dict)

    def spans(self) -> list[Any]:
        """Every span that came."""
        requests = [ExportTraceServiceRequest.FromString(body) for body in self.bodies.get("/v1/traces", ())]
        return [
            span
            for one in requests
            for group in one.resource_spans
            for scope in group.scope_spans
            for span in scope.spans
        ]

    def metrics(self) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
        """The newest value of each metric, by name and attributes."""
        requests = [ExportMetricsServiceRequest.FromString(body) for body in self.bodies.get("/v1/metrics", ())]
        values = {}
        for metric in (
            m
            for one in requests
            for group in one.resource_metrics
            for scope in group.scope_metrics
            for m in scope.metrics
        ):
            for point in (metric.sum if metric.HasField("sum") else metric.gauge).data_points:
                attributes = tuple(sorted((a.key, a.value.string_value) for a in point.attributes))
                values[metric.name, attributes] = point.as_int or point.as_double
        return values


def attributes(span: Any) -> dict[str, Any]:
    return {
        a.key.removeprefix("erasure_audit."): getattr(a.value, a.value.WhichOneof("value")) for a in span.attributes
    }


@contextlib.contextmanager
def listening_at(answer: Callable[[BaseHTTPRequestHandler], None]) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            answer(self)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


@contextlib.contextmanager
def receiving(monkeypatch: pytest.MonkeyPatch) -> Iterator[Receiver]:
    got = Receiver("")

    def keep(request: BaseHTTPRequestHandler) -> None:
        body = request.rfile.read(int(request.headers["Content-Length"]))
        got.bodies.setdefault(request.path, []).append(body)
        request.send_response(200)
        request.send_header("Content-Length", "0")
        request.end_headers()

    with listening_at(keep) as got.url:
        monkeypatch.setenv(settings.ENDPOINT, got.url)
        yield got


class Notes(progress.LogReporter):
    """A reporter that keeps the notes."""

    def __init__(self) -> None:
        super().__init__()
        self._tell = lambda text: None
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


@pytest.fixture
def notes() -> Iterator[list[str]]:
    """The warnings of the run."""
    reporter = Notes()
    with progress.reporting_to(reporter):
        yield reporter.notes


@dataclasses.dataclass(frozen=True)
class Sent:
    """What a run of a few pictures sent, of which one unit failed."""

    run: Run
    receiver: Receiver
    notes: list[str]


@pytest.fixture(scope="module")
def sent(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path) -> Sent:
    changes = {
        "concepts": [{"name": "ring", "phrase": SECRET}],
        "scenarios": [{"name": "text", "cases": 1, "sampler": {"steps": 1}}],
        "defences": [{"name": "negative", "guards": [{"name": "negative-prompt"}]}],
        "controls": {"cases": 1, "random_latent": False},
    }
    folder, reporter = tmp_path_factory.mktemp("telemetry"), Notes()
    spec = tiny_spec(folder, tiny_folder, **changes)
    with pytest.MonkeyPatch.context() as patch, receiving(patch) as receiver, progress.reporting_to(reporter):
        patch.setattr(progress, "create_progress_artifact", lambda *_, **__: None)  # no Prefect API is asked
        run = open_run(str(spec), str(folder / "runs"), "tiny-1", context.Settings(device="cpu"))
        with telemetry.running(run):
            plan.fn(run, collect.fn(run))
            stages.run_units(run, kind="generate", unit_task=unit_task("generate", 1))
    return Sent(run, receiver, reporter.notes)


def unit_task(kind: str, broken: int = 0) -> Any:
    """The unit task of a stage without Prefect's engine around it; the first `broken` units raise."""
    left = [broken]

    def call(run: Run, unit: Unit, return_state: bool) -> Any:
        try:
            if left[0]:
                left[0] -= 1
                with telemetry.unit(unit):
                    raise ValueError(f"{SECRET} at {run.root}")
            return Completed(data=stages._UNITS[kind].fn(run, unit))
        except ValueError as error:
            return Failed(data=error)

    return call


def test_a_run_is_one_trace_with_its_stages_and_units(sent: Sent) -> None:
    spans = {span.span_id: span for span in sent.receiver.spans()}
    names = [span.name for span in spans.values()]
    (root,) = [span for span in spans.values() if not span.parent_span_id]
    assert root.name == "run" and len({span.trace_id for span in spans.values()}) == 1
    assert {"collect", "plan", "stage generate"} <= set(names)
    planned = [unit.key for unit in sent.run.plan.units_of("generate")]
    units = [span for span in spans.values() if span.name == "unit generate"]
    assert {attributes(span)["unit"] for span in units} == set(planned) and len(units) == len(planned)
    assert {spans[span.parent_span_id].name for span in units} == {"stage generate"}
    outcomes = sorted(attributes(span)["outcome"] for span in units)
    assert outcomes == ["complete"] * (len(planned) - 1) + ["failed"]
    (failed,) = [span for span in units if attributes(span)["outcome"] == "failed"]
    assert failed.status.message == "ValueError"


def test_the_numbers_of_a_run_add_up(sent: Sent) -> None:
    metrics, planned = sent.receiver.metrics(), list(sent.run.plan.units_of("generate"))
    kind = ("kind", "generate")
    assert metrics["erasure_audit.units", (kind, ("outcome", "complete"))] == len(planned) - 1
    assert metrics["erasure_audit.units", (kind, ("outcome", "failed"))] == 1
    assert metrics["erasure_audit.rows", (kind,)] >= len(planned) - 1
    assert metrics["erasure_audit.queue", (kind,)] == 0
    assert 0 < metrics["erasure_audit.compute.seconds", (kind,)] <= metrics["erasure_audit.unit.seconds", (kind,)]
    seconds = {
        dict(of)["network"]: value for (name, of), value in metrics.items() if name == "erasure_audit.network.seconds"
    }
    assert seconds.keys() == {"UNet2DConditionModel", "AutoencoderKL", "CLIPTextModel"}
    assert min(seconds.values()) > 0
    assert sum(seconds.values()) < metrics["erasure_audit.compute.seconds", (kind,)]
    assert not [note for note in sent.notes if "metrics" in note]


def test_networks_are_measured_inside_a_unit_alone_and_the_outermost_counts() -> None:
    networks, plain = Networks(), PreTrainedModel.__call__

    class Inner(PreTrainedModel):
        def forward(self, broken: bool) -> None:
            time.sleep(0.01)
            if broken:
                raise ValueError

    class Outer(PreTrainedModel):
        def __init__(self, config: PreTrainedConfig) -> None:
            super().__init__(config)
            self.inner = Inner(config)

        def forward(self, broken: bool = False) -> None:
            self.inner(broken)

    outer = Outer(PreTrainedConfig())
    with networks.measured():
        outer()
        with pytest.raises(ValueError):
            outer(broken=True)
        outer.inner(False)
    outer()
    seconds = networks.take()
    assert seconds.keys() == {"Outer", "Inner"} and all(0.01 <= value < 0.5 for value in seconds.values())
    assert networks.take() == {} and PreTrainedModel.__call__ is plain and "__call__" not in vars(PreTrainedModel)


def test_no_prompt_no_path_and_no_host_name_is_sent(sent: Sent) -> None:
    everything = b"".join(body for bodies in sent.receiver.bodies.values() for body in bodies)
    assert b"tiny-1" in everything and b"erasure-audit" in everything
    for secret in (SECRET, sent.run.root, str(Path.home()), socket.gethostname(), "ring"):
        assert secret.encode() not in everything, secret


def refused() -> Iterator[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{free.getsockname()[1]}"  # bound and not listening


def silent() -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0), backlog=8) as server:  # takes connections and never answers
        yield f"http://user:password@127.0.0.1:{server.getsockname()[1]}"


@pytest.mark.parametrize("endpoint", [refused, silent])
def test_an_endpoint_that_does_not_answer_costs_one_warning_and_no_time(
    endpoint: Callable[[], Iterator[str]], notes: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tasks.otlp.CLOSING_SECONDS", 2.0)
    for url in endpoint():
        monkeypatch.setenv(settings.ENDPOINT, url)
        began = time.monotonic()
        with telemetry.running(IDLE):
            for _ in range(3):
                with telemetry.step("plan"):
                    pass
            opened = time.monotonic() - began
        assert opened < 1.0 and time.monotonic() - began < 4.0
    (note,) = notes
    assert note.startswith("metrics and traces do not arrive: http://127.0.0.1:") and "the run goes on" in note
    assert "password" not in note


def test_an_endpoint_without_the_packages_is_one_warning(notes: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(settings.ENDPOINT, "http://127.0.0.1:1")
    monkeypatch.delitem(sys.modules, "tasks.otlp", raising=False)
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    with telemetry.running(IDLE), telemetry.step("plan"):
        pass
    (note,) = notes
    assert "pip install 'erasure-audit[telemetry]'" in note and "the run goes on" in note


def test_nothing_of_opentelemetry_is_loaded_without_an_endpoint() -> None:
    code = """
import sys
import flows.work
from tasks import telemetry
from tasks.context import Run, Settings
with telemetry.running(Run("run-1", "nowhere", Settings())), telemetry.step("plan"):
    loaded = [name for name in sys.modules if name.startswith(("opentelemetry.sdk", "opentelemetry.exporter", "tasks.otlp"))]
assert not loaded, loaded
"""
    subprocess.run([sys.executable, "-c", code], env=fresh_environment(), cwd=REPOSITORY, check=True)


def test_units_that_another_process_computes_join_the_trace_and_are_sent_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with receiving(monkeypatch) as receiver:
        with telemetry.running(IDLE):
            led = dataclasses.replace(IDLE, trace=telemetry.parent())
        monkeypatch.setattr(telemetry, "_joined", None)  # and all of the rest as in a process that has just begun
        try:
            telemetry.join(led)
            with telemetry.unit(unit("generate")) as measured:
                measured(UnitReport("generate", "0", 3, 0, 0, 50, 1.5))
            telemetry.join(led)  # the next unit
            # Here the process may be killed.
            spans = {span.name: span for span in receiver.spans()}
            assert spans["unit generate"].parent_span_id == spans["run"].span_id
            assert spans["unit generate"].trace_id == spans["run"].trace_id
            assert receiver.metrics()["erasure_audit.rows", (("kind", "generate"),)] == 3
        finally:
            assert telemetry._sender is not None
            telemetry._close(telemetry._sender)


@pytest.mark.parametrize(
    ("variables", "signals"),
    [
        ({}, set()),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": ""}, set()),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://a"}, {"traces", "metrics"}),
        ({"OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": "http://a/v1/metrics"}, {"metrics"}),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://a", "OTEL_TRACES_EXPORTER": "none"}, {"metrics"}),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://a", "OTEL_SDK_DISABLED": "true"}, set()),
    ],
)
def test_the_variables_of_opentelemetry_say_what_is_sent(
    variables: dict[str, str], signals: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert settings.endpoints().keys() == signals
