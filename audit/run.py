"""The steps of a run as plain functions, in order; tasks wrap them one by one. Importing this loads no torch."""

from __future__ import annotations

import dataclasses
import datetime as dt
import functools
import hashlib
import io
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import ValidationError

from audit import identity
from audit.corpus import ingest
from audit.corpus.manifest import read_stored_manifest
from audit.diffusion.text import check_tokenizer
from audit.errors import SpecError
from audit.index import checks, expectations, queries
from audit.index.corpus_checks import require_disjoint, require_sound
from audit.index.store import Replaceable, Store, set_aside
from audit.plan import benign, forecast, stand_ins
from audit.plan.builder import CorpusItem
from audit.plan.document import Outline, Plan, read_outline
from audit.plan.forecast import Shape
from audit.plan.planner import build_plan
from audit.plan.preflight.guards import check_guards
from audit.plan.preflight.inputs import unusable_parts
from audit.plan.preflight.prompts import check_phrases, load_prompt_sets
from audit.plan.preflight.unusable import require_some
from audit.provenance import provenance
from audit.records import QualityInstrument
from audit.report import write_reports
from audit.spec.benign import PICTURE_CHECK
from audit.spec.document import Spec
from audit.spec.policy import Policy
from audit.spec.scenarios import EmbeddingScenario
from audit.storage.journal import Journal
from audit.verdict.gate import decide
from audit.verdict.results import RunResult, Sample
from audit.verdict.retention import recounted
from audit.weights import gaps
from audit.weights.checkpoints import resolve_checkpoint
from audit.weights.gaps import Gap
from audit.weights.references import ModelRef, pipeline_family, resolve_model

if TYPE_CHECKING:
    from audit.compute.worker import Worker


log = logging.getLogger(__name__)


def open_journal(root: str) -> Journal:
    """The journal at `root`, proven writable. Raises `JournalError` otherwise."""
    journal = Journal(root)
    journal.probe()
    return journal


def new_run_id(name: str, now: dt.datetime) -> str:
    """An id that sorts by time: name, UTC second, four hex digits that keep two runs of one second apart."""
    salt = hashlib.sha256(f"{name}{now.isoformat()}".encode()).hexdigest()[:4]
    return f"{name}-{now:%Y%m%dT%H%M%SZ}-{salt}"


def collect(spec: Spec, journal: Journal, run_id: str, progress: Callable[[int], None] | None = None) -> pa.Table:
    """The corpus manifest: one row per object, unreadable ones included, none without a corpus; stored with the run."""
    batches = list(ingest.manifest(spec.corpus, spec.corpus_limits, progress=progress)) if spec.corpus else []
    manifest = pa.Table.from_batches(batches, schema=ingest.MANIFEST_SCHEMA)
    sink = io.BytesIO()
    pq.write_table(manifest, sink, compression="zstd")
    journal.put_run(run_id, "manifest.parquet", sink.getvalue())
    return manifest


def resolve(spec: Spec, journal: Journal, run_id: str, created_at: str, manifest: pa.Table) -> Plan:
    """The stored plan of a new run; models are resolved to digests, nothing is loaded.

    Raises an `AuditError` for anything that would stop the run later: missing weights, another family, too few images.
    """
    from audit.diffusion.pipeline import check_weights  # imports torch, which a run needs anyway

    plan = draft(spec, run_id, created_at, manifest)
    check_weights(resolve_model(spec.backbone))
    stored = json.dumps(plan.spec.model_dump(mode="json"), indent=1).encode()  # JSON is YAML
    journal.put_run(run_id, "spec.yaml", stored)
    facts = {
        **provenance(),
        "backbone": dict(plan.backbone),
        "corpus": dict(plan.corpus),
        "prompt_sets": dict(plan.prompt_sets),
        "spec_sha256": hashlib.sha256(stored).hexdigest(),
    }
    journal.put_run(run_id, "provenance.json", json.dumps(facts, indent=1, sort_keys=True).encode())
    plan.write(journal)
    return plan


def draft(spec: Spec, run_id: str, created_at: str, manifest: pa.Table) -> Plan:
    """The plan of a run that is not stored. Raises an `AuditError` for anything that would stop the run later, and
    `CorpusError` for a corpus of which nothing can be used or that shares a picture with the calibration split. What costs
    single cases is warned of.

    Inside `gaps.collecting` missing files are noted and stand-ins planned; such a plan says `absent-` and is not stored.
    """
    backbone = resolve_model(spec.backbone)
    if backbone.source != "absent":
        pipeline_family(backbone)
        check_tokenizer(backbone)
        check_phrases(spec, backbone)
    spec, benign_prompts = benign.planned_with_benign(spec, backbone)
    with gaps.noted("model"):
        check_guards(spec, backbone)
    _check_checkpoints(spec, backbone)
    _check_personalisations(spec, backbone)
    sets = None if gaps.is_absent(backbone.sha256) else load_prompt_sets(spec, backbone)
    pictures = corpus_items(manifest, spec)
    unusable = unusable_parts(spec, backbone, stand_ins.without_pictures(pictures, spec))
    measuring = [stand_ins.instrument_and_rules(detector, spec) for detector in spec.detectors]
    benign.require_judged(spec, [rule for _, rules in measuring for rule in rules], benign_prompts)
    plan = build_plan(
        spec,
        run_id=run_id,
        created_at=created_at,
        backbone=backbone,
        items=stand_ins.filled_up(pictures, spec, unusable.pictures),
        instruments=[instrument for instrument, _ in measuring],
        rules=[rule for _, rules in measuring for rule in rules],
        corpus={"objects": manifest.num_rows, "sha256": ingest.manifest_sha256(manifest)},
        prompt_sets=sets,
        quality=[_with_metrics(stand_ins.quality_instrument(entry)) for entry in spec.quality_entries()],
        unusable=unusable,
        benign=benign_prompts,
    )
    require_some(plan, unusable)
    with gaps.noted("corpus"):
        require_sound(manifest)
        if spec.calibration:
            require_disjoint(ingest.manifest(spec.calibration, spec.corpus_limits), manifest.to_batches())
    return plan


def _with_metrics(instrument: QualityInstrument) -> QualityInstrument:
    """The instrument as the report needs it: the picture check's own one gives a test's result and no distances."""
    return dataclasses.replace(instrument, metrics=()) if instrument.instrument == PICTURE_CHECK else instrument


def _check_checkpoints(spec: Spec, backbone: ModelRef) -> None:
    """Recognise and measure every checkpoint of the spec, so that a bad one ends here and not after other work."""
    declared = [d.eraser for d in spec.defences if d.eraser is not None and d.eraser.checkpoint is not None]
    if declared:
        from audit.checkpoints.inspection import inspect  # imports torch

        for eraser in declared:
            ref = resolve_checkpoint(eraser.checkpoint or "")
            if gaps.is_absent(ref.sha256) or gaps.is_absent(backbone.sha256):
                continue  # noted already; without both of them there is nothing to compare
            with gaps.noted("checkpoint"):
                for warning in inspect(ref, backbone, eraser.method)["warnings"]:
                    log.warning("checkpoint %s: %s", eraser.checkpoint, warning)


def _check_personalisations(spec: Spec, backbone: ModelRef) -> None:
    """Read every personalisation of the spec, so that a bad one ends here."""
    if gaps.is_absent(backbone.sha256):
        return
    if any(isinstance(scenario, EmbeddingScenario) and scenario.personalisation for scenario in spec.scenarios):
        from audit.plan.preflight.personalisations import check_personalisations  # imports torch

        check_personalisations(spec, backbone)


def corpus_items(manifest: pa.Table, spec: Spec) -> dict[str, list[CorpusItem]]:
    """Concept -> its different reference images, in URI order, of the role that its cells use.

    Objects that cannot be decoded stay in: their cases are unassessed, not dropped from the denominator.
    """
    roles = stand_ins.picture_roles(spec)
    items: dict[str, dict[str, CorpusItem]] = {}
    for row in manifest.select(["uri", "role", "concept", "pixel_sha256"]).sort_by("uri").to_pylist():
        if row["role"] != roles.get(row["concept"]):
            continue
        item = row["pixel_sha256"] or f"unreadable-{identity.key(row['uri'])[:32]}"
        items.setdefault(row["concept"], {}).setdefault(item, CorpusItem(item, row["uri"]))
    return {concept: list(found.values()) for concept, found in items.items()}


def worker(plan: Plan, journal: Journal, device: str | None = None, batch_size: int | None = None) -> Worker:
    """A worker for `plan` in this process."""
    from audit.compute.worker import Worker

    return Worker(plan, journal, device=device, batch_size=batch_size)


def consolidate(journal: Journal, run_id: str, database: Path) -> Path:
    """Fold a run's journal into the index at `database`; the path of a fresh read-only copy.

    An index that is corrupt, or that another version filled, is first made anew from the journal: it holds nothing
    that the journal does not, and a run's work must not wait for somebody who rebuilds it.
    """
    try:
        return _fold(journal, run_id, database)
    except Replaceable as problem:
        log.warning(
            "%s: %s; it is made anew from the journal, the old file is kept as %s",
            database, problem.what, set_aside(database),
        )  # fmt: skip
        for damaged in Store.rebuild(database, journal, keep_old=True).damaged:
            log.warning("left out of the index: %s", damaged)
        return _fold(journal, run_id, database)


def _fold(journal: Journal, run_id: str, database: Path) -> Path:
    with Store(database) as store:
        store.consolidate(journal, run_id)
        return store.publish(database.parent / "published")


def conclude(journal: Journal, run_id: str, published: Path, policy: Policy | None = None) -> RunResult:
    """The run's result with its verdict: data checks, then the gate. `policy` replaces the stored one.

    The stored spec is not validated: what was measured can be shown when the spec's format has changed since.
    Raises `SpecError` when the stored policy is of a form that this version does not know and none is given.
    """
    outline = read_outline(journal, run_id)
    used = policy or _stored_policy(outline)
    result = queries.read_result(published, run_id, policy)
    manifest = read_stored_manifest(journal, run_id, outline.corpus_sha256)
    found = checks.run_checks(published, run_id)
    if manifest.num_rows:
        found += expectations.check_manifest(manifest.to_pandas())
    rates, readings = queries.result_frames(published, run_id)
    found += expectations.check_results(queries.rates_frame(result) if policy else rates, readings)
    spec = {**result.spec, "gate": used.model_dump(mode="json")}
    verdict = decide(used, result.crr, found, result.retention, result.picture_checks, result.unassessed)
    return dataclasses.replace(recounted(result, used, verdict), spec=spec, verdict=verdict)


def _stored_policy(outline: Outline) -> Policy:
    try:
        return Policy.model_validate(outline.policy)
    except ValidationError as error:
        raise SpecError(
            f"the policy stored with this run is not one of this version: {error.errors(include_url=False)[0]['msg']}",
            where=f"run {outline.run_id}",
            next_step=f"decide it by a policy of this version: erasure-audit gate {outline.run_id} --policy SPEC",
        ) from None


def report(journal: Journal, result: RunResult, directory: Path, *, show_sensitive: bool = False) -> dict[str, Path]:
    """Write every report format into `directory`; the paths by format."""

    @functools.lru_cache(maxsize=1)  # the report asks cell by cell, so neighbouring pictures share a unit
    def pictures(unit_key: str) -> dict[int, bytes]:
        rows = journal.read("generate", unit_key, ["image_id", "image"]).to_pylist()
        return {row["image_id"]: row["image"]["bytes"] for row in rows if row["image"]}

    def picture(sample: Sample) -> bytes | None:
        return pictures(sample.unit_key).get(sample.image_id)

    return write_reports(result, picture, directory, show_sensitive=show_sensitive)


@dataclasses.dataclass(frozen=True)
class Draft:
    """A plan to be priced, and what has to be there before it can run. With gaps its digests are partly stand-ins."""

    plan: Plan
    shape: Shape
    gaps: tuple[Gap, ...]

    @property
    def backbone_is_here(self) -> bool:
        """Whether the backbone's files were found."""
        return not gaps.is_absent(self.plan.backbone["sha256"])


def draft_plan(spec: Spec, now: dt.datetime, progress: Callable[[int], None] | None = None) -> Draft:
    """The plan that a run of `spec` started now would have, complete even where files are missing: those are its gaps.

    A backbone that is not here is taken to have Stable Diffusion v1.x's sizes. Raises the `AuditError` that would stop
    the run for everything that is a mistake of the spec and no missing file.
    """
    with gaps.collecting() as collected:
        batches = stand_ins.manifest_batches(spec, progress) if spec.corpus else []
        manifest = pa.Table.from_batches(batches, schema=ingest.MANIFEST_SCHEMA)
        plan = draft(spec, new_run_id(spec.name, now), now.isoformat(timespec="seconds"), manifest)
        backbone = resolve_model(spec.backbone)
    shape = forecast.sd1_shape() if backbone.source == "absent" else forecast.shape_of(backbone.path)
    return Draft(plan, shape, tuple(collected.found))
