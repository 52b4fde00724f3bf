"""Check the embedding attacks of a spec before anything is computed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from audit.diffusion.text import check_prompts
from audit.errors import SpecError
from audit.names import folded
from audit.plan.embedding_cases import learning
from audit.plan.preflight.guards import check_energy_prompts
from audit.plan.preflight.prompts import unreadable_prompts
from audit.plan.preflight.unusable import EmbeddingUse
from audit.plan.resolved import EmbeddingFile, Resolved
from audit.spec.document import Spec
from audit.spec.scenarios import EmbeddingScenario
from audit.spec.sections import Concept
from audit.spec.templates import MARK
from audit.weights.references import ModelRef

if TYPE_CHECKING:
    from transformers import CLIPTokenizer


def check_learning(resolved: Resolved, backbone: ModelRef) -> None:
    """Check that every scenario that learns can begin, and that its templates can be read with all the vectors in them.

    Raises `SpecError` otherwise: templates do not name the concept, so that the mistake would cost every concept's
    cases.
    """
    tokenizer = resolved.tokenizers.backbone(backbone)
    texts = []
    for scenario in _scenarios(resolved):
        if scenario.embedding is None and scenario.personalisation is None:
            vectors = max(_vectors(scenario, concept, tokenizer) for concept in _learned(scenario, resolved.spec))
            texts += [_written(text, vectors) for text in (*scenario.templates, *learning(scenario).templates)]
    if texts:
        check_prompts(tokenizer, texts)
        check_energy_prompts(resolved, texts)


def unusable_embeddings(resolved: Resolved, backbone: ModelRef) -> dict[EmbeddingUse, SpecError]:
    """Return why embedding files of the spec cannot be used in its templates: bad files, and prompts that become too long.

    Missing files are skipped.
    """
    templates: dict[str, Sequence[str]] = {scenario.name: scenario.templates for scenario in _scenarios(resolved)}
    unusable: dict[EmbeddingUse, SpecError] = {}
    for (scenario, concept), file in resolved.embeddings.items():
        if isinstance(file, EmbeddingFile):
            problems = _problems(file.path, templates[scenario], resolved, backbone)
            unusable |= {(scenario, concept, text): error for text, error in problems.items()}
    return unusable


def _scenarios(resolved: Resolved) -> Iterator[EmbeddingScenario]:
    return (scenario for scenario in resolved.spec.scenarios if isinstance(scenario, EmbeddingScenario))


def _problems(path: Path, templates: Sequence[str], resolved: Resolved, backbone: ModelRef) -> dict[str, SpecError]:
    from audit.attacks.embedding_files import check_embedding  # imports torch

    try:
        vectors = len(check_embedding(path, backbone, resolved.tokenizers.backbone(backbone)).vectors)
    except SpecError as error:
        return dict.fromkeys(templates, error)
    written = {template: _written(template, vectors) for template in templates}
    unread = unreadable_prompts(resolved, backbone, list(written.values()))
    return {
        template: SpecError(
            f"with the {vectors} vectors of the embedding, {unread[text].what}",
            where=str(path),
            next_step="shorten the template, or bring an embedding of fewer vectors",
        )
        for template, text in written.items()
        if text in unread
    }


def _learned(scenario: EmbeddingScenario, spec: Spec) -> Iterator[Concept]:
    yield from spec.concepts
    if scenario.control_concept is not None:
        yield spec.concept(scenario.control_concept)


def _written(template: str, vectors: int) -> str:
    return template.replace(MARK, " ".join(["a"] * vectors))


def _vectors(scenario: EmbeddingScenario, concept: Concept, tokenizer: CLIPTokenizer) -> int:
    p = learning(scenario)
    ids = tokenizer(p.initial, add_special_tokens=False)["input_ids"]
    where = f"scenarios.{scenario.name}.parameters.initial"
    if len(ids) != 1 or tokenizer.unk_token_id in ids:
        raise SpecError(
            f"the initial word {p.initial!r} is no single token of this model's vocabulary",
            where=where,
            next_step="name a neutral word of one token, such as object",
        )
    words = {folded(word) for text in (concept.name, concept.phrase, *concept.synonyms) for word in text.split()}
    if folded(p.initial) in words:
        raise SpecError(
            f"an embedding that begins at the word {p.initial!r} attacks by text, not by what is learned",
            where=where,
            next_step="name a neutral word, such as object",
        )
    return p.tokens
