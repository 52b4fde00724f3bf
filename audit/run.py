"""The steps of a run as plain functions, in order; tasks wrap them one by one. Importing this loads no torch."""

from __future__ import annotations

import dataclasses
import datetime as dt
import hashlib
import io
import itertools
import json
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import ValidationError

from audit.corpus import ingest
from audit.corpus.manifest import read_stored_manifest
from audit.corpus.parts import Parts
from audit.errors import CorpusError, SpecError
from audit.index.attempts import attempt
from audit.index.corpus_checks import require_disjoint, require_sound
from audit.index.derivation import derive
from audit.index.folded_files import on_record, record_plan
from audit.index.integrity import withdraw_missing
from audit.index.publishing import publish
from audit.labels.calibrating import known_of_judges
from audit.machine.compilers import Mode
from audit.plan.backbone_shape import Shape, sd1_shape, shape_of
from audit.plan.document import Draft, Outline, Plan, read_outline
from audit.plan.pictures import forecast_pictures, listed_pictures
from audit.plan.planner import build_draft, build_plan
from audit.plan.preflight.checks import check
from audit.plan.preflight.methods import methods_of
from audit.plan.resolve import resolve
from audit.plan.resolved import Problem, Resolved
from audit.provenance import operator, provenance
from audit.report import write_reports
from audit.spec.document import Spec
from audit.spec.policy import Policy
from audit.storage.journal import Journal
from audit.storage.pictures import StoredPictures
from audit.storage.run_records import Record
from audit.verdict.decisions import Basis
from audit.verdict.record import policy_sha256, record_verdict
from audit.verdict.regression import Comparison
from audit.verdict.results import RunResult
from audit.weights.references import ModelRef

if TYPE_CHECKING:
    from audit.compute.worker import Worker


log = logging.getLogger(__name__)


def open_journal(root: str) -> Journal:
    """Open the journal at `root` and prove that it is writable. Raises `JournalError` otherwise."""
    journal = Journal(root)
    journal.probe()
    return journal


def new_run_id(name: str, now: dt.datetime) -> str:
    """Return a new run's id: name, UTC second, and four hex digits that keep two runs of one second apart."""
    salt = hashlib.sha256(f"{name}{now.isoformat()}".encode()).hexdigest()[:4]
    return f"{name}-{now:%Y%m%dT%H%M%SZ}-{salt}"


def _in_groups(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.Table]:
    """Yield tables of several batches: each becomes a row group."""
    rest = iter(batches)
    while group := list(itertools.islice(rest, 20)):
        yield pa.Table.from_batches(group)


def collect(spec: Spec, journal: Journal, run_id: str, progress: Callable[[int], None] | None = None) -> pa.Table:
    """Build the corpus manifest and store it with the run.

    It has one row per object, unreadable ones included, and none without a corpus. What was read of an object store is
    kept batch by batch: a listing that was killed goes on where it was.
    """
    parts = Parts(journal.store, run_id)
    batches = ingest.manifest(spec.corpus, spec.corpus_limits, progress=progress, parts=parts) if spec.corpus else ()
    sink = io.BytesIO()
    with pq.ParquetWriter(sink, ingest.MANIFEST_SCHEMA, compression="zstd") as writer:
        for table in _in_groups(batches):
            writer.write_table(table)
    data = sink.getvalue()
    journal.put_run(run_id, "manifest.parquet", data)
    return pq.read_table(pa.BufferReader(data)).cast(ingest.MANIFEST_SCHEMA)


def plan(spec: Spec, journal: Journal, run_id: str, created_at: str, manifest: pa.Table) -> Plan:
    """Return the stored plan of a new run; models are known by their digests, nothing is loaded.

    Raises an `AuditError` for anything that would stop the run later: missing weights, another family, too few images.
    """
    from audit.diffusion.pipeline import check_weights  # imports torch, which a run needs anyway

    resolved = resolve(spec, listed_pictures(spec, manifest))
    planned = _complete_plan(resolved, run_id, created_at)
    assert isinstance(resolved.backbone, ModelRef)  # else there were no plan
    check_weights(resolved.backbone)
    stored = json.dumps(planned.spec.model_dump(mode="json"), indent=1).encode()  # JSON is YAML
    journal.put_run(run_id, "spec.yaml", stored)
    facts = {
        **provenance(),
        "backbone": dict(planned.backbone),
        "corpus": dict(planned.corpus),
        "prompt_sets": dict(planned.prompt_sets),
        "methods": methods_of(planned.spec),
        "spec_sha256": hashlib.sha256(stored).hexdigest(),
    }
    journal.put_run(run_id, "provenance.json", json.dumps(facts, indent=1, sort_keys=True).encode())
    planned.write(journal)
    record_plan(journal, run_id, dt.datetime.fromisoformat(created_at))
    return planned


def unstored_plan(spec: Spec, run_id: str, created_at: str, manifest: pa.Table) -> Plan:
    """Return the plan of a run; nothing is written.

    Raises an `AuditError` for anything that would stop the run later, and `CorpusError` for a corpus of which nothing can be
    used or that shares a picture with the calibration split. What costs single cases is warned of.
    """
    return _complete_plan(resolve(spec, listed_pictures(spec, manifest)), run_id, created_at)


def _complete_plan(resolved: Resolved, run_id: str, created_at: str) -> Plan:
    resolved.require_complete()
    made = build_plan(resolved, check(resolved), run_id=run_id, created_at=created_at)
    _check_corpus(resolved)
    return made


def _check_corpus(resolved: Resolved) -> None:
    """Return when the corpus can carry a verdict and shares no picture with the calibration split."""
    spec, manifest = resolved.spec, resolved.pictures.manifest
    require_sound(manifest)
    if spec.calibration:
        require_disjoint(ingest.manifest(spec.calibration, spec.corpus_limits), manifest.to_batches())


def worker(
    plan: Plan,
    journal: Journal,
    device: str | None = None,
    batch_size: int | None = None,
    compile_with: Mode | None = None,
) -> Worker:
    """Return a worker for `plan` in this process."""
    from audit.compute.worker import Worker

    return Worker(plan, journal, device=device, batch_size=batch_size, compile_with=compile_with)


def consolidate(journal: Journal, run_id: str, database: Path) -> Path:
    """Fold a run's journal into the index at `database`; return the path of a fresh read-only copy."""
    return publish(journal, database, lambda store: store.consolidate(journal, run_id))


def consolidate_all(journal: Journal, database: Path) -> tuple[Path, tuple[str, ...]]:
    """Fold every run's journal into the index.

    Returns the path of a fresh read-only copy, and a sentence for each damaged run.
    """
    damaged: list[str] = []
    return publish(journal, database, lambda store: damaged.extend(store.consolidate(journal).damaged)), tuple(damaged)


def conclude(
    journal: Journal, run_id: str, published: Path, policy: Policy | None = None, now: dt.datetime | None = None
) -> RunResult:
    """Return the run's result with its verdict: data checks, then the gate. `policy` replaces the stored one.

    `now` (UTC) is the moment of the decision, by default this one. The stored spec is not validated: what was measured can be
    shown when the spec's format has changed since. Raises `SpecError` when the stored policy is of a form that this version
    does not know and none is given.
    """
    outline = read_outline(journal, run_id)
    used = policy or stored_policy(outline)
    basis = Basis(
        attempt(journal, run_id, policy_sha256(used)),
        known_of_judges(journal, run_id, policy),
        (now or dt.datetime.now(dt.UTC)).isoformat(timespec="seconds"),
    )
    manifest = read_stored_manifest(journal, run_id, outline.corpus_sha256)
    return derive(published, run_id, manifest, used, basis, planned=policy is None)


def record_decision(
    journal: Journal,
    result: RunResult,
    database: Path,
    command: str,
    opened_by: Sequence[str] = (),
    regression: Mapping[str, object] | None = None,
) -> Record:
    """Put the verdict of a run on record in the journal and in the index, publish that, and return the record.

    `command` is run, resume or gate; `opened_by` are the decisions that waivers covered where they opened the gate,
    `regression` what a comparison with an earlier run showed. Raises
    `RecordChanged` when an earlier record was changed, `StoreError` when the index cannot be written.
    """
    policy = Policy.model_validate(result.spec["gate"])
    folded = on_record(journal, result.run_id).sha256
    record = record_verdict(
        journal, result.run_id, command, operator(), policy, result.verdict, folded, opened_by, regression
    )
    publish(journal, database, lambda store: store.load_decisions(journal, result.run_id))
    return record


def overtaken(journal: Journal, result: RunResult) -> bool:
    """Return whether another run at the same claim was decided first, but put on record only after this one had counted.

    A recorded decision of which that is true has too small a number of its attempt: decide again.
    """
    policy = Policy.model_validate(result.spec["gate"])
    return attempt(journal, result.run_id, policy_sha256(policy)) != result.verdict.attempt


def require_intact_run(journal: Journal, run_id: str, now: dt.datetime) -> None:
    """Return when the files of a stored run are what is on record; units that are gone are taken off it, to be computed again.

    Raises `RecordChanged` for files that were changed, swapped or added.
    """
    for unit in withdraw_missing(journal, run_id, now, operator()):
        log.warning(
            "%s unit %s was there when the run was folded and is gone; it is computed again", unit.kind, unit.key[:12]
        )


def stored_policy(outline: Outline) -> Policy:
    """Return the policy that a run was planned with. Raises `SpecError` when it is of a form that this version does not know."""
    try:
        return Policy.model_validate(outline.policy)
    except ValidationError as error:
        raise SpecError(
            f"the policy stored with this run is not one of this version: {error.errors(include_url=False)[0]['msg']}",
            where=f"run {outline.run_id}",
            next_step=f"decide it by a policy of this version: erasure-audit gate {outline.run_id} --policy SPEC",
        ) from None


def report(
    journal: Journal,
    result: RunResult,
    directory: Path,
    *,
    show_sensitive: bool = False,
    comparison: Comparison | None = None,
    spec_file: str | None = None,
) -> dict[str, Path]:
    """Write every report format into `directory`; the paths by format. `comparison` is the run's with an earlier one."""
    pictures = StoredPictures(journal)
    return write_reports(
        result, pictures, directory, show_sensitive=show_sensitive, comparison=comparison, spec_file=spec_file
    )


@dataclasses.dataclass(frozen=True)
class Forecast:
    """What a run would do, and what has to be there before it can."""

    draft: Draft
    shape: Shape
    missing: tuple[Problem, ...]
    backbone: ModelRef | None  # None: its files are not here


def draft_plan(spec: Spec, now: dt.datetime, progress: Callable[[int], None] | None = None) -> Forecast:
    """Return what a run of `spec` started now would do, complete even where files are missing.

    A backbone that is not here is taken to have Stable Diffusion v1.x's sizes. Raises the `AuditError` that would stop
    the run for everything that is a mistake of the spec and no missing file.
    """
    resolved = resolve(spec, forecast_pictures(spec, progress))
    resolved.require_no_mistake()
    checked = check(resolved)
    run_id, created_at = new_run_id(spec.name, now), now.isoformat(timespec="seconds")
    draft = build_draft(resolved, checked, run_id=run_id, created_at=created_at)
    missing = [*resolved.problems, *checked.problems]
    try:
        _check_corpus(resolved)
    except CorpusError as error:
        missing.append(Problem.of("corpus", error))
    here = resolved.backbone if isinstance(resolved.backbone, ModelRef) else None
    shape = shape_of(here) if here else sd1_shape()
    return Forecast(draft, shape, tuple(missing), here)
