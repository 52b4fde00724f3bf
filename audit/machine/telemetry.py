"""Switch off the telemetry of libraries, report whether the environment still allows it, and where our own goes."""

from __future__ import annotations

import dataclasses
import importlib.util
import os
import urllib.parse
from collections.abc import Iterator, Mapping

_YES = frozenset({"1", "true", "yes", "on", "y"})
_NO = frozenset({"0", "false", "no", "off"})


@dataclasses.dataclass(frozen=True)
class Reporter:
    """A library with telemetry. `off` holds every variable that it reads, with the value that silences it.

    Several releases may read one variable each, so that all are set; it counts as on when one of them says so.
    """

    library: str
    module: str
    off: Mapping[str, str]

    @property
    def installed(self) -> bool:
        """Return whether the library can be imported here."""
        return importlib.util.find_spec(self.module) is not None

    def on(self) -> list[str]:
        """Return the variables that leave it on, as `NAME=value` or `NAME is not set`; none when it is off."""
        return [
            _shown(name) for name, value in self.off.items() if _value(name) not in (_YES if value in _YES else _NO)
        ]


REPORTERS = (
    # Analytics of the server also cause 'database is locked' when a temporary one starts.
    # Its resource metrics would go with flow names to the endpoint of our own ones, or to its vendor's cloud.
    Reporter(
        "Prefect",
        "prefect",
        {
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "DO_NOT_TRACK": "1",
            "PREFECT_TELEMETRY_ENABLE_RESOURCE_METRICS": "false",
        },
    ),
    Reporter("Great Expectations", "great_expectations", {"GX_ANALYTICS_ENABLED": "false"}),
    Reporter("the Hugging Face hub", "huggingface_hub", {"HF_HUB_DISABLE_TELEMETRY": "1"}),
    # From 1.29 on it keeps a device id in the user's cache. The switch was renamed; both names were released.
    Reporter("ONNX Runtime", "onnxruntime", {"ORT_DISABLE_TELEMETRY": "1", "ORT_TELEMETRY_DISABLED": "1"}),
    Reporter("Ray", "ray", {"RAY_USAGE_STATS_ENABLED": "0"}),
)
OFF = {name: value for reporter in REPORTERS for name, value in reporter.off.items()}


ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"
SIGNALS = {"traces": "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "metrics": "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT"}
EXPORTER = "opentelemetry.exporter.otlp.proto.http"
EXTRA = "pip install 'erasure-audit[telemetry]'"


def endpoints() -> dict[str, str]:
    """Return where this tool's own traces and metrics go, as the variables of OpenTelemetry say; empty: nothing is sent."""
    if _value("OTEL_SDK_DISABLED") == "true":
        return {}
    wanted = {signal: os.environ.get(name) or os.environ.get(ENDPOINT, "") for signal, name in SIGNALS.items()}
    return {
        signal: url for signal, url in wanted.items() if url and _value(f"OTEL_{signal.upper()}_EXPORTER") != "none"
    }


def shown_endpoint(url: str) -> str:
    """Return the scheme, host and port of an endpoint; its path and a password in it are nobody's business."""
    parts = urllib.parse.urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}" if parts.netloc else "an address without a scheme"


def exporter_installed() -> bool:
    """Return whether the packages of the extra `telemetry` can be imported here."""
    try:
        return importlib.util.find_spec(EXPORTER) is not None
    except ModuleNotFoundError:
        return False


def settle() -> None:
    """Switch telemetry off wherever the user has not decided. Libraries read these variables when they are imported."""
    for name, value in OFF.items():
        os.environ.setdefault(name, value)


def talking() -> Iterator[tuple[Reporter, list[str]]]:
    """Yield each installed library that is not switched off, with the variables that leave it on."""
    for reporter in REPORTERS:
        if reporter.installed and (on := reporter.on()):
            yield reporter, on


def _value(name: str) -> str:
    return os.environ.get(name, "").strip().lower()


def _shown(name: str) -> str:
    return f"{name}={os.environ[name]}" if name in os.environ else f"{name} is not set"
