"""What can be said against the embedding attacks of a spec before anything is computed."""

from __future__ import annotations

from pathlib import Path

from audit.attacks.embedding_cases import learning
from audit.attacks.embedding_files import check_embedding
from audit.attacks.parameters import MARK
from audit.errors import SpecError
from audit.model_refs import ModelRef
from audit.prompt_lengths import load_tokenizer
from audit.scenarios import EmbeddingScenario
from audit.spec import Concept, Spec


def written_out(spec: Spec, backbone: ModelRef) -> list[str]:
    """The templates of every embedding scenario with as many one-token words as their embeddings have vectors.

    Raises `SpecError` for a file that this backbone cannot use.
    """
    texts = []
    for scenario in spec.scenarios:
        if isinstance(scenario, EmbeddingScenario) and scenario.personalisation is None:
            vectors = max(_vectors(scenario, concept, backbone) for concept in spec.concepts)
            learned = learning(scenario).templates if scenario.embedding is None else ()
            texts += [text.replace(MARK, " ".join(["a"] * vectors)) for text in (*scenario.templates, *learned)]
    return texts


def _vectors(scenario: EmbeddingScenario, concept: Concept, backbone: ModelRef) -> int:
    if scenario.embedding is not None:
        return len(check_embedding(Path(scenario.files(concept.name)[concept.name]), backbone).vectors)
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
    words = {word.lower() for text in (concept.name, concept.phrase, *concept.synonyms) for word in text.split()}
    if p.initial.lower() in words:
        raise SpecError(
            f"an embedding that begins at the word {p.initial!r} attacks by text, not by what is learned",
            where=where,
            next_step="name a neutral word, such as object",
        )
    return p.tokens
