"""What can be said against the embedding attacks of a spec before anything is computed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from audit.attacks.embedding_files import check_embedding
from audit.diffusion.text import check_prompts, load_tokenizer
from audit.errors import SpecError
from audit.names import folded
from audit.plan.embedding_cases import file_digest, learning
from audit.plan.preflight.guards import check_energy_prompts
from audit.plan.preflight.prompts import unreadable_prompts
from audit.plan.preflight.unusable import EmbeddingUse
from audit.spec.document import Spec
from audit.spec.scenarios import EmbeddingScenario
from audit.spec.sections import Concept
from audit.spec.templates import MARK
from audit.weights import gaps
from audit.weights.references import ModelRef


def check_learning(spec: Spec, backbone: ModelRef) -> None:
    """Return when every scenario that learns can begin, and its templates can be read with all the vectors in them.

    Raises `SpecError` otherwise: templates do not name the concept, so that it would cost every concept's cases.
    """
    texts = _written_out(spec, backbone)
    if texts:
        check_prompts(backbone, texts)
        check_energy_prompts(spec, texts)


def _written_out(spec: Spec, backbone: ModelRef) -> list[str]:
    texts = []
    for scenario in spec.scenarios:
        if isinstance(scenario, EmbeddingScenario) and scenario.embedding is None and scenario.personalisation is None:
            vectors = max(_vectors(scenario, concept, backbone) for concept in spec.concepts)
            texts += [_written(text, vectors) for text in (*scenario.templates, *learning(scenario).templates)]
    return texts


def unusable_embeddings(spec: Spec, backbone: ModelRef) -> dict[EmbeddingUse, SpecError]:
    """Why the files that the spec brings cannot be used in its templates: bad files, and prompts that grow too long.

    Raises `AbsentFile` for a file that cannot be opened; inside `gaps.collecting` it is noted, and has no entry.
    """
    found: dict[EmbeddingUse, SpecError] = {}
    for scenario in spec.scenarios:
        if isinstance(scenario, EmbeddingScenario) and scenario.embedding is not None:
            for concept in spec.concepts:
                if not gaps.is_absent(file_digest(scenario, concept)):
                    path = Path(scenario.files(concept.name)[concept.name])
                    problems = _problems(path, scenario.templates, spec, backbone)
                    found |= {(scenario.name, concept.name, text): error for text, error in problems.items()}
    return found


def _problems(path: Path, templates: Sequence[str], spec: Spec, backbone: ModelRef) -> dict[str, SpecError]:
    try:
        vectors = len(check_embedding(path, backbone).vectors)
    except SpecError as error:
        return dict.fromkeys(templates, error)
    written = {template: _written(template, vectors) for template in templates}
    unread = unreadable_prompts(spec, backbone, list(written.values()))
    return {
        template: SpecError(
            f"with the {vectors} vectors of the embedding, {unread[text].what}",
            where=str(path),
            next_step="shorten the template, or bring an embedding of fewer vectors",
        )
        for template, text in written.items()
        if text in unread
    }


def _written(template: str, vectors: int) -> str:
    return template.replace(MARK, " ".join(["a"] * vectors))


def _vectors(scenario: EmbeddingScenario, concept: Concept, backbone: ModelRef) -> int:
    p = learning(scenario)
    tokenizer = load_tokenizer(backbone.path / "tokenizer")
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
