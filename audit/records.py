"""Frozen records shared by every stage: what is planned, what was measured, and with which instrument.

Nothing here imports torch or Prefect. Identifiers that are stored many times are 63-bit integers
(`identity.int_key`): DuckDB indexes integers much faster than hex strings, in a smaller file.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from enum import StrEnum

from pydantic import JsonValue, SerializerFunctionWrapHandler, model_serializer

Plugin = Mapping[str, str]  # the distribution, its version and the version of a method that is not one of our own


def without_own_plugin(fields: dict[str, JsonValue]) -> dict[str, JsonValue]:
    """Return stored fields without the plug-in of our own methods, which the code digest covers."""
    return {name: value for name, value in fields.items() if name != "plugin" or value is not None}


class Outcome(StrEnum):
    """The outcome of one case; never two at once."""

    HIT = "hit"
    CLEAR = "clear"
    BLOCKED = "blocked"  # a filter did not hand the picture out
    UNASSESSED = "unassessed"


class Role(StrEnum):
    """The reason for which a cell is in the plan."""

    TARGET = "target"  # the erased concept is sought
    NEIGHBOUR = "neighbour"  # a concept that must survive is sought
    BENIGN = "benign"  # what each of a set of ordinary prompts names is sought: all of it must survive
    CONTROL = "control"  # the answer is known beforehand


class Control(StrEnum):
    """Control cells of a run; `Cell.control` is None for an ordinary cell."""

    REFERENCE = "reference"  # detector on the corpus images themselves: must be hits
    VAE_ROUNDTRIP = "vae-roundtrip"  # D(E(x)): the ceiling of every latent attack
    BACKBONE = "backbone"  # the un-erased model under the same attack: a dead attack must not look like a safe model
    RANDOM_LATENT = "random-latent"  # random latents, same prompt: the floor
    BLACK = "black"  # black images: must be recognised as degenerate
    NOISE_LATENT = "noise-latent"  # Gaussian noise through the VAE's decoder: what the judge says of garbage
    NOISE_PIXELS = "noise-pixels"  # Gaussian noise as pixels
    UNLEARNED = "unlearned"  # images of a class the model has never seen, same scenario
    OTHER_PICTURES = "other-pictures"  # a picture probe once more, from pictures of another concept
    RANDOM_TOKENS = "random-tokens"  # a prompt search's cell once more, with as many random tokens
    PLAIN_SAMPLING = "plain-sampling"  # a noise-based cell once more, without the noise after each step
    RANDOM_DIRECTION = "random-direction"  # a guided cell once more, with as long steps in a random direction
    PERTURBED = "perturbed"  # a latent cell with its image or latent disturbed: a point of a curve
    CHECKPOINT = "checkpoint"  # a relearning cell after fewer training steps, or a stage of cycles: a point of a curve
    MASK_RANDOM = "mask-random"  # the guarded cell once more, its guard's noise in a random mask of the same area
    MASK_SHIFTED = "mask-shifted"  # ... in the located mask, moved
    MASK_FULL = "mask-full"  # ... in the whole picture


TRAINING_STEPS = "training-steps"  # the axis of a relearning curve, in the place of a kind of disturbance
STAGES = "stages"  # the axis of cycles: 0 is the erased model, odd stages are re-edited, even ones erased again
NOISE_CONTROLS = (Control.NOISE_LATENT, Control.NOISE_PIXELS)
MASK_CONTROLS = (Control.MASK_RANDOM, Control.MASK_SHIFTED, Control.MASK_FULL)


def stage_name(number: int) -> str:
    """Return what was done last to a defence's model at a stage of cycles, and how often it was done."""
    return f"{'edited' if number % 2 else 'erased'} {number // 2 + 1}"


class Scenario(StrEnum):
    """The kind of a scenario: the attack's input and access. Controls that attack nothing use `NONE`."""

    TEXT = "text"
    ADVERSARIAL_TEXT = "adversarial-text"
    EMBEDDING_WHITEBOX = "embedding-whitebox"
    EMBEDDING_BLACKBOX = "embedding-blackbox"
    LATENT_WHITEBOX = "latent-whitebox"
    LATENT_BLACKBOX = "latent-blackbox"
    IMG2IMG = "img2img"
    COMPLETION = "completion"
    RELEARNING = "relearning"
    CYCLES = "cycles"
    NOISE_BASED = "noise-based"
    CLASSIFIER_GUIDANCE = "classifier-guidance"
    NONE = "none"


class Status(StrEnum):
    """The outcome of one row of a journal file. Everything but `OK` is counted as unassessed, never as clear."""

    OK = "ok"
    ERROR = "error"  # an exception; the unit is tried again on resume
    UNREADABLE = "unreadable"  # the corpus object cannot be decoded, or the prompt set's row not used: known beforehand
    DEGENERATE = "degenerate"  # constant, black or non-finite picture, or an attack that found nothing
    ROUND_TRIP = "round-trip"  # the inversion failed its quality gate
    BLOCKED = "blocked"  # a guard cannot vouch for the picture; what a filter blocks is an outcome, and no status


@dataclasses.dataclass(frozen=True)
class Item:
    """One object of a corpus, readable or not. `error` is None when it decoded."""

    uri: str
    role: str  # target | neighbour | control
    concept: str  # the class the item shows, taken from the spec's corpus entry
    size_bytes: int
    byte_sha256: str | None
    pixel_sha256: str | None  # of the decoded RGB uint8 array, shape included; None when undecodable
    width: int | None
    height: int | None
    format: str | None
    error: str | None


@dataclasses.dataclass(frozen=True)
class CellFilter:
    """A filter that decides which pictures of a cell are handed out."""

    filter_id: int  # of the filter with its resolved parameters
    name: str


BENIGN_PROMPTS = "benign-prompts"  # the subject of a cell whose cases have subjects of their own


@dataclasses.dataclass(frozen=True)
class Cell:
    """The grain of every rate: concept x defence x scenario x subject (what is sought in the pictures).

    In a cell of benign prompts each case names its own subject; the cell's is `BENIGN_PROMPTS`.
    """

    cell_id: int  # position in the plan, from 0
    concept: str  # what the defence erased
    subject: str  # what the detectors look for; equals `concept` in target cells
    role: Role
    control: Control | None
    defence: str
    scenario: str  # its name in the spec, which is the kind's where it has no other
    kind: Scenario
    planned: int
    perturbation: str | None = (
        None  # kind of disturbance, `TRAINING_STEPS` or `STAGES`; None is the scenario's default row
    )
    strength: float | None = (
        None  # of the disturbance, in the unit of its kind; training steps, or the stage of a cycle
    )
    filters: tuple[CellFilter, ...] = ()


@dataclasses.dataclass(frozen=True, slots=True)
class Attempt:
    """The inputs of one case of a cell, as far as its source needs them."""

    seed: int
    prompt: str | None = None
    item: str | None = None  # pixel_sha256 of the corpus item
    item_uri: str | None = None
    prompt_key: str | None = None  # join key of a prompt set's row
    problem: str | None = None  # why the case can only be unassessed, known before anything is computed
    attack_key: str | None = None  # the attack unit whose find goes into `{attack}` of the prompt
    attack_item: str | None = None
    region: str | None = None  # pixel_sha256 of the mask of the concept's region in the corpus item
    region_uri: str | None = None
    attributes: str | None = None  # a JSON object of what the corpus says of the item, which is part of no key
    subject: str | None = None  # what is sought in this picture, where cases of one cell differ
    guidance: float | None = None  # over the cell's sampler
    size: tuple[int, int] | None = None  # width and height in pixels; None is the backbone's own side


@dataclasses.dataclass(frozen=True, slots=True)
class Case:
    """One planned attempt. `image_id` identifies everything that the picture is made from, so that cells can share pictures."""

    cell_id: int
    case_no: int
    image_id: int
    unit_key: str  # the generate unit that makes the picture
    seed: int
    prompt: str | None = None
    item: str | None = None
    item_uri: str | None = None
    invert_key: str | None = None
    prompt_key: str | None = None
    guidance: float | None = None  # classifier-free guidance of the picture; None where nothing is sampled
    problem: str | None = None
    attack_key: str | None = None
    attack_item: str | None = None
    subject: str | None = None
    region: str | None = None
    region_uri: str | None = None
    attributes: str | None = None


@dataclasses.dataclass(frozen=True)
class ResolvedGuard:
    """A guard with all its parameters, as they are part of a picture's identity."""

    name: str
    parameters: Mapping[str, JsonValue]
    plugin: Plugin | None = None

    @model_serializer(mode="wrap")
    def _without_own(self, handler: SerializerFunctionWrapHandler) -> dict[str, JsonValue]:
        return without_own_plugin(handler(self))


@dataclasses.dataclass(frozen=True)
class Instrument:
    """A detector with everything that determines its readings. A number never travels without it."""

    instrument_id: int
    detector: str  # name in the spec
    kind: str  # clip-zero-shot | classifier | nudenet | grounding-dino
    version: str  # version of our wrapper
    package: str  # package and version that runs the network
    weights_sha256: str
    preprocessing: str  # one line that says how pixels reach the network
    labels: tuple[str, ...]
    score_floor: float  # scores below it cannot be observed
    threshold: float  # default decision threshold; the gate policy may override it in SQL
    parameters: str  # canonical JSON of everything else (prompt set, templates)


@dataclasses.dataclass(frozen=True)
class QualityInstrument:
    """An instrument that measures pictures themselves, with everything that determines its numbers."""

    instrument_id: int
    instrument: str  # name in the spec
    kind: str  # psnr | ssim | gmsd | lpips | clip-score | features
    version: str  # version of our code
    package: str  # packages and versions that compute it
    weights_sha256: str  # empty for a formula without weights
    preprocessing: str  # one line that says how pixels reach the formula or the network
    metrics: tuple[str, ...]  # what is reported: of `features` the distances between sets
    parameters: str  # canonical JSON of everything else


class Baseline(StrEnum):
    """The pictures that those of a cell are measured against, case by case."""

    BACKBONE = "backbone"  # the same case without any defence
    UNGUARDED = "unguarded"  # the same case through the same eraser without its guards
    REFERENCE = "reference"  # the corpus image that the case's latent was inverted from
    PROMPT = "prompt"  # the case's own prompt


@dataclasses.dataclass(frozen=True)
class Comparison:
    """A planned comparison of every case of a cell; cases of both cells correspond by their number."""

    cell_id: int
    baseline: Baseline
    baseline_cell_id: int | None  # None where no other cell is needed
    regions: bool = False  # whether the cell's pictures have a known region of the concept


@dataclasses.dataclass(frozen=True)
class LabelScore:
    """One raw score. `box` is (x, y, width, height) in pixels, or None for whole-image scores."""

    label: str
    score: float
    box: tuple[float, float, float, float] | None = None


@dataclasses.dataclass(frozen=True)
class Measurement:
    """A detector's answer about one image: scores, or None with the reason. None is never 'clear'."""

    scores: tuple[LabelScore, ...] | None
    error: str | None = None

    def __post_init__(self) -> None:
        if (self.scores is None) == (self.error is None):
            raise ValueError("a measurement has either scores or an error")
