"""Forecast the cost of a plan before any model is loaded: UNet calls, storage and, where a rate is known, time."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping

import pyarrow.compute as pc

from audit import guards
from audit.attacks import registry
from audit.attacks.relearning_parameters import METHOD as RELEARNING
from audit.attacks.relearning_parameters import RelearningParameters
from audit.attacks.relearning_parameters import stored_bytes as trained_bytes
from audit.machine.arithmetic import emulates_bfloat16
from audit.plan.backbone_shape import Shape
from audit.plan.document import KINDS, Draft
from audit.plan.erasure_costs import stored_bytes, training_calls
from audit.plan.identities import (
    AttackIdentity,
    DetectIdentity,
    EraseIdentity,
    GenerateIdentity,
    Identity,
    InvertIdentity,
    Unit,
    as_json,
    is_round_trip,
)
from audit.plan.rates import Rates, journal_rates
from audit.plan.samplers import timesteps
from audit.spec.scenarios import LatentScenario
from audit.storage.journal import Journal
from audit.weights.schedulers import PUBLISHED

PNG_SHARE = 0.6  # assumed size of a PNG photograph relative to raw RGB
DETECT_ROW = 300  # assumed bytes of one picture's raw scores
ROW = 200  # assumed bytes of a row without a picture


@dataclasses.dataclass(frozen=True)
class Calls:
    """Low, expected and high counts of UNet evaluations, summed over pictures. A guided sampling step costs two."""

    low: float
    expected: float
    high: float

    def __add__(self, other: Calls) -> Calls:
        return Calls(self.low + other.low, self.expected + other.expected, self.high + other.high)

    def times(self, factor: float) -> Calls:
        """Return the calls of `factor` pictures."""
        return Calls(self.low * factor, self.expected * factor, self.high * factor)


NO_CALLS = Calls(0, 0, 0)


@dataclasses.dataclass(frozen=True)
class Work:
    """The units of one kind: how many there are, how many are pending, and the cost of those."""

    kind: str
    units: int
    pending: int
    rows: int  # of pending units
    calls: Calls  # of pending units
    storage: float  # bytes that pending units will write
    texts: float = 0.0  # evaluations of the text encoder alone, of pending units
    detections: Mapping[str, int] = dataclasses.field(default_factory=dict, hash=False)  # pending rows by detector kind
    gradients: int = 0  # through the decoder and the guide of classifier guidance, of pending units
    rounded: int = 0  # pending units that compute in bfloat16


@dataclasses.dataclass(frozen=True)
class Price:
    """The cost of a plan's pending units. `seconds` is None while a rate is unknown, and leaves out model loading."""

    work: tuple[Work, ...]
    rates: Rates
    seconds: Calls | None
    assumptions: tuple[str, ...]

    @property
    def calls(self) -> Calls:
        """Return the UNet calls of all pending units."""
        return sum((work.calls for work in self.work), NO_CALLS)

    @property
    def texts(self) -> float:
        """Return how often pending prompt searches will evaluate the text encoder."""
        return sum(work.texts for work in self.work)

    @property
    def gradients(self) -> int:
        """Return how often classifier guidance will differentiate the decoder and its guide, for pending pictures."""
        return sum(work.gradients for work in self.work)

    @property
    def storage(self) -> float:
        """Return the bytes that pending units will write."""
        return sum(work.storage for work in self.work)


def price(plan: Draft, journal: Journal, shape: Shape, rates: Rates | None = None) -> Price:
    """Return the cost of the units that the journal lacks. `rates` override the rates of earlier units in the journal."""
    known = journal_rates(journal, plan.backbone["sha256"])
    if rates is not None:
        given = {k: v for k, v in dataclasses.asdict(rates).items() if v is not None and v != {}}
        known = dataclasses.replace(known, **given)
    work = tuple(_work(plan, kind, journal.keys(kind), known, shape) for kind in KINDS)
    return Price(work, known, _seconds(work, known), _assumptions(known, work))


def _work(plan: Draft, kind: str, done: set[str], rates: Rates, shape: Shape) -> Work:
    units = pending = rows = gradients = rounded = 0
    calls, storage, texts = NO_CALLS, 0.0, 0.0
    detections: Counter[str] = Counter()
    inversions = _inversions(plan) if kind == "generate" else {}
    for unit in plan.units_of(kind):
        units += 1
        if unit.key in done:
            continue
        pending += 1
        rows += unit.rows
        rounded += _is_rounded(unit.identity)
        if not _denoised_before(unit, inversions):
            calls += calls_of(unit, rates.evaluations_per_step, shape.scheduler, distilled=shape.distilled)
        storage += _storage(unit, rates, shape)
        if isinstance(unit.identity, AttackIdentity):
            texts += registry.text_calls(as_json(unit.identity))
        if isinstance(unit.identity, DetectIdentity):
            detections[unit.identity.instrument.kind] += unit.rows
        if isinstance(unit.identity, GenerateIdentity):
            gradients += unit.rows * _gradients(unit.identity, shape.scheduler)
    return Work(kind, units, pending, rows, calls, storage, texts, dict(detections), gradients, rounded)


def _gradients(pictures: GenerateIdentity, scheduler: Mapping[str, object]) -> int:
    """Return how many gradients classifier guidance takes for each picture."""
    if pictures.guidance is None or pictures.sampler is None:
        return 0
    return pictures.guidance.gradients(timesteps(pictures.sampler, scheduler))


def _is_rounded(identity: Identity) -> bool:
    """Return whether a unit samples or trains in bfloat16."""
    if isinstance(identity, GenerateIdentity):
        return identity.sampler is not None and identity.sampler.dtype == "bfloat16"
    if isinstance(identity, EraseIdentity | AttackIdentity):
        return str(identity.parameters.get("compute")).startswith("bfloat16")
    return False


def _inversions(plan: Draft) -> dict[str, Identity]:
    """Return the identities of invert units by key; none where pictures are made under another prompt than they are inverted."""
    latent = [scenario for scenario in plan.spec.scenarios if isinstance(scenario, LatentScenario)]
    if any(scenario.inversion_prompt != scenario.regeneration_prompt for scenario in latent):
        return {}
    return {unit.key: unit.identity for unit in plan.units_of("invert")}


def _denoised_before(unit: Unit, inversions: Mapping[str, Identity]) -> bool:
    """Return whether the unit's latents were denoised already, by the round trips of the inversions that it depends on."""
    described, trips = unit.identity, [inversions[key] for key in unit.depends if key in inversions]
    return (
        isinstance(described, GenerateIdentity)
        and bool(trips)
        and all(isinstance(trip, InvertIdentity) and is_round_trip(described, trip) for trip in trips)
    )


def calls_of(
    unit: Unit,
    evaluations_per_step: float | None = None,
    scheduler: Mapping[str, object] = PUBLISHED,
    *,
    distilled: bool = False,
) -> Calls:
    """Return the UNet calls of one unit, on a backbone with this `scheduler`, as `own_scheduler` returns it.

    Sampling takes one call an evaluation of the scheduler, two under guidance unless the network is `distilled` with it, plus
    the extra calls of guards and of classifier guidance. A backward
    pass through the UNet, which their full gradients need, is not counted. Inversion solves each step in 1 to `passes`
    evaluations (`evaluations_per_step` when known, else half way), evaluates once more to start, and samples back once.
    Reference images, VAE round trips, black images, detectors, closed-form erasers and declared checkpoints call no UNet.
    The cost of a trained eraser is that of `erasure_costs.training_calls`, where a backward pass counts as two calls.
    """
    described = unit.identity
    if isinstance(described, GenerateIdentity) and described.sampler:
        sampler = described.sampler
        exact = described.solver not in (None, "ddim")  # the first of their levels is given
        grid = timesteps(sampler, scheduler)
        if described.picture is not None:
            grid = grid[-described.picture.steps :]
        branches = 2 if sampler.guidance > 1.0 and not distilled else 1
        one = (len(grid) - exact) * branches
        one += described.guidance.extra_calls(grid, branches) if described.guidance is not None else 0
        one += guards.extra_calls([vars(guard) for guard in described.guards], grid, sampler.guidance)
        return Calls(one, one, one).times(unit.rows)
    if isinstance(described, InvertIdentity):
        steps, passes = described.steps, described.passes
        if passes is None:  # exact samplers: one evaluation a step up, one fewer down
            return Calls(2 * steps - 1, 2 * steps - 1, 2 * steps - 1).times(unit.rows)
        if passes == 0:  # the explicit inversion: one evaluation moves, one measures
            return Calls(3 * steps, 3 * steps, 3 * steps).times(unit.rows)
        expected = min(max(evaluations_per_step or (1 + passes) / 2, 1), passes + 1)
        low, high = 2 * steps + 1, (passes + 1) * steps + 1
        return Calls(low, min((expected + 1) * steps, high), high).times(unit.rows)
    if isinstance(described, AttackIdentity):
        searched = registry.unet_calls(as_json(described))
        return Calls(searched, searched, searched)
    if isinstance(described, EraseIdentity):
        return Calls(*training_calls(described.method, described.parameters, described.concept))
    return NO_CALLS


def _storage(unit: Unit, rates: Rates, shape: Shape) -> float:
    if unit.kind == "generate":
        return unit.rows * (rates.bytes_per_picture or 3 * shape.resolution**2 * PNG_SHARE + ROW)
    if isinstance(unit.identity, InvertIdentity):
        # An exact sampler keeps two latents in float64 instead of one in float32; each keeps the end of its round trip.
        return unit.rows * (shape.latent_bytes * (2 if unit.identity.method == "fixed-point" else 5) + ROW)
    if isinstance(unit.identity, EraseIdentity):
        return ROW + stored_bytes(unit.identity.method, unit.identity.parameters, shape.unet)
    if isinstance(unit.identity, AttackIdentity) and unit.identity.method == RELEARNING.name:
        p = RelearningParameters.model_validate(unit.identity.parameters)
        return unit.rows * ROW + trained_bytes(p, shape.unet)
    if unit.kind in ("attack", "erase"):  # a checkpoint stays where it is
        return unit.rows * ROW
    return unit.rows * DETECT_ROW


def _seconds(work: tuple[Work, ...], rates: Rates) -> Calls | None:
    calls = sum((w.calls for w in work), NO_CALLS)
    if rates.seconds_per_call is None and calls.high:
        return None
    known = rates.seconds_per_detection
    detecting = sum(count * known.get(kind, 0.0) for w in work for kind, count in w.detections.items())
    return calls.times(rates.seconds_per_call or 0.0) + Calls(detecting, detecting, detecting)


def _assumptions(rates: Rates, work: tuple[Work, ...]) -> tuple[str, ...]:
    sentences = []
    if any(w.calls.high for w in work if w.kind in ("erase", "attack")):
        sentences.append(
            "training: a backward pass counts as two evaluations, at whatever size an eraser or attack trains"
        )
    inverts = next(w for w in work if w.kind == "invert")
    if inverts.pending:
        if rates.evaluations_per_step is None:
            sentences.append("inversion: between one evaluation and all fixed-point passes a step, expected half way")
        else:
            sentences.append(f"inversion: {rates.evaluations_per_step:.1f} evaluations a step, as earlier units needed")
    if rates.bytes_per_picture is None and any(w.pending for w in work if w.kind == "generate"):
        sentences.append(f"storage: a PNG takes {PNG_SHARE:.0%} of the raw pixels")
    texts = sum(w.texts for w in work)
    if texts:
        sentences.append(
            f"searches for prompts: about {texts:,.0f} evaluations of the text encoder alone, not in the time"
        )
    gradients = sum(w.gradients for w in work)
    if gradients:
        sentences.append(
            f"classifier guidance: {gradients:,.0f} gradients through the decoder and the guide, and through the UNet where "
            "gradient is full, are not in the time"
        )
    rounded = sum(w.rounded for w in work)
    if rounded and emulates_bfloat16():
        sentences.append(
            f"bfloat16, in which {rounded:,} of the units compute, is emulated by this machine's processor, many times "
            "slower than float32: set dtype (samplers) and compute (erasers) to float32, or run them on another machine"
        )
    untimed = {kind for w in work for kind in w.detections} - set(rates.seconds_per_detection)
    if untimed:
        sentences.append(f"time: detectors {', '.join(sorted(untimed))} are not in it, nothing says how long they take")
    if any(w.pending for w in work if w.kind == "filter"):
        sentences.append("time: filters are not in it")
    if any(w.pending for w in work if w.kind == "quality"):
        sentences.append("time: quality instruments are not in it")
    if any(w.pending for w in work):
        sentences.append("time: loading models is not in it")
    return tuple(sentences)


def pictures_sharing(plan: Draft) -> int:
    """Return how many cases reuse a picture that another cell needs too."""
    return int(plan.cases.num_rows - pc.count_distinct(plan.cases["image_id"]).as_py())
