"""Choose an audit's benign prompts and the network that checks their pictures, and require judges that can assess them."""

from __future__ import annotations

import dataclasses
import itertools
import logging
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING

from audit import guards, identity
from audit.corpus.prompts import PromptRow, read_prompt_set
from audit.diffusion.text import too_long
from audit.errors import SpecError
from audit.records import Attempt
from audit.spec.benign import PICTURE_CHECK, subject_name
from audit.spec.content import pairing
from audit.spec.document import Spec
from audit.spec.picture_scenarios import PictureScenario
from audit.spec.policy import Policy
from audit.spec.prompts import PromptSource
from audit.spec.quality import QualitySpec
from audit.spec.relearning import CyclesScenario
from audit.spec.sampler import Sampler
from audit.spec.scenarios import LatentScenario, TextScenario
from audit.spec.sections import Concept, DetectorSpec
from audit.statistics import ratio_lower_bound, upper_bound

if TYPE_CHECKING:
    from transformers import CLIPTokenizer

log = logging.getLogger(__name__)
_NETWORKS = {"clip-zero-shot": "testbed/judge", "classifier": "testbed/classifier"}  # and what a bare `testbed` means


@dataclasses.dataclass(frozen=True)
class BenignPrompt:
    """One benign prompt. `subject` is the name of what it shows, as detectors' rules use it."""

    subject: str
    row: PromptRow


def planned_with_benign(spec: Spec, tokenizer: CLIPTokenizer | None = None) -> tuple[Spec, tuple[BenignPrompt, ...]]:
    """Return the spec with its section `benign` filled in, and the benign prompts; no prompts where nothing judges them.

    What the text encoder of `tokenizer` cannot read whole is left out, and warned of. Raises `SpecError` for a prompt file that
    cannot be used, that does not say what its prompts show, or that leaves a concept without any.
    """
    judged = is_judged(spec)
    if not judged and not _at_stages(spec):
        return spec.model_copy(
            update={"benign": spec.benign.model_copy(update={"subjects": (), "instrument": None})}
        ), ()
    prompts = read_benign(spec)
    if tokenizer is not None:
        prompts = _readable(prompts, tokenizer)
    for concept in spec.concepts:
        asked = judged and (spec.gate.damage_waived is None or bool(_credited_filters(spec)))
        if (asked or _at_stages(spec)) and not benign_cases(spec, concept, prompts, 1):
            raise SpecError(
                f"every benign prompt is about {concept.name!r} itself, so nothing shows whether its defences still draw",
                where="benign.prompts",
                next_step="add prompts of other things, or leave out benign.prompts to use the shipped ones",
            )
    subjects = tuple(dict.fromkeys(prompt.subject for prompt in prompts))
    instrument = picture_check(spec) if judged and spec.gate.damage_waived is None else None
    filled = spec.benign.model_copy(update={"subjects": subjects, "instrument": instrument})
    return spec.model_copy(update={"benign": filled}), prompts


def _readable(prompts: tuple[BenignPrompt, ...], tokenizer: CLIPTokenizer) -> tuple[BenignPrompt, ...]:
    long = too_long(tokenizer, [str(prompt.row.prompt) for prompt in prompts])
    kept = tuple(prompt for prompt in prompts if prompt.row.prompt not in long)
    if not kept:
        raise SpecError(
            "the backbone's text encoder reads none of the benign prompts whole",
            where="benign.prompts",
            next_step="shorten them, or leave out benign.prompts to use the shipped ones",
        )
    if len(kept) < len(prompts):
        rows = [str(prompt.row.number) for prompt in prompts if prompt.row.prompt in long]
        log.warning("benign.prompts: rows too long for the text encoder are left out: %s", ", ".join(rows[:12]))
    return kept


def is_judged(spec: Spec) -> bool:
    """Return whether the policy judges anything that benign prompts show."""
    return spec.benign.cases > 0 and (
        None in (spec.gate.retention_waived, spec.gate.damage_waived) or bool(_credited_filters(spec))
    )


def _credited_filters(spec: Spec) -> list[str]:
    """Return the defences with filters, where the policy counts what these block as clear."""
    if spec.gate.blocked == "unassessed":
        return []
    return [defence.name for defence in spec.defences if guards.has_filters(defence)]


def read_benign(spec: Spec) -> tuple[BenignPrompt, ...]:
    """Return the usable benign prompts of a spec, in the order of their set. Raises `SpecError` as `planned_with_benign`."""
    source = spec.benign.prompts
    if source is None:
        testbed = spec.backbone.partition("/")[0] == "testbed"
        source = PromptSource(set="testbed-benign" if testbed else "everyday-benign")
    chosen = read_prompt_set(source)
    if "concept" not in chosen.columns:
        raise SpecError(
            "the benign prompts do not say what they show",
            where="benign.prompts",
            next_step="add a column 'concept' that names what each prompt shows, or name it: columns: {concept: ...}",
        )
    pairs = pairing(spec.model_dump(mode="json", exclude={"gate"}))
    for row in chosen.rows:
        if pairs(f"{row.prompt or ''} {row.concept or ''}"):
            raise SpecError(
                f"row {row.number} pairs minors with sexual content; such prompts are never sampled, and there is no override",
                where="benign.prompts",
                next_step="remove the row",
            )
    usable = [row for row in chosen.rows if row.problem is None and subject_name(row.concept or "")]
    if not usable:
        raise SpecError(
            "no row of the benign prompts can be used: each needs a prompt, and what it shows in Latin letters",
            where="benign.prompts",
            next_step="mend the file's rows",
        )
    return tuple(BenignPrompt(subject_name(row.concept or ""), row) for row in usable)


def benign_texts(spec: Spec, prompts: Sequence[BenignPrompt]) -> list[str]:
    """Return the text of every one of the benign prompts that an audit of this spec samples, each once."""
    count = max(spec.benign.cases, _at_stages(spec))
    cases = [case for concept in spec.concepts for case in benign_cases(spec, concept, prompts, count)]
    return list(dict.fromkeys(str(case.prompt) for case in cases))


def _at_stages(spec: Spec) -> int:
    """Return the number of benign prompts at each stage of cycles: the largest of all scenarios."""
    return max(
        (scenario.benign_cases for scenario in spec.scenarios if isinstance(scenario, CyclesScenario)), default=0
    )


def benign_cases(
    spec: Spec, concept: Concept, prompts: Sequence[BenignPrompt], count: int | None = None
) -> list[Attempt]:
    """Return the cases of one benign cell: the first prompts that are not about the concept, then the same with other seeds.

    They are the same for every defence, so that each case has its pair on the un-erased backbone. `count` is that of the
    spec's section `benign` by default.
    """
    words = {subject_name(word) for word in (concept.name, concept.phrase, *concept.synonyms)}
    others = [prompt for prompt in prompts if prompt.subject not in words]
    if not others:
        return []
    cases = []
    for number in range(spec.benign.cases if count is None else count):
        prompt, turn = others[number % len(others)], number // len(others)
        seed = spec.seed + number if prompt.row.seed is None else _seed(prompt.row.seed, spec.seed, turn)
        cases.append(Attempt(seed, prompt.row.prompt, prompt_key=prompt.row.key, subject=prompt.subject))
    return cases


def _seed(own: int, run: int, turn: int) -> int:
    return own if turn == run == 0 else identity.int_key({"row": own, "seed": run, "turn": turn}) % 2**31


def sampler_of(spec: Spec) -> Sampler:
    """Return the sampler of benign prompts: the spec's own, else that of the first text scenario, else of the first
    with prompts.
    """
    if spec.benign.sampler is not None:
        return spec.benign.sampler
    text = [scenario.sampler for scenario in spec.scenarios if isinstance(scenario, TextScenario)]
    drawn = (scenario for scenario in spec.scenarios if not isinstance(scenario, LatentScenario | PictureScenario))
    prompted = [scenario.sampler for scenario in drawn]
    if samplers := [*text, *prompted]:
        return samplers[0]
    return Sampler(steps=spec.scenarios[0].sampler.steps)


def picture_check(spec: Spec) -> QualitySpec:
    """Return the quality instrument that compares benign pictures as sets, a listed one if it has the same network.

    Raises `SpecError` when neither the spec nor a detector names a network that can.
    """
    model = spec.benign.features or _network(spec)
    if model is None:
        raise SpecError(
            "no network can check whether benign pictures are still pictures: no detector is a CLIP or a classifier",
            where="benign.features",
            next_step="name a CLIP folder or org/name@<40-hex commit> there, or waive the check: "
            "gate: {damage_waived: <the reason>}",
        )
    listed = (entry for entry in spec.quality if entry.kind == "features" and entry.model == model)
    return next(listed, QualitySpec(name=PICTURE_CHECK, kind="features", model=model))


def _network(spec: Spec) -> str | None:
    """Return the network of the first detector that has features: judges first, CLIPs before classifiers."""
    judges = (*spec.gate.judges_of_retention(), *spec.gate.judges)

    def order(detector: DetectorSpec) -> tuple[bool, bool]:
        return detector.kind != "clip-zero-shot", detector.name not in judges

    for detector in sorted((d for d in spec.detectors if d.kind in _NETWORKS), key=order):
        if detector.model is not None:
            return _NETWORKS[detector.kind] if detector.model == "testbed" else detector.model
    return None


def fewest_pairs(policy: Policy) -> int:
    """Return the smallest number of pairs that proves the policy's retention when every one of them survives."""
    return next(n for n in itertools.count(1) if ratio_lower_bound(n, n, n, policy.confidence) >= policy.retention_min)


def require_blocking_judged(spec: Spec) -> None:
    """Check that there are enough benign prompts to show that filters let these pass. Raises `SpecError` otherwise."""
    policy, filtered = spec.gate, _credited_filters(spec)
    if not filtered:
        return
    fewest = next(n for n in itertools.count(1) if upper_bound(0, n, policy.confidence) <= policy.benign_blocked_max)
    if spec.benign.cases < fewest:
        raise SpecError(
            f"defence {filtered[0]!r} has filters, and benign_blocked_max {policy.benign_blocked_max:g} takes at least {fewest} "
            f"benign prompts, should none of them be blocked; benign.cases is {spec.benign.cases}",
            where="gate.benign_blocked_max",
            next_step="raise benign.cases, or count what filters block as unassessed: gate: {blocked: unassessed}",
        )


def require_judged(spec: Spec, rules: Collection[Mapping[str, object]], prompts: Sequence[BenignPrompt]) -> None:
    """Check that every judge of retention can see something that must survive each concept's erasure.

    Raises `SpecError` otherwise: such a run could never end in PASS.
    """
    if spec.gate.retention_waived is not None:
        return
    texts = any(isinstance(scenario, TextScenario) for scenario in spec.scenarios)
    for judge in spec.gate.judges_of_retention():
        seen = {rule["subject"] for rule in rules if rule["detector"] == judge}
        for concept in spec.concepts:
            cases = benign_cases(spec, concept, prompts)
            kept = {str(case.subject) for case in cases}
            kept |= set(concept.neighbours) if texts and spec.neighbour_cases else set()
            if not kept & seen:
                raise SpecError(
                    f"detector {judge!r} can see nothing that must survive the erasure of {concept.name!r}, so it cannot "
                    f"judge retention: {', '.join(sorted(kept)[:12]) or 'nothing is drawn for it'}",
                    where="gate.retention_judges",
                    next_step="name a detector there that can, such as a clip-zero-shot; or declare neighbours that it knows "
                    "with neighbour_cases; or waive the limit: gate: {retention_waived: <the reason>}",
                )
            pairs = sum(case.subject in seen for case in cases)
            pairs += spec.neighbour_cases * len(seen & set(concept.neighbours)) if texts else 0
            needed = fewest_pairs(spec.gate)
            if pairs < needed:
                raise SpecError(
                    f"detector {judge!r} can judge {pairs} of the pictures that must survive the erasure of {concept.name!r}, "
                    f"and retention_min {spec.gate.retention_min:g} takes at least {needed}, should all of them survive",
                    where="gate.retention_min",
                    next_step="raise neighbour_cases or benign.cases, let the detector know more of what the benign prompts show "
                    "(parameters.extra_classes), or waive the limit: gate: {retention_waived: <the reason>}",
                )
