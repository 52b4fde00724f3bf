"""Frozen records of a finished run for gate and reports: rates, controls, checks, decisions, verdict."""

from __future__ import annotations

import dataclasses

from audit.files import Document
from audit.verdict.case_pictures import PicturedCase
from audit.verdict.comparison import PairedRow
from audit.verdict.decisions import Verdict
from audit.verdict.failure_modes import FailureMode
from audit.verdict.nearest import NearestRow


@dataclasses.dataclass(frozen=True)
class CrrRow:
    """Concept reproduction rate of one cell by one instrument, never without its denominator."""

    cell_id: int
    concept: str
    subject: str
    role: str
    control: str | None
    defence: str
    scenario: str
    detector: str
    instrument_id: int
    threshold: float
    planned: int
    assessed: int
    unassessed: int
    hits: int
    rate: float | None  # hits / assessed; None when nothing was assessed
    ci_low: float  # two-sided Clopper-Pearson of hits / assessed at the policy's confidence; (0, 1) when assessed == 0
    ci_high: float
    worst_case: float  # (hits + unassessed) / planned
    perturbation: str | None = None  # kind of disturbance; None is the scenario's default row
    strength: float | None = None
    strange_hits: int = 0  # hits on pictures like none of the un-erased model's; see `audit.verdict.damage.strange`
    strange: int = 0  # such pictures of the cell, hits or not
    kind: str = ""  # of the scenario; in rows of before scenarios had other names, the scenario itself
    blocked: int = 0  # by filters, among the assessed
    unfiltered_hits: int = 0  # of the same pictures without the filters
    unfiltered_assessed: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "kind", self.kind or self.scenario)


@dataclasses.dataclass(frozen=True)
class UnassessedRow:
    """Number of cases of a cell that were not assessed for one reason."""

    cell_id: int
    detector: str
    reason: str  # missing | error | degenerate | round-trip | blocked | not-measured | filter | filtered
    cases: int
    example: str | None  # one error message


@dataclasses.dataclass(frozen=True)
class RoundTripRow:
    """Inversion quality of one cell: medians and extremes over its cases; decibels and relative residuals."""

    cell_id: int
    cases: int
    residual_median: float
    residual_max: float
    psnr_median_db: float
    psnr_min_db: float
    latent_rms: float
    failed_gate: int


@dataclasses.dataclass(frozen=True)
class LatentRow:
    """How Gaussian the inverted latents of one cell are: medians, and the middle 80 % of the negative log-likelihood
    under N(0, I) in nats per dimension. Only latents whose round trip passed the cell's quality gate count."""

    cell_id: int
    latents: int
    nll_low: float
    nll_median: float
    nll_high: float
    rms_median: float
    autocorr_median: float  # lag 1, mean of both axes


@dataclasses.dataclass(frozen=True)
class GuardRow:
    """The acts of one guard in one cell. `measures` are means over the cell's cases, by name."""

    cell_id: int
    guard: str
    cases: int  # pictures that carry a report of it
    acted: int
    steps_mean: float  # denoising steps at which it acted
    unet_calls_mean: float  # evaluations beside the sampler's own
    failed: int  # cases that it gave up, which are unassessed
    reason: str | None  # why it did not act, of one case
    measures: dict[str, float]


@dataclasses.dataclass(frozen=True)
class BlockingRow:
    """What the filters of a defence do to the cases of one cell, all filters together and whatever any detector says."""

    cell_id: int
    concept: str
    subject: str
    role: str
    control: str | None
    defence: str
    scenario: str
    perturbation: str | None
    planned: int
    blocked: int
    passed: int
    undecided: int  # without a picture, or a filter that failed


@dataclasses.dataclass(frozen=True)
class FilterRow:
    """The rulings of one filter on the cases of one cell."""

    cell_id: int
    filter: str
    cases: int
    blocked: int
    passed: int
    error: str | None  # of one case on which it failed


@dataclasses.dataclass(frozen=True)
class CountingRow:
    """Count of one published rule over one cell's stored NudeNet boxes. Its cases are assessed or unassessed."""

    cell_id: int
    detector: str
    preset: str
    counts: str  # what its authors count: boxes | labels (each once per picture) | images
    threshold: float
    strict: bool  # scores equal to the threshold do not count
    network: str  # which NudeNet the published numbers come from
    planned: int
    assessed: int
    unassessed: int
    hits: int  # assessed pictures with at least one counted box
    boxes: int
    labels: int
    counted: int  # the number as the rule's authors count it


@dataclasses.dataclass(frozen=True)
class QualityRow:
    """One quality metric of one cell against one baseline. Distances between sets have a value, the others a mean."""

    cell_id: int
    instrument_id: int
    instrument: str
    kind: str
    weights_sha256: str
    metric: str
    baseline: str  # backbone | unguarded | reference | prompt
    planned: int
    assessed: int
    unassessed: int
    mean: float | None  # over finite values
    median: float | None  # may be infinite: half of the pictures equal their baseline
    infinite: int  # PSNR of pictures that equal their baseline
    value: float | None
    reason: str | None  # of one case, or why there is no distance


@dataclasses.dataclass(frozen=True)
class RetentionRow:
    """One subject of a cell of what must survive, by one instrument, paired case by case with the un-erased model's
    pictures. At a stage of cycles these are the un-erased model's before any edit."""

    cell_id: int
    concept: str
    subject: str
    role: str
    defence: str
    detector: str
    pairs: int  # planned, of subjects that the instrument has counting rules for
    kept: int  # hits of both
    lost: int  # hits of the backbone alone
    gained: int  # hits of the defence alone
    neither: int
    hit_unassessed: int  # backbone first: it shows the subject, the defence's picture was not assessed
    clear_unassessed: int
    unassessed_hit: int
    unassessed_clear: int
    unassessed_unassessed: int
    noise_share: float = 0.0  # of a noise control's pictures, those taken for the subject or not measured
    scenario: str | None = None  # of cycles, one of whose stages the cell is
    stage_no: int | None = None


@dataclasses.dataclass(frozen=True)
class PictureCheckRow:
    """A defence's benign pictures as a set against the un-erased model's; see `audit.verdict.damage`."""

    cell_id: int
    concept: str
    defence: str
    instrument: str
    pictures: int  # pairs that were compared
    planned: int
    distance: float | None
    reference: float | None  # between halves of the backbone's own pictures
    p_value: float | None
    reason: str | None  # why there is no value
    scenario: str | None = None  # of cycles, at one of whose stages the pictures were drawn
    stage_no: int | None = None


@dataclasses.dataclass(frozen=True)
class JudgePairRow:
    """What two detectors say of the pictures of one cell, each picture by both. They are in the order of their names."""

    cell_id: int
    first_detector: str
    second_detector: str
    hit_both: int
    first_only: int  # the first finds the concept, the second does not
    second_only: int
    clear_both: int
    hit_unassessed: int  # first's outcome before second's
    clear_unassessed: int
    unassessed_hit: int
    unassessed_clear: int
    unassessed_both: int

    @property
    def assessed_both(self) -> int:
        """Return the number of pictures that both assessed."""
        return self.hit_both + self.first_only + self.second_only + self.clear_both

    @property
    def unassessed_one(self) -> int:
        """Return the number of pictures that one of them assessed and the other did not."""
        return self.hit_unassessed + self.clear_unassessed + self.unassessed_hit + self.unassessed_clear


@dataclasses.dataclass(frozen=True)
class Disagreement:
    """One picture in which one detector finds the concept and another one does not, with both scores."""

    cell_id: int
    case_no: int
    image_id: int
    unit_key: str
    first_detector: str
    second_detector: str
    first_outcome: str
    second_outcome: str
    first_score: float | None
    second_score: float | None
    sensitive: bool


@dataclasses.dataclass(frozen=True)
class Sample:
    """Address of one picture for a report: its journal unit and image_id, with its outcome."""

    cell_id: int
    case_no: int
    image_id: int
    unit_key: str
    outcome: str
    reason: str | None
    score: float | None
    sensitive: bool
    strange: bool = False  # like none of the un-erased model's pictures; see `audit.verdict.damage.strange`


@dataclasses.dataclass(frozen=True)
class RunResult:
    """Everything a report needs, read from the index in one go."""

    run_id: str
    name: str
    created_at: str  # ISO 8601, UTC
    spec: Document
    provenance: Document  # versions, host, code revision, digests of spec, backbone, corpus; what erasers changed
    instruments: tuple[Document, ...]
    crr: tuple[CrrRow, ...]
    unassessed: tuple[UnassessedRow, ...]
    round_trips: tuple[RoundTripRow, ...]
    samples: tuple[Sample, ...]
    verdict: Verdict
    erasures: tuple[Document, ...] = ()  # artefact, status, facts of every erased model
    guards: tuple[GuardRow, ...] = ()
    latents: tuple[LatentRow, ...] = ()
    attacks: tuple[Document, ...] = ()  # rows of mart_attacks
    counting: tuple[CountingRow, ...] = ()  # of NudeNet detectors
    quality: tuple[QualityRow, ...] = ()
    quality_instruments: tuple[Document, ...] = ()
    retention: tuple[RetentionRow, ...] = ()
    picture_checks: tuple[PictureCheckRow, ...] = ()
    defence_pairs: tuple[PairedRow, ...] = ()  # outcomes of two defences on the same cases
    pictured: tuple[PicturedCase, ...] = ()  # one telling case of each concept
    judge_pairs: tuple[JudgePairRow, ...] = ()  # of detectors that read the same pictures
    disagreements: tuple[Disagreement, ...] = ()  # the widest of each cell and pair
    blocking: tuple[BlockingRow, ...] = ()  # of cells with filters
    filters: tuple[FilterRow, ...] = ()
    failure_modes: tuple[FailureMode, ...] = ()  # tested levels with the smallest p-values
    nearest: tuple[NearestRow, ...] = ()  # hits beside the un-erased model's pictures
