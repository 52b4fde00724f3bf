"""SAFREE against a direct numpy computation, and on the testbed's vocabulary."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from audit.diffusion.levels import Level
from audit.diffusion.pipeline import Pipeline
from audit.guards.safree import edited_until, kept_tokens, projected, projector
from tests.guards.making import conditioning, make, run


def rows(n: int, width: int = 12, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, width))


def projection(vectors: np.ndarray) -> np.ndarray:
    """By an orthonormal basis of the span: another way to the same matrix than the formula's pseudo-inverse."""
    u, s, _ = np.linalg.svd(vectors.T, full_matrices=False)
    basis = u[:, s > 1e-10 * s.max()]
    return basis @ basis.T


@pytest.mark.parametrize("n", [1, 3, 12, 20])
def test_the_projector_projects_onto_the_span(n: int) -> None:
    vectors = rows(n)
    found = projector(torch.from_numpy(vectors)).numpy()
    np.testing.assert_allclose(found, projection(vectors), atol=1e-8)


def test_a_dependent_set_of_concepts_has_the_span_of_its_parts() -> None:
    vectors = np.concatenate([rows(2), rows(2) * 3.0])
    np.testing.assert_allclose(projector(torch.from_numpy(vectors)).numpy(), projection(rows(2)), atol=1e-6)


@pytest.mark.parametrize("alpha", [0.0, 0.01, 0.3])
def test_kept_tokens_and_projections_equal_numpy(alpha: float) -> None:
    masked, concept, tokens = rows(5, seed=1), projection(rows(2, seed=2)), rows(9, seed=3)
    distances = [np.linalg.norm((np.eye(12) - concept) @ e) for e in masked]
    expected = [d < (1 + alpha) * np.mean(distances[:i] + distances[i + 1 :]) for i, d in enumerate(distances)]
    found = kept_tokens(torch.from_numpy(masked), torch.from_numpy(concept), alpha)
    assert found.tolist() == expected and len(set(expected)) == 2
    by_hand = np.stack([(np.eye(12) - concept) @ projection(masked) @ t for t in tokens])
    ours = projected(*(torch.from_numpy(a) for a in (tokens, concept, projection(masked))))
    np.testing.assert_allclose(ours.numpy(), by_hand, atol=1e-10)


def test_a_prompt_of_one_token_is_projected() -> None:
    assert kept_tokens(torch.ones(1, 4), torch.zeros(4, 4), 0.01).tolist() == [False]


@pytest.mark.parametrize(("beta", "until"), [(0.0, 0), (0.5333, 5), (0.7, 10), (1.0, 10)])
def test_self_validation_edits_longer_the_nearer_the_prompt_is(beta: float, until: int) -> None:
    assert edited_until(beta, 10.0, 2.5, 5.333) == until


def test_the_edit_is_the_direct_computation_on_the_text_encoder(testbed: Pipeline) -> None:
    """Masking, pooling, both projections and the merge, recomputed in numpy for one prompt."""
    text = "a photo of a ring and a square"
    tokenizer, encoder = testbed.tokenizer, testbed.text_encoder
    length = tokenizer.model_max_length
    ids = tokenizer(text, padding="max_length", max_length=length, return_tensors="pt")["input_ids"]
    count = len(tokenizer(text)["input_ids"]) - 2
    masked = ids.repeat(count, 1)
    for i in range(count):
        masked[i, 1 + i] = 0
    with torch.no_grad():
        pooled = encoder(masked).pooler_output.double().numpy()
        names = tokenizer(["ring", "hoop"], padding="max_length", max_length=length, return_tensors="pt")["input_ids"]
        concept = projection(encoder(names).pooler_output.double().numpy())
    states = testbed.encode_text([text])[0].double().numpy()
    distances = [np.linalg.norm(e - concept @ e) for e in pooled]
    away = (np.eye(len(concept)) - concept) @ projection(pooled)
    expected = states.copy()
    for i, d in enumerate(distances):
        if not d < 1.01 * np.mean(distances[:i] + distances[i + 1 :]):
            expected[1 + i] = away @ states[1 + i]
    guard = make(testbed, "safree", self_validation=False)
    given = conditioning(testbed, [text], 4.0)
    guard.begin(given, [1])
    from audit.diffusion.guard import Step

    found = guard.condition(given, Step(0, 1, Level.of(0.9), Level.of(1.0))).prompt[0]
    np.testing.assert_allclose(found.double().numpy(), expected, atol=2e-3)
    report = guard.report()[0]
    assert report.measures["tokens"] == count and report.measures["tokens_replaced"] >= 1


def test_the_concept_is_among_the_tokens_replaced(testbed: Pipeline) -> None:
    concepts = ["a photo of a ring", "a photo of a hoop"]
    guard = make(testbed, "safree", concepts=concepts, mask="a")
    ((report,),) = run(testbed, [guard], ["a photo of a ring"], 4.0, steps=5).reports
    assert report.facts["replaced"].split() == ["ring"]


def test_self_validation_ends_the_edit(testbed: Pipeline) -> None:
    guard = make(testbed, "safree", up_t=2.0, midpoint=-100.0)  # sigmoid saturates: until step index 2
    ((report,),) = run(testbed, [guard], ["a photo of a ring"], 4.0, steps=5).reports
    assert report.timesteps == (801, 601, 401)
