"""What a plan will cost, before anything is loaded: UNet calls, storage and, where a rate is known, time."""

from __future__ import annotations

import dataclasses
import json
import statistics
import struct
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pyarrow.compute as pc

from audit import guards
from audit.attacks import methods
from audit.erasure_costs import stored_bytes, training_calls
from audit.errors import JournalError
from audit.journal import Journal
from audit.plan import KINDS, Plan
from audit.records import Unit

SAMPLED = 6  # earlier units of one kind that are read for a rate
PNG_SHARE = 0.6  # assumed size of a PNG photograph relative to raw RGB
DETECT_ROW = 300  # assumed bytes of one picture's raw scores
ROW = 200  # assumed bytes of a row without a picture


@dataclasses.dataclass(frozen=True)
class Calls:
    """UNet evaluations, summed over pictures; classifier-free guidance costs two a step."""

    low: float
    expected: float
    high: float

    def __add__(self, other: Calls) -> Calls:
        return Calls(self.low + other.low, self.expected + other.expected, self.high + other.high)

    def times(self, factor: float) -> Calls:
        """The calls of `factor` pictures."""
        return Calls(self.low * factor, self.expected * factor, self.high * factor)


NO_CALLS = Calls(0, 0, 0)


@dataclasses.dataclass(frozen=True)
class Work:
    """The units of one kind: how many, how many are not done yet, and what those cost."""

    kind: str
    units: int
    pending: int
    rows: int  # of pending units
    calls: Calls  # of pending units
    storage: float  # bytes that pending units will write


@dataclasses.dataclass(frozen=True)
class Rates:
    """What units have cost so far on this backbone, or what a measurement said; None where nothing is known."""

    seconds_per_call: float | None = None
    seconds_per_detection: float | None = None
    evaluations_per_step: float | None = None  # of the fixed-point inversion
    bytes_per_picture: float | None = None
    basis: str = "nothing"


@dataclasses.dataclass(frozen=True)
class Price:
    """The cost of a plan. `seconds` is None while the rate is unknown; model loading is not in it."""

    work: tuple[Work, ...]
    rates: Rates
    seconds: Calls | None
    assumptions: tuple[str, ...]

    @property
    def calls(self) -> Calls:
        """UNet calls of everything that is not done yet."""
        return sum((work.calls for work in self.work), NO_CALLS)

    @property
    def storage(self) -> float:
        """Bytes that will be written."""
        return sum(work.storage for work in self.work)


@dataclasses.dataclass(frozen=True)
class Shape:
    """Sizes of one picture of a backbone, from its configuration files."""

    resolution: int
    latent_bytes: int
    unet: Mapping[str, tuple[int, ...]] = dataclasses.field(hash=False)  # shape of every UNet tensor


def price(plan: Plan, journal: Journal, shape: Shape, rates: Rates | None = None) -> Price:
    """The cost of what the journal lacks. `rates` replaces what earlier units in the journal say."""
    known = journal_rates(journal, plan.backbone["sha256"])
    if rates is not None:
        given = {k: v for k, v in dataclasses.asdict(rates).items() if v is not None}
        known = dataclasses.replace(known, **given)
    work = tuple(_work(plan, kind, journal.keys(kind), known, shape) for kind in KINDS)
    return Price(work, known, _seconds(work, known), _assumptions(known, work))


def _work(plan: Plan, kind: str, done: set[str], rates: Rates, shape: Shape) -> Work:
    units = pending = rows = 0
    calls, storage = NO_CALLS, 0.0
    for unit in plan.units_of(kind):
        units += 1
        if unit.key in done:
            continue
        pending += 1
        rows += unit.rows
        calls += calls_of(unit, rates.evaluations_per_step)
        storage += _storage(unit, rates, shape)
    return Work(kind, units, pending, rows, calls, storage)


def calls_of(unit: Unit, evaluations_per_step: float | None = None) -> Calls:
    """UNet calls of one unit.

    Sampling takes one call a step, two under guidance, and what guards add. A backward pass through the UNet, which
    EGLOCE's full gradient needs, is not counted. Inversion solves each step in 1 to `passes` evaluations
    (`evaluations_per_step` when known, else half way), evaluates once more to start, and samples back once. Reference
    images, VAE round trips, black images, detectors, closed-form erasers and declared checkpoints call no UNet. A
    trained eraser costs what `erasure_costs.training_calls` says, where a backward pass counts as two calls.
    """
    described: Mapping[str, Any] = unit.identity
    if unit.kind == "generate" and described["sampler"]:
        sampler = described["sampler"]
        exact = described.get("solver", "ddim") != "ddim"  # the first of their levels is given
        one = (sampler["steps"] - exact) * (2 if sampler["guidance"] > 1.0 else 1)
        grid = range(1, 1000, 1000 // sampler["steps"])
        one += guards.extra_calls(described.get("guards", ()), grid, sampler["guidance"])
        return Calls(one, one, one).times(unit.rows)
    if unit.kind == "invert":
        steps, passes = described["steps"], described["passes"]
        if (
            described.get("method", "fixed-point") != "fixed-point"
        ):  # exact samplers: one evaluation a step up, one fewer down
            return Calls(2 * steps - 1, 2 * steps - 1, 2 * steps - 1).times(unit.rows)
        if passes == 0:  # the explicit inversion: one evaluation moves, one measures
            return Calls(3 * steps, 3 * steps, 3 * steps).times(unit.rows)
        expected = min(max(evaluations_per_step or (1 + passes) / 2, 1), passes + 1)
        low, high = 2 * steps + 1, (passes + 1) * steps + 1
        return Calls(low, min((expected + 1) * steps, high), high).times(unit.rows)
    if unit.kind == "attack":
        made = methods.unet_calls(described)
        return Calls(made, made, made)
    if unit.kind == "erase" and "checkpoint" not in described:
        return Calls(*training_calls(described["method"], described["parameters"], described["concept"]))
    return NO_CALLS


def _storage(unit: Unit, rates: Rates, shape: Shape) -> float:
    if unit.kind == "generate":
        return unit.rows * (rates.bytes_per_picture or 3 * shape.resolution**2 * PNG_SHARE + ROW)
    if unit.kind == "invert":
        # An exact sampler keeps two latents in float64 instead of one in float32.
        exact = unit.identity.get("method", "fixed-point") != "fixed-point"
        return unit.rows * (shape.latent_bytes * (4 if exact else 1) + ROW)
    if unit.kind == "attack":
        return unit.rows * ROW
    if unit.kind == "erase":
        if "checkpoint" in unit.identity:  # they stay where they are
            return ROW
        return ROW + stored_bytes(unit.identity["method"], unit.identity["parameters"], shape.unet)
    return unit.rows * DETECT_ROW


def _seconds(work: tuple[Work, ...], rates: Rates) -> Calls | None:
    calls = sum((w.calls for w in work), NO_CALLS)
    detections = next(w.rows for w in work if w.kind == "detect")
    if rates.seconds_per_call is None and calls.high:
        return None
    detecting = detections * (rates.seconds_per_detection or 0.0)
    return calls.times(rates.seconds_per_call or 0.0) + Calls(detecting, detecting, detecting)


def _assumptions(rates: Rates, work: tuple[Work, ...]) -> tuple[str, ...]:
    said = []
    if any(w.calls.high for w in work if w.kind in ("erase", "attack")):
        said.append("training: a backward pass counts as two UNet calls, at whatever size an eraser or attack trains")
    inverts = next(w for w in work if w.kind == "invert")
    if inverts.pending:
        if rates.evaluations_per_step is None:
            said.append("inversion: between one evaluation and all fixed-point passes a step, expected half way")
        else:
            said.append(f"inversion: {rates.evaluations_per_step:.1f} evaluations a step, as earlier units needed")
    if rates.bytes_per_picture is None and any(w.pending for w in work if w.kind == "generate"):
        said.append(f"storage: a PNG takes {PNG_SHARE:.0%} of the raw pixels")
    if rates.seconds_per_detection is None and any(w.pending for w in work if w.kind == "detect"):
        said.append("time: detectors are not in it, no earlier unit says how long they take")
    if any(w.pending for w in work if w.kind == "quality"):
        said.append("time: quality instruments are not in it")
    if any(w.pending for w in work):
        said.append("time: loading models is not in it")
    return tuple(said)


def journal_rates(journal: Journal, backbone: str) -> Rates:
    """What earlier units of the backbone with this digest cost, from a few of the journal's files."""
    seconds: dict[str, list[tuple[float, float]]] = defaultdict(list)
    evaluations, sizes, devices = [], [], set()
    for kind in ("invert", "generate", "detect"):
        for table, header in _sample(journal, kind):
            runtime, described = header.get("runtime", {}), header.get("identity", {})
            if kind != "detect" and described.get("backbone") != backbone:
                continue
            work = table.num_rows if kind == "detect" else float(runtime.get("unet_calls") or 0)
            if work and runtime.get("seconds"):
                seconds["detect" if kind == "detect" else "call"].append((runtime["seconds"], work))
                devices.add(str(runtime.get("device")))
            if kind == "invert":
                evaluations += [value for value in table["passes_mean"].to_pylist() if value]
            if kind == "generate" and table.num_rows:
                sizes.append(table.nbytes / table.num_rows)
    if not seconds:
        return Rates()
    return Rates(
        seconds_per_call=_ratio(seconds["call"]),
        seconds_per_detection=_ratio(seconds["detect"]),
        evaluations_per_step=_mean(evaluations),
        bytes_per_picture=_mean(sizes),
        basis=f"earlier units on {', '.join(sorted(devices))}",
    )


def _sample(journal: Journal, kind: str) -> Iterable[tuple[Any, dict[str, Any]]]:
    """A few complete units with their headers; files that cannot be read are no reason to refuse a forecast."""
    keys = sorted(journal.keys(kind))
    for key in keys[:: max(1, len(keys) // SAMPLED)][:SAMPLED]:
        try:
            table = journal.read(kind, key)
        except JournalError:
            continue
        yield table, json.loads((table.schema.metadata or {}).get(b"erasure_audit", b"{}"))


def _ratio(pairs: list[tuple[float, float]]) -> float | None:
    """The median of the units' ratios: the first unit of a process also loaded the models."""
    return statistics.median(first / second for first, second in pairs) if pairs else None


def _mean(values: list[float]) -> float | None:
    return sum(values) / len(values) if values else None


def shape_of(folder: Path) -> Shape:
    """The sizes of a diffusers pipeline folder, read from its configuration and the headers of its weight files."""
    unet = json.loads((folder / "unet" / "config.json").read_text())
    vae = json.loads((folder / "vae" / "config.json").read_text())
    side = int(unet["sample_size"])
    shapes: dict[str, tuple[int, ...]] = {}
    for path in sorted((folder / "unet").glob("*.safetensors")):
        with path.open("rb") as stream:
            (length,) = struct.unpack("<Q", stream.read(8))
            header = json.loads(stream.read(length))
        shapes |= {name: tuple(tensor["shape"]) for name, tensor in header.items() if name != "__metadata__"}
    return Shape(
        resolution=side * 2 ** (len(vae["block_out_channels"]) - 1),
        latent_bytes=int(unet["in_channels"]) * side * side * 4,
        unet=shapes,
    )


def sd1_shape() -> Shape:
    """The sizes of Stable Diffusion v1.x from its architecture alone, for a backbone whose files are elsewhere."""
    from audit.checkpoints.sd1 import sd1_names  # imports torch

    shapes = {name: tensor.shape for name, tensor in sd1_names().unet.items()}
    return Shape(resolution=512, latent_bytes=4 * 64 * 64 * 4, unet=shapes)


def pictures_sharing(plan: Plan) -> int:
    """How many cases reuse a picture that another cell needs too."""
    return int(plan.cases.num_rows - pc.count_distinct(plan.cases["image_id"]).as_py())
