"""A plan that is not stored, for forecasts: the corpus is listed and read, nothing is written."""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections.abc import Callable

import pyarrow as pa

from audit import corpus, gaps, pricing, run, stand_ins
from audit.gaps import Gap
from audit.model_refs import resolve_model
from audit.plan import Plan
from audit.pricing import Shape
from audit.spec import Spec


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
        manifest = pa.Table.from_batches(batches, schema=corpus.MANIFEST_SCHEMA)
        plan = run.draft(spec, run.new_run_id(spec.name, now), now.isoformat(timespec="seconds"), manifest)
        backbone = resolve_model(spec.backbone)
    shape = pricing.sd1_shape() if backbone.source == "absent" else pricing.shape_of(backbone.path)
    return Draft(plan, shape, tuple(collected.found))
