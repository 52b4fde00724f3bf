"""A plan that is not stored, for forecasts: the corpus is listed and read, nothing is written."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable

import pyarrow as pa

from audit import corpus, run
from audit.plan import Plan
from audit.spec import Spec


def draft_plan(spec: Spec, now: dt.datetime, progress: Callable[[int], None] | None = None) -> Plan:
    """The plan that a run of `spec` started now would have. Raises the `AuditError` that would stop the run."""
    batches = list(corpus.manifest(spec.corpus, spec.corpus_limits, progress=progress)) if spec.corpus else []
    manifest = pa.Table.from_batches(batches, schema=corpus.MANIFEST_SCHEMA)
    return run.draft(spec, run.new_run_id(spec.name, now), now.isoformat(timespec="seconds"), manifest)
