"""Estimate the cost of units from a few earlier ones in the journal: the rates that a forecast multiplies."""

from __future__ import annotations

import dataclasses
import json
import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping

import pyarrow as pa

from audit.errors import JournalError
from audit.files import Document
from audit.storage.journal import Journal

SAMPLED = {"invert": 6, "generate": 6, "detect": 24}  # earlier units that are read for a rate; detectors differ by kind


@dataclasses.dataclass(frozen=True)
class Rates:
    """Costs per step, call and picture on one backbone, from earlier units or a measurement. None where unknown."""

    seconds_per_call: float | None = None
    seconds_per_detection: Mapping[str, float] = dataclasses.field(default_factory=dict, hash=False)  # by detector kind
    evaluations_per_step: float | None = None  # of the fixed-point inversion
    bytes_per_picture: float | None = None
    basis: str = "nothing"


def journal_rates(journal: Journal, backbone: str) -> Rates:
    """Return the rates of earlier units of the backbone with this digest, from a few of the journal's files."""
    seconds: list[tuple[float, float]] = []
    detecting: dict[str, list[tuple[float, float]]] = defaultdict(list)
    evaluations, sizes, devices = [], [], set()
    for kind in SAMPLED:
        for table, header in _sample(journal, kind):
            runtime, described = header.get("runtime", {}), header.get("identity", {})
            if kind != "detect" and described.get("backbone") != backbone:
                continue
            work = table.num_rows if kind == "detect" else float(runtime.get("unet_calls") or 0)
            if work and runtime.get("seconds"):
                judge = str(described.get("instrument", {}).get("kind"))
                (detecting[judge] if kind == "detect" else seconds).append((runtime["seconds"], work))
                devices.add(str(runtime.get("device")))
            if kind == "invert":
                evaluations += [value for value in table["passes_mean"].to_pylist() if value]
            if kind == "generate" and table.num_rows:
                sizes.append(table.nbytes / table.num_rows)
    if not seconds and not detecting:
        return Rates()
    return Rates(
        seconds_per_call=_ratio(seconds),
        seconds_per_detection={kind: ratio for kind, pairs in detecting.items() if (ratio := _ratio(pairs))},
        evaluations_per_step=_mean(evaluations),
        bytes_per_picture=_mean(sizes),
        basis=f"earlier units on {', '.join(sorted(devices))}",
    )


def _sample(journal: Journal, kind: str) -> Iterable[tuple[pa.Table, Document]]:
    """Yield a few complete units with their headers; files that cannot be read are no reason to refuse a forecast."""
    keys = sorted(journal.keys(kind))
    for key in keys[:: max(1, len(keys) // SAMPLED[kind])][: SAMPLED[kind]]:
        try:
            table = journal.read(kind, key)
        except JournalError:
            continue
        yield table, json.loads((table.schema.metadata or {}).get(b"erasure_audit", b"{}"))


def _ratio(pairs: list[tuple[float, float]]) -> float | None:
    """Return the median of the units' ratios: the first unit of a process also loaded the models."""
    return statistics.median(first / second for first, second in pairs) if pairs else None


def _mean(values: list[float]) -> float | None:
    return sum(values) / len(values) if values else None
