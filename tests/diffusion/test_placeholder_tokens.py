"""Learned words: what the text encoder reads, and that guards see the true token positions."""

from __future__ import annotations

import pytest
import torch

from audit.checkpoints.spm import Transport
from audit.diffusion.pipeline import Pipeline
from audit.diffusion.placeholder_tokens import encode, encode_embeddings, without_learned
from audit.errors import CheckpointError
from audit.guards.energy import load_energy
from audit.weights.references import resolve_model
from tests.guards.making import make, run


def of_word(pipeline: Pipeline, word: str) -> torch.Tensor:
    """The input embeddings (n, D) of a text's own tokens."""
    ids = pipeline.tokenizer(word, add_special_tokens=False, return_tensors="pt")["input_ids"][0]
    return pipeline.text_encoder.embeddings.token_embedding(ids).detach()


@pytest.mark.parametrize("eos", [None, 2])
def test_from_embeddings_on_the_encoder_does_what_it_does_from_ids(pipeline: Pipeline, eos: int | None) -> None:
    encoder, tokens = pipeline.text_encoder, pipeline.tokens(["a b", "cde", ""])
    with pytest.MonkeyPatch.context() as patch, torch.no_grad():
        if eos is not None:
            patch.setattr(encoder, "eos_token_id", eos)  # as configurations of 2023 and before have it
        usual = encoder(tokens.ids)
        made = encode_embeddings(encoder, tokens.ids, encoder.embeddings.token_embedding(tokens.ids))
    assert torch.equal(made.last_hidden_state, usual.last_hidden_state)
    assert torch.equal(made.pooler_output, usual.pooler_output)


@pytest.mark.parametrize("text", ["a photo of {}", "{}", "{} a", "a {} b {}"])
def test_a_learned_word_that_holds_a_words_own_embeddings_is_that_word(pipeline: Pipeline, text: str) -> None:
    before = {name: tensor.clone() for name, tensor in pipeline.text_encoder.state_dict().items()}
    size = len(pipeline.tokenizer)
    word = pipeline.vocabulary.add(of_word(pipeline, "ab"))
    plain, learned = pipeline.tokens([text.format("ab", "ab")]), pipeline.tokens([text.format(word, word)])
    assert learned.lengths == plain.lengths and len(learned.learned) == 2 * text.count("{}")
    with torch.no_grad():
        first, second = encode(pipeline.text_encoder, plain), encode(pipeline.text_encoder, learned)
    assert torch.equal(first.last_hidden_state, second.last_hidden_state)
    assert torch.equal(first.pooler_output, second.pooler_output)
    assert len(pipeline.tokenizer) == size
    assert all(torch.equal(before[name], tensor) for name, tensor in pipeline.text_encoder.state_dict().items())


def test_texts_differ_when_their_embeddings_do(pipeline: Pipeline) -> None:
    vectors = torch.ones(1, 16)
    first, again = pipeline.vocabulary.add(vectors), pipeline.vocabulary.add(vectors[0])
    other = pipeline.vocabulary.add(vectors * 2)
    assert first == again != other
    states = pipeline.encode_text([f"a {first}", f"a {other}"])
    assert not torch.equal(states[0], states[1])
    assert without_learned(f"a {first} b") == "a b"


def test_a_prompt_with_too_many_vectors_is_refused(pipeline: Pipeline) -> None:
    word = pipeline.vocabulary.add(torch.ones(14, 16))
    pipeline.encode_text([word])
    with pytest.raises(CheckpointError, match="17 tokens"):
        pipeline.encode_text([f"a {word}"])


def test_safree_projects_learned_tokens_at_their_own_positions(pipeline: Pipeline) -> None:
    word = pipeline.vocabulary.add(of_word(pipeline, "ab"))
    guards = [make(pipeline, "safree", mask="b", alpha=0.0) for _ in range(2)]  # the farthest token is always replaced
    made = [run(pipeline, [g], [t], 3.0, steps=2) for g, t in zip(guards, ["ab", word], strict=True)]
    first, second = (sampled.reports[0][0] for sampled in made)
    assert first.measures["tokens_replaced"] == second.measures["tokens_replaced"] > 0
    assert first.facts["replaced"] in ("a", "b", "a b")
    assert set(second.facts["replaced"].split()) == {"<learned>"}
    assert first.measures == pytest.approx(second.measures)
    assert torch.allclose(made[0].latents, made[1].latents)


@pytest.mark.parametrize("name", ["negative-prompt", "sld", "irece"])
def test_guards_that_read_the_defenders_own_texts_work_on_learned_prompts(pipeline: Pipeline, name: str) -> None:
    word = pipeline.vocabulary.add(torch.randn(2, 16, generator=torch.Generator().manual_seed(0)))
    (report,) = run(pipeline, [make(pipeline, name)], [f"a {word}"], 3.0, steps=2).reports[0]
    assert report.failure is None


@pytest.mark.parametrize("gradient", ["full", "stop"])
def test_egloce_optimises_learned_prompts_and_retains_what_else_they_say(pipeline: Pipeline, gradient: str) -> None:
    """A prompt of learned words alone leaves nothing to retain but the picture that it was heading for."""
    word = pipeline.vocabulary.add(torch.randn(2, 16, generator=torch.Generator().manual_seed(0)))
    texts, window = [f"a star {word}", word], [501, 501]
    guard = make(pipeline, "egloce", energy="testbed/energy", gradient=gradient, iterations=1, window=window)
    made, plain = run(pipeline, [guard], texts, 3.0, steps=2), run(pipeline, [], texts, 3.0, steps=2)
    reports = [report for (report,) in made.reports]
    assert [report.failure for report in reports] == [None, None]
    assert [report.timesteps for report in reports] == [(501,), (501,)]
    assert [report.facts["retains"] for report in reports] == ["prompt", "picture"]
    assert torch.isfinite(made.latents).all() and (made.latents != plain.latents).flatten(1).any(1).all()


def test_egloces_energy_leaves_learned_words_out() -> None:
    energy = load_energy(resolve_model("testbed/energy"), "cpu", ("a photo of a {phrase}",), ("ring",))
    known, learned = energy.prompt("a photo of a star"), energy.prompt("a photo of a star <learned-0123456789abcdef>")
    assert known is not None and learned is not None and torch.equal(known, learned)
    assert energy.prompt("<learned-0123456789abcdef>") is None


def test_spm_counts_the_words_of_a_prompt_and_not_the_learned_ones_name(pipeline: Pipeline) -> None:
    transport = object.__new__(Transport)
    transport._pipeline = pipeline
    word = pipeline.vocabulary.add(torch.ones(1, 16))
    assert transport._words(f"a {word}") == transport._words("a")
