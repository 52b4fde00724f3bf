"""Run the units of one plan in one process, and journal each as one file."""

from __future__ import annotations

import dataclasses
import functools
import logging
import platform
import time
from collections.abc import Callable, Collection, Mapping

import pyarrow as pa
import torch

from audit import identity
from audit.attacks.protocol import ReadItem
from audit.compute.batch_size import SHARE, measured_batch
from audit.compute.joint_search import companions
from audit.compute.models import Models
from audit.compute.stages.attack import run_attack
from audit.compute.stages.batching import Made
from audit.compute.stages.detect import run_detect
from audit.compute.stages.erase import run_erase
from audit.compute.stages.filter import Filtering, run_filter
from audit.compute.stages.generate import run_generate
from audit.compute.stages.invert import run_invert
from audit.compute.stages.overlap import threads_beside
from audit.compute.stages.quality import run_quality
from audit.compute.training_folders import training_session
from audit.corpus.images import Pixels
from audit.corpus.ingest import read_picture
from audit.corpus.manifest import read_stored_manifest
from audit.diffusion.compiled import Compiling
from audit.diffusion.devices import DEFAULT_BATCH, pick_device, require_device
from audit.errors import AuditError, CheckpointError, EnvironmentProblem
from audit.filters.building import build as build_filter
from audit.filters.protocol import Filter, Parts
from audit.instruments import detectors, quality
from audit.instruments.detectors.base import Detector
from audit.instruments.quality import Meter
from audit.machine.compilers import Mode
from audit.plan.document import KINDS, Plan
from audit.plan.identities import (
    AttackIdentity,
    CheckpointIdentity,
    DetectIdentity,
    EraseIdentity,
    FilterIdentity,
    GenerateIdentity,
    InvertIdentity,
    QualityIdentity,
    Unit,
    as_json,
    filter_id_of,
)
from audit.plan.preflight.compiler import require_compiler
from audit.plan.preflight.methods import require_planned
from audit.progress import Listener, Session
from audit.records import Case, Status
from audit.storage.journal import Journal
from audit.weights.references import resolve_model

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class UnitReport:
    """The outcome of one unit. `errors` counts the rows that a resumed run tries again."""

    kind: str
    key: str
    rows: int
    errors: int
    unassessed: int  # rows whose status is not ok, errors included
    unet_calls: int  # UNet evaluations, summed over the unit's pictures
    seconds: float


class Worker:
    """A process that runs units of `plan`. Models and detectors are loaded once, when the first unit needs them."""

    def __init__(
        self,
        plan: Plan,
        journal: Journal,
        *,
        device: str | None = None,
        batch_size: int | None = None,
        compile_with: Mode | None = None,
        kinds: Collection[str] = KINDS,
    ) -> None:
        """Take the plan on. Raises `CheckpointError` when the backbone is not the planned one, `EnvironmentProblem` when the
        code of `kinds`, those that it will run, is not, or when networks are to be compiled and no C++ compiler is here."""
        self.plan, self.journal = plan, journal
        self.device = pick_device(device)
        self._batch_size, self._compiling = batch_size, None
        if compile_with is not None:
            require_compiler()
            self._compiling = Compiling(compile_with, lambda: self.batch_size)
        ref = resolve_model(plan.spec.backbone)
        if ref.sha256 != plan.backbone["sha256"]:
            raise CheckpointError(
                "the backbone's files have changed since this run was planned",
                where=str(ref.path),
                next_step="restore the files, or start a new run: erasure-audit run SPEC",
            )
        self._require_planned_code(kinds)
        self.models = Models(ref, journal, self.device, plan, self._compiling)
        self._detectors: dict[int, Detector] = {}
        self._meters: dict[int, Meter] = {}
        self._filters: dict[int, Filter] = {}
        self._taken: set[str] = set()  # attack units that were brought forward with another one

    @functools.cached_property
    def batch_size(self) -> int:
        """Pictures of one model call: as asked for, else what fits into a GPU's free memory, else the device's default."""
        if self._batch_size is None and self.device.type == "cuda":
            self._batch_size = measured_batch(self.models.pipeline, self.plan.spec.unit_size, self._share())
            log.info("%d pictures of one call fit on %s", self._batch_size, self.device)
        return self._batch_size or DEFAULT_BATCH.get(self.device.type, 16)

    def _require_planned_code(self, kinds: Collection[str]) -> None:
        """Return when this code is the one whose digest stands in the units' keys; otherwise the keys would lie."""
        for kind in kinds:
            unit = next(self.plan.units_of(kind), None)
            if unit is not None and unit.identity.code != identity.code_digest(kind):
                raise EnvironmentProblem(
                    f"the code that computes {kind} units has changed since this run was planned",
                    where=f"run {self.plan.run_id}",
                    next_step="install the version that planned it, or start a new run: erasure-audit run SPEC",
                )

    def run(self, unit: Unit, listener: Listener | None = None) -> UnitReport:
        """Run one unit, journal it, and return its report. The units that it depends on must be in the journal already.

        `listener` shows the progress of an erase or attack unit's training. A training that was interrupted continues.
        When another process has completed the unit meanwhile, its file stays and this one's rows are dropped.
        """
        stored = as_json(unit.identity)
        require_planned(unit.kind, stored)
        with training_session(unit, listener) as session:
            started, before = time.perf_counter(), self._compiled_evaluations()
            table, blob = self._computed(unit, session)
            compiled = self._compiled_evaluations() - before
            seconds = time.perf_counter() - started
            status = table.column("status").to_pylist()
            calls = table.column("unet_calls").to_pylist() if "unet_calls" in table.column_names else []
            report = UnitReport(
                kind=unit.kind,
                key=unit.key,
                rows=table.num_rows,
                errors=status.count(Status.ERROR.value),
                unassessed=sum(s != Status.OK.value for s in status),
                unet_calls=sum(c or 0 for c in calls),
                seconds=seconds,
            )
            header = {
                "identity": stored,
                "runtime": {**self._runtime(compiled), **dataclasses.asdict(report)},
                "erased_sha256": self.models.used(unit.model),
            }
            self.journal.write(unit.kind, unit.key, table, header, blob)
            return report

    def draw_again(self, unit: Unit, images: Collection[int]) -> pa.Table:
        """Return the rows of some pictures of a generate unit, computed once more; nothing is journalled."""
        if not isinstance(unit.identity, GenerateIdentity):
            raise ValueError(f"units of kind {unit.kind!r} have no pictures")
        require_planned(unit.kind, as_json(unit.identity))
        cases, read_item = self._inputs(unit.key)
        chosen = [case for case in cases if case.image_id in images]
        # With nothing reused: a round trip that is looked up would confirm itself.
        made = run_generate(unit.identity, chosen, self.models, self.journal, read_item, self.batch_size, reuse=False)
        return made[0]

    def filter_again(self, unit: Unit, pictures: Journal) -> pa.Table:
        """Return the rows of a filter unit for its pictures in another journal; nothing is journalled."""
        if not isinstance(unit.identity, FilterIdentity):
            raise ValueError(f"units of kind {unit.kind!r} filter nothing")
        ruling = self._filtering(unit.identity)
        return run_filter(ruling, pictures, self.models.pipeline.vocabulary, self.batch_size, 0)[0]

    def judge_again(self, unit: Unit, pictures: Journal) -> pa.Table:
        """Return the rows of a detect unit for its pictures in another journal; nothing is journalled."""
        if not isinstance(unit.identity, DetectIdentity):
            raise ValueError(f"units of kind {unit.kind!r} judge nothing")
        detector = self._detector(unit.identity.instrument.instrument_id)
        return run_detect(unit.identity.generate, detector, pictures, self.batch_size)[0]

    def _computed(self, unit: Unit, session: Session) -> Made:
        """Return the unit's rows and tensors. Raises `DeviceLost` for any error after which the GPU no longer answers."""
        try:
            return self._stage(unit, session)()
        except AuditError:
            raise
        except Exception as error:
            require_device(error)
            raise

    def _stage(self, unit: Unit, session: Session) -> Callable[[], Made]:
        """Return what computes the unit, with everything that it needs."""
        models, journal, size = self.models, self.journal, self.batch_size
        match unit.identity:
            case EraseIdentity() | CheckpointIdentity() as described:
                return functools.partial(run_erase, unit.key, described, models, session)
            case AttackIdentity() as described:
                together = functools.partial(companions, self.plan, journal, unit, size, self._taken)
                return functools.partial(run_attack, described, models, self._read_corpus, size, session, together)
            case InvertIdentity() as described:
                read = functools.partial(self._read, self.plan.items_of(unit.key))
                return functools.partial(run_invert, described, models, read, size)
            case GenerateIdentity() as described:
                cases, read_item = self._inputs(unit.key)
                return functools.partial(run_generate, described, cases, models, journal, read_item, size)
            case FilterIdentity() as described:
                ruling = self._filtering(described)
                threads = threads_beside(self.device)
                return functools.partial(run_filter, ruling, journal, models.pipeline.vocabulary, size, threads)
            case DetectIdentity() as described:
                detector = self._detector(described.instrument.instrument_id)
                return functools.partial(
                    run_detect, described.generate, detector, journal, size, threads_beside(self.device)
                )
            case QualityIdentity() as described:
                cases, read_item = self._inputs(described.generate)
                meter = self._meter(described.instrument.instrument_id)
                return functools.partial(run_quality, described, meter, journal, cases, read_item, size)

    def _inputs(self, generate: str) -> tuple[list[Case], ReadItem]:
        """Return the cases of a generate unit, and what reads their reference images and the masks of these."""
        cases = self.plan.cases_of(generate)
        uris = {case.item: case.item_uri for case in cases if case.item and case.item_uri}
        uris |= {case.region: case.region_uri for case in cases if case.region and case.region_uri}
        return cases, functools.partial(self._read, uris)

    @functools.cached_property
    def _corpus(self) -> dict[str, str]:
        """Return corpus item -> URI, of the manifest that was stored with the run."""
        manifest = read_stored_manifest(self.journal, self.plan.run_id, self.plan.corpus.get("sha256", ""))
        return dict(zip(manifest["pixel_sha256"].to_pylist(), manifest["uri"].to_pylist(), strict=True))

    def _read_corpus(self, item: str) -> Pixels:
        return self._read(self._corpus, item)

    def _read(self, uris: Mapping[str, str], item: str) -> Pixels:
        limits = self.plan.spec.corpus_limits
        return read_picture(uris[item], limits, None if item.startswith("unreadable-") else item)

    def _filtering(self, described: FilterIdentity) -> Filtering:
        number = filter_id_of(described.filter)
        if number not in self._filters:
            parts = Parts(str(self.device), self.models.guard_model)
            self._filters[number] = build_filter(vars(described.filter), parts)
        return Filtering(described, self._filters[number], number, self.plan.cases_of(described.generate))

    def _detector(self, instrument_id: int) -> Detector:
        if instrument_id not in self._detectors:
            planned = next(i for i in self.plan.instruments if i.instrument_id == instrument_id)
            spec = next(d for d in self.plan.spec.detectors if d.name == planned.detector)
            detector = detectors.build(spec, self.plan.spec.sought(), str(self.device))
            if detector.instrument.instrument_id != instrument_id:
                raise CheckpointError(
                    f"detector {spec.name!r} has changed since this run was planned (weights, package or prompts)",
                    where=str(spec.model),
                    next_step="restore it, or start a new run: erasure-audit run SPEC",
                )
            detector.self_test()  # one that misreads what is known decides nothing
            self._detectors[instrument_id] = detector
        return self._detectors[instrument_id]

    def _meter(self, instrument_id: int) -> Meter:
        if instrument_id not in self._meters:
            planned = next(i for i in self.plan.quality if i.instrument_id == instrument_id)
            entry = next(q for q in self.plan.spec.quality_entries() if q.name == planned.instrument)
            meter = quality.build(entry, str(self.device))
            if meter.instrument.instrument_id != instrument_id:
                raise CheckpointError(
                    f"quality instrument {entry.name!r} has changed since this run was planned (weights or package)",
                    where=str(entry.model or entry.kind),
                    next_step="restore it, or start a new run: erasure-audit run SPEC",
                )
            self._meters[instrument_id] = meter
        return self._meters[instrument_id]

    def _share(self) -> float:
        """Return the share of a GPU's free memory that a batch may take: recorded launches keep theirs beside it."""
        return SHARE / 2 if self._compiling is not None and self._compiling.mode == "cuda-graphs" else SHARE

    def _compiled_evaluations(self) -> int:
        return self._compiling.evaluations if self._compiling is not None else 0

    def _runtime(self, compiled: int) -> dict[str, str]:
        """Return where and how a unit was computed, of which so many evaluations of the network ran compiled."""
        name = f" ({torch.cuda.get_device_name(self.device)})" if self.device.type == "cuda" else ""
        name += f", compiled with {self._compiling.mode}" if compiled and self._compiling is not None else ""
        return {"host": platform.node(), "device": f"{self.device}{name}", "torch": torch.__version__}
