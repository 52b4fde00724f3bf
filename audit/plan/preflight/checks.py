"""Run every check of a spec's inputs, in order, before it is planned."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import ParamSpec, TypeVar

from audit.errors import AuditError, SpecError
from audit.plan.benign import require_blocking_judged, require_judged
from audit.plan.instruments import rules_of
from audit.plan.preflight.checkpoints import check_checkpoint, check_personalisations, claims
from audit.plan.preflight.cycles import require_stages_judged
from audit.plan.preflight.embeddings import check_learning, unusable_embeddings
from audit.plan.preflight.families import check_families
from audit.plan.preflight.guards import check_guards, check_stacks
from audit.plan.preflight.guidance import check_guidance
from audit.plan.preflight.inputs import unusable_prompts
from audit.plan.preflight.prompts import check_phrases, usable_prompt_sets
from audit.plan.preflight.samplers import check_samplers
from audit.plan.preflight.training_sizes import check_training_sizes
from audit.plan.preflight.unusable import Checked, EmbeddingUse, Unusable
from audit.plan.resolved import Kind, Problem, Resolved
from audit.weights.references import ModelRef

P = ParamSpec("P")
T = TypeVar("T")


def check(resolved: Resolved) -> Checked:
    """Return the inputs of a spec that can only end unassessed, and the problems of files that are present.

    Checks that need the backbone are skipped where it is missing. Raises the `AuditError` of a mistake of the spec.
    """
    ask = _Questions()
    prompts: Mapping[str, SpecError] | None = None
    embeddings: Mapping[EmbeddingUse, SpecError] | None = None
    ask.whether("model", check_stacks, resolved)
    if isinstance(resolved.backbone, ModelRef):
        backbone = resolved.backbone
        ask.whether("model", check_families, resolved, backbone)
        ask.whether("model", check_training_sizes, resolved, backbone)
        ask.whether("model", check_phrases, resolved, backbone)
        ask.whether("model", check_samplers, resolved, backbone)
        ask.whether("model", check_guards, resolved, backbone)
        ask.whether("model", check_guidance, resolved, backbone)
        for name, claim in claims(resolved):
            ask.whether("checkpoint", check_checkpoint, resolved.checkpoints[name], claim, backbone)
        check_personalisations(resolved, backbone)
        prompts = ask.whether("model", unusable_prompts, resolved, backbone)
        ask.whether("model", check_learning, resolved, backbone)
        embeddings = ask.whether("model", unusable_embeddings, resolved, backbone)
    sets = usable_prompt_sets(resolved)
    require_judged(resolved.spec, rules_of(resolved), resolved.benign)
    require_stages_judged(resolved.spec, rules_of(resolved), resolved.benign)
    require_blocking_judged(resolved.spec)
    return Checked(
        Unusable(embeddings or {}, resolved.pictures.empty, prompts or {}),
        sets,
        tuple(ask.problems),
    )


class _Questions:
    """A collector of problems with files that are present; a mistake of the spec is raised instead."""

    def __init__(self) -> None:
        self.problems: list[Problem] = []

    def whether(self, kind: Kind, question: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T | None:
        """Return the answer; None where the question ends in an error about files, which becomes a problem."""
        try:
            return question(*args, **kwargs)
        except AuditError as error:
            problem = Problem.of(kind, error)
            if problem.mistake:
                raise
            if problem not in self.problems:
                self.problems.append(problem)
            return None
