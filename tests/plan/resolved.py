"""What a spec names, as tests state it instead of looking it up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from audit.corpus.prompts import prompt_sources, read_prompt_set
from audit.guards import parse
from audit.plan.benign import BenignPrompt
from audit.plan.document import Plan
from audit.plan.planner import build_plan
from audit.plan.preflight.prompts import usable_prompt_sets
from audit.plan.preflight.unusable import Checked
from audit.plan.resolved import CorpusItem, Measuring, Missing, Pictures, Resolved
from audit.records import Instrument, QualityInstrument
from audit.spec.document import Spec
from audit.weights.references import ModelRef, resolve_model


def resolved_of(
    spec: Spec,
    backbone: ModelRef,
    *,
    items: Mapping[str, Sequence[CorpusItem]] | None = None,
    instrument: Instrument | None = None,
    quality: QualityInstrument | None = None,
    benign: Sequence[BenignPrompt] = (),
) -> Resolved:
    """Return what is stated here, with the prompt sets of the spec: nothing else is looked up."""
    return Resolved(
        spec=spec,
        backbone=backbone,
        benign=benign,
        energies={
            name: resolve_model(name)
            for defence in spec.defences
            for guard in defence.guards
            for name in parse(guard).models().values()
        },
        prompt_sets={name: read_prompt_set(source) for name, source in prompt_sources(spec).items()},
        detectors={instrument.detector: Measuring(instrument, [])} if instrument else {},
        quality={quality.instrument: quality} if quality else {},
        pictures=Pictures(items or {}),
    )


def stated_plan(resolved: Resolved, *, check_rows: bool = False) -> Plan:
    """Return the plan of a spec without the checks of a run; rows of prompt sets are checked on request."""
    if check_rows:
        sets = usable_prompt_sets(resolved)
    else:
        sets = {name: chosen for name, chosen in resolved.prompt_sets.items() if not isinstance(chosen, Missing)}
    return build_plan(resolved, Checked(prompt_sets=sets), run_id="run", created_at="2026-01-01T00:00:00Z")
