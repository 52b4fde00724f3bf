"""Check the guards of a spec before anything is computed. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from audit import guards
from audit.errors import SpecError
from audit.filters.nudenet_filter_parameters import NudeNetFilterParameters
from audit.filters.parameters import FilterParameters
from audit.guards.egloce_parameters import EgloceParameters
from audit.guards.irece_parameters import IreceParameters
from audit.guards.parameters import Parameters
from audit.guards.sld_parameters import SldParameters
from audit.plan.preflight.clip_models import check_clip, check_tokens, too_long
from audit.plan.preflight.irece import check_attention, check_composed
from audit.plan.resolved import Missing, Resolved
from audit.plan.samplers import timesteps
from audit.spec.sampler import Sampler
from audit.spec.sections import Concept, Defence
from audit.weights.references import ModelRef
from audit.weights.schedulers import own_scheduler

_ENERGY = "energy model"


def check_stacks(resolved: Resolved) -> None:
    """Check that the guards of each defence work together in their order. Raises `SpecError` otherwise."""
    for defence in resolved.spec.defences:
        _check_repeats(defence)


def check_guards(resolved: Resolved, backbone: ModelRef) -> None:
    """Check that every guard fits the backbone, the schedules and the detectors.

    Raises `SpecError` for one that does not, and `CheckpointError` for a configuration or a tokenizer that cannot be
    read.
    """
    tokenizer, energies = resolved.tokenizers.backbone(backbone), resolved.energy_digests()
    for defence in resolved.spec.defences:
        for guard in defence.guards:
            parameters = guards.parse(guard)
            where = f"defences.{defence.name}"
            for concept in resolved.spec.concepts:
                described = guards.resolve(guard, concept, energies)["parameters"]
                check_tokens(backbone, tokenizer, parameters.texts(described), where)
                if isinstance(parameters, IreceParameters):
                    check_composed(described, backbone, resolved.tokenizers, where)
            for scenario in resolved.spec.scenarios:
                _check_schedule(parameters, scenario.name, scenario.sampler, backbone, where)
            if isinstance(parameters, FilterParameters):
                _check_filter(parameters, resolved, where)
                _check_filter_s_judges(parameters, resolved, where)
            if isinstance(parameters, IreceParameters):
                check_attention(parameters, backbone, where)
            if isinstance(parameters, EgloceParameters):
                _check_energy(parameters, resolved, backbone, where)


def _check_filter(parameters: FilterParameters, resolved: Resolved, where: str) -> None:
    known = {role: resolved.energies[name] for role, name in parameters.models().items()}
    models = {role: model for role, model in known.items() if not isinstance(model, Missing)}
    parameters.check(models, resolved.spec.concepts, where)


def _check_filter_s_judges(parameters: FilterParameters, resolved: Resolved, where: str) -> None:
    """Check that a judge of the gate reads with another network than the filter: by its own, what is let through is clear."""
    used = {resolved.energies[name].sha256 for name in parameters.models().values()}
    kinds = {detector.name: detector.kind for detector in resolved.spec.detectors}

    def same(judge: str) -> bool:
        network = resolved.networks.get(f"detector {judge!r}")
        by_package = isinstance(parameters, NudeNetFilterParameters) and kinds[judge] == "nudenet"
        return by_package or (isinstance(network, ModelRef) and network.sha256 in used)

    if all(same(judge) for judge in resolved.spec.gate.judges):
        raise SpecError(
            "each judge of the gate reads with this filter's own network, so that whatever the filter lets through is clear",
            where=where,
            next_step="let a detector with another network judge too (gate.judges), or give the filter another model",
        )


def check_energy_prompts(resolved: Resolved, prompts: Sequence[str]) -> None:
    """Check that the energy models of all guards read in full the prompts that EGLOCE has to retain."""
    for (defence, prompt), problem in energy_problems(resolved, prompts).items():
        _require_whole({prompt: problem}, f"defences.{defence}")


def _require_whole(problems: Mapping[str, str], where: str) -> None:
    for problem in problems.values():
        raise SpecError(problem, where=where, next_step="shorten the template, or set retention to 0")


def energy_problems(resolved: Resolved, prompts: Sequence[str]) -> dict[tuple[str, str], str]:
    """Return why an energy model cannot read in full a prompt that EGLOCE has to retain, by (defence, prompt).

    Missing energy models are skipped.
    """
    unread: dict[tuple[str, str], str] = {}
    for defence in resolved.spec.defences:
        for guard in defence.guards:
            parameters = guards.parse(guard)
            if isinstance(parameters, EgloceParameters) and parameters.retention > 0:
                energy = resolved.energies[parameters.energy_name]
                problems = {} if isinstance(energy, Missing) else too_long(resolved, energy, prompts, _ENERGY)
                unread |= {(defence.name, prompt): problem for prompt, problem in problems.items()}
    return unread


def _check_repeats(defence: Defence) -> None:
    names = [guard.name for guard in defence.guards]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise SpecError(
            f"guard {twice[0]!r} is listed twice in one defence: the second would undo or double the first",
            where=f"defences.{defence.name}",
            next_step="list each guard once; make two defences to compare two settings",
        )
    if "sld" in names and "negative-prompt" in names and names.index("sld") < names.index("negative-prompt"):
        raise SpecError(
            "guard 'sld' steers away from the unconditional prediction, which 'negative-prompt' replaces after it",
            where=f"defences.{defence.name}",
            next_step="list negative-prompt before sld",
        )
    if "irece" in names and "egloce" in names and names.index("egloce") < names.index("irece"):
        raise SpecError(
            "guard 'egloce' would optimise latents that 'irece' overwrites at the same step",
            where=f"defences.{defence.name}",
            next_step="list irece before egloce",
        )


def _check_schedule(parameters: Parameters, scenario: str, sampler: Sampler, backbone: ModelRef, where: str) -> None:
    grid = timesteps(sampler, own_scheduler(backbone.path))
    runs = f"scenario {scenario!r} runs from {grid[0]} to {grid[-1]} in {len(grid)} steps"
    if isinstance(parameters, IreceParameters) and not grid[-1] <= parameters.t_star <= grid[0]:
        raise SpecError(
            f"guard irece: t_star {parameters.t_star} is outside the schedule: {runs}",
            where=where,
            next_step=f"choose t_star between {grid[-1]} and {grid[0]}",
        )
    if isinstance(parameters, EgloceParameters):
        start, end = parameters.window
        if not any(end <= t <= start for t in grid):
            raise SpecError(
                f"guard egloce: no timestep of the schedule lies in the window {[start, end]}: {runs}",
                where=where,
                next_step="widen the window",
            )
    if isinstance(parameters, SldParameters) and sampler.guidance != 1.0:
        warmup = parameters.settings()["warmup_steps"]
        if warmup >= len(grid):
            raise SpecError(
                f"guard sld: a warm-up of {warmup} steps leaves nothing of the {len(grid)} of scenario {scenario!r}",
                where=where,
                next_step="set warmup_steps below the sampler's steps",
            )


def _check_energy(parameters: EgloceParameters, resolved: Resolved, backbone: ModelRef, where: str) -> None:
    """Check EGLOCE's energy model, which must not be a detector's: a network that a guard optimised against judges nothing."""
    ref = check_clip(
        resolved, backbone, parameters.energy, parameters.energy_name,
        who="guard egloce", field="energy", what=_ENERGY, where=where,
    )  # fmt: skip
    if ref is None:
        return
    phrases = [phrase for concept in resolved.spec.concepts for phrase in _phrases(parameters, concept)]
    templates = [template.replace("{phrase}", phrase) for phrase in phrases for template in parameters.templates]
    check_tokens(ref, resolved.tokenizers.of(ref.path), phrases, where)
    _require_whole(too_long(resolved, ref, templates, _ENERGY), where)


def _phrases(parameters: EgloceParameters, concept: Concept) -> list[str]:
    return [concept.phrase, *(concept.synonyms if parameters.synonyms else ())]
