"""Rules between the parts of a spec: names are unique and defined, and its policy can be decided."""

from __future__ import annotations

from audit import locations
from audit.spec.benign import FEWEST, PICTURE_CHECK
from audit.spec.fields import SpecFields
from audit.spec.picture_scenarios import PictureScenario
from audit.spec.relearning import CyclesScenario, TrainingScenario
from audit.spec.scenarios import EmbeddingScenario, LatentScenario
from audit.spec.sections import Guard


def problems_of(spec: SpecFields) -> list[str]:
    """Return a sentence, with its field, for every inconsistency between the parts of `spec`."""
    problems = _duplicates(spec) + _references(spec) + _regions(spec) + _impossible(spec) + _undecidable(spec)
    return problems + spec.unknown_names(spec.gate)


def _has_latent(spec: SpecFields) -> bool:
    return any(scenario.kind.startswith("latent-") for scenario in spec.scenarios)


def _duplicates(spec: SpecFields) -> list[str]:
    problems = []
    for field in ("concepts", "defences", "scenarios", "detectors", "quality"):
        names = [entry.name for entry in getattr(spec, field)]
        for name in sorted({n for n in names if names.count(n) > 1}):
            problems.append(f"{field}: {name!r} appears more than once")
    lists = {f"concepts.{concept.name}.neighbours": concept.neighbours for concept in spec.concepts}
    lists |= {"controls.unlearned": spec.controls.unlearned, "gate.judges": spec.gate.judges}
    lists |= {"gate.retention_judges": spec.gate.retention_judges}
    for field, values in lists.items():  # what is counted twice would prove twice as much
        problems += [
            f"{field}: {v!r} appears more than once" for v in sorted({v for v in values if values.count(v) > 1})
        ]
    if any(entry.name == PICTURE_CHECK for entry in spec.quality):
        problems.append(f"quality: {PICTURE_CHECK!r} is the name of the gate's own instrument; give yours another")
    return problems


def _references(spec: SpecFields) -> list[str]:
    problems = []
    corpus = {entry.concept for entry in spec.corpus if entry.role == "target"}
    controls = {entry.concept for entry in spec.corpus if entry.role == "control"}
    latent = _has_latent(spec)
    for concept in spec.concepts:
        if concept.name in concept.neighbours:
            problems.append(f"concepts.{concept.name}: is listed as its own neighbour")
        if latent and concept.name not in corpus:
            problems.append(
                f"corpus: latent scenarios need images of {concept.name!r}, and no entry of role target has them"
            )
    for scenario in spec.scenarios:
        if isinstance(scenario, EmbeddingScenario):
            problems += _embedding(spec, scenario, corpus, controls)
        elif isinstance(scenario, PictureScenario):
            problems += _pictures(spec, scenario, corpus)
        if isinstance(scenario, TrainingScenario):
            problems += _trained(spec, scenario, corpus, controls)
    for name in spec.controls.unlearned:
        if name not in controls:
            problems.append(f"controls.unlearned: no corpus entry of role control has the concept {name!r}")
    for defence in spec.defences:
        if defence.name == "none" and (defence.eraser or defence.guards):
            problems.append("defences.none: 'none' is the un-erased backbone and takes no eraser or guards")
        if defence.name != "none" and not (defence.eraser or defence.guards):
            problems.append(f"defences.{defence.name}: needs an eraser or guards; the bare backbone is called 'none'")
        for guard in defence.guards:
            problems += [f"defences.{defence.name}: {problem}" for problem in _mask_controls(guard)]
    return problems


def _regions(spec: SpecFields) -> list[str]:
    problems = []
    for entry in spec.quality:
        if entry.where is not None and not any(listed.regions for listed in spec.corpus):
            problems.append(
                f"quality.{entry.name}: measures outside the concept's region, and no corpus entry has 'regions'"
            )
        elif entry.where is not None and not _has_latent(spec):
            problems.append(
                f"quality.{entry.name}: measures outside a corpus picture's region, and no latent scenario makes such pictures"
            )
    folders = {listed.url: f"{locations.absolute(listed.url).rstrip('/')}/" for listed in spec.corpus}
    for listed in spec.corpus:
        beside = {"regions": listed.regions, "attributes": listed.attributes}
        problems += [
            f"corpus: the {what} {address!r} lie in {url!r}, whose pictures they would be"
            for what, address in beside.items()
            for url, folder in folders.items()
            if address and f"{locations.absolute(address).rstrip('/')}/".startswith(folder)
        ]
    return problems


def _mask_controls(guard: Guard) -> list[str]:
    if not guard.controls:
        return []
    if guard.name != "irece":
        return [f"guard {guard.name!r} has no mask, so it takes no controls; only irece does"]
    if guard.parameters.get("mask", "attention") != "attention":
        return ["controls stand beside the located mask; leave out the parameter mask of irece"]
    if len(set(guard.controls)) < len(guard.controls):
        return ["controls of guard 'irece' list one mask more than once"]
    return []


def _impossible(spec: SpecFields) -> list[str]:
    """Return a sentence for each defence that a scenario's sampler cannot carry, or that cannot be erased again."""
    exact = [s for s in spec.scenarios if isinstance(s, LatentScenario) and s.method != "fixed-point"]
    cycles = [scenario.name for scenario in spec.scenarios if isinstance(scenario, CyclesScenario)]
    problems = [
        f"scenarios.{name}: defence {defence.name!r} "
        + ("has no eraser" if defence.eraser is None else "brings its weights as a checkpoint")
        + ", so that nothing can erase again; give it an eraser's method, or audit it in another spec"
        for name in cycles
        for defence in spec.defences
        if defence.name != "none" and (defence.eraser is None or defence.eraser.checkpoint is not None)
    ]
    return problems + [
        f"scenarios.{scenario.name}: method {scenario.method!r} steps from two latents at a time, and the "
        f"guards of defence {defence.name!r} act on one; use method fixed-point, or audit that defence in another spec"
        for scenario in exact
        for defence in spec.defences
        if defence.guards
    ]


def _embedding(spec: SpecFields, scenario: EmbeddingScenario, corpus: set[str], controls: set[str]) -> list[str]:
    names = [concept.name for concept in spec.concepts]
    field = "embedding" if scenario.personalisation is None else "personalisation"
    brought = scenario.embedding if scenario.personalisation is None else scenario.personalisation
    if brought is None:
        return [
            f"corpus: {scenario.name} learns from images of {name!r}, and no entry of role target has them"
            for name in names
            if name not in corpus
        ] + _never_learned(spec, scenario.name, scenario.control_concept, controls)
    field = f"scenarios.{scenario.name}.{field}"
    if isinstance(brought, str):
        return [f"{field}: one file for several concepts; name a file for each"] if len(names) > 1 else []
    problems = [f"{field}: no file for {name!r}" for name in names if name not in brought]
    return problems + [f"{field}: {name!r} is none of the concepts" for name in brought if name not in names]


def _pictures(spec: SpecFields, scenario: PictureScenario, corpus: set[str]) -> list[str]:
    problems = []
    for concept in spec.concepts:
        if concept.name not in corpus:
            problems.append(
                f"corpus: {scenario.name} starts from images of {concept.name!r}, and no entry of role target has them"
            )
        if scenario.other_pictures(spec.corpus, concept.name) is None:
            which = f"of {scenario.other!r}" if scenario.other is not None else "of another concept"
            problems.append(
                f"corpus: the control of {scenario.name} starts from images {which}, to compare {concept.name!r} with, and "
                "no entry has them; add one of role control or neighbour"
            )
    return problems


def _trained(spec: SpecFields, scenario: TrainingScenario, corpus: set[str], controls: set[str]) -> list[str]:
    return [
        f"corpus: {scenario.name} trains on images of {concept.name!r}, and no entry of role target has them"
        for concept in spec.concepts
        if concept.name not in corpus
    ] + _never_learned(spec, scenario.name, scenario.control_concept, controls)


def _never_learned(spec: SpecFields, scenario: str, name: str | None, controls: set[str]) -> list[str]:
    """Return what is wrong with a scenario's `control_concept`."""
    field = f"scenarios.{scenario}.control_concept"
    if name is None:
        return []
    if any(name == concept.name or name in concept.neighbours for concept in spec.concepts):
        return [f"{field}: the backbone knows {name!r}, which this spec audits; name a concept it never learned"]
    if name not in controls:
        return [f"{field}: no corpus entry of role control has the concept {name!r}"]
    return []


def _undecidable(spec: SpecFields) -> list[str]:
    """Return a sentence for everything that no amount of compute could decide under the spec's own policy."""
    problems, policy, controls = [], spec.gate, spec.controls
    defences = [name for name in spec.defence_names() if name != "none"]
    if not defences:
        problems.append("defences: only the bare backbone is listed, so there is nothing to decide")
    for concept in spec.concepts:
        for defence in defences:
            for scenario in spec.scenarios:
                if not any(limit.speaks_of(concept.name, defence, scenario.name) for limit in policy.limits):
                    problems.append(
                        f"gate.limits: none speaks of {concept.name!r}, {defence!r}, scenario {scenario.name!r}"
                    )
        for detector in spec.detectors:
            if detector.name in policy.judges and detector.labels.get(concept.name) == ():
                problems.append(f"gate.judges: {detector.name!r} is told not to see {concept.name!r}")
    if spec.benign.cases < FEWEST and policy.damage_waived is None:
        problems.append(
            f"benign.cases: {spec.benign.cases} prompts are too few to tell whether a model still draws; at least {FEWEST}, "
            "or gate.damage_waived with a reason"
        )
    if policy.controls.noise_max < 1 and not controls.noise:
        problems.append("controls.noise: is off, and gate.controls.noise_max asks what the judges say of noise")
    if _has_latent(spec):
        for name, made, asked in (
            ("reference", controls.reference, policy.controls.reference_min > 0),
            ("vae_roundtrip", controls.vae_roundtrip, policy.controls.vae_roundtrip_min > 0),
            ("random_latent", controls.random_latent, policy.controls.random_latent_max < 1),
        ):
            if asked and not made:
                problems.append(f"controls.{name}: is off, and gate.controls asks for it in latent scenarios")
    return problems
