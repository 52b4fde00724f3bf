"""UCE's closed form: the normal equation holds, preserved concepts stay, and only keys and values change."""

from __future__ import annotations

import torch

from audit.diffusion.pipeline import Pipeline
from audit.erasers.token_states import Edit, token_states
from audit.erasers.uce import edited_matrix, erase
from audit.erasers.uce_parameters import METHOD, UceParameters
from audit.progress import Session
from audit.spec.sections import Concept
from tests.erasers.conftest import CONCEPT, same, weights

GENERATOR = torch.Generator().manual_seed(0)


def random_edit() -> tuple[torch.Tensor, Edit]:
    weight = torch.randn(12, 8, generator=GENERATOR, dtype=torch.float64)
    rows = [torch.randn(n, 8, generator=GENERATOR, dtype=torch.float64) for n in (2, 2, 3)]
    return weight, Edit(*rows)


def residual(matrix: torch.Tensor, weight: torch.Tensor, edit: Edit, options: UceParameters) -> float:
    """The largest entry of the normal equation, W' (lambda I + ...) - (lambda W + ...), in float64."""
    matrix, w = matrix.double(), weight.double()
    erased, guide, kept = edit.erase.double(), edit.guide.double(), edit.preserve.double()
    left = options.regularisation * matrix + options.erase_scale * (matrix @ erased.T) @ erased
    left = left + options.preserve_scale * (matrix @ kept.T) @ kept
    right = options.regularisation * w + options.erase_scale * (w @ guide.T) @ erased
    right = right + options.preserve_scale * (w @ kept.T) @ kept
    return float((left - right).abs().max())


def test_the_edit_is_the_minimum_of_its_objective() -> None:
    weight, edit = random_edit()
    options = UceParameters(regularisation=0.5, erase_scale=2.0, preserve_scale=3.0)
    matrix = edited_matrix(weight, edit, options).requires_grad_()
    loss = (
        options.erase_scale * (matrix @ edit.erase.T - weight @ edit.guide.T).pow(2).sum()
        + options.preserve_scale * ((matrix - weight) @ edit.preserve.T).pow(2).sum()
        + options.regularisation * (matrix - weight).pow(2).sum()
    )
    loss.backward()
    assert matrix.grad is not None
    assert matrix.grad.abs().max() < 1e-10


def test_every_edited_matrix_of_a_backbone_solves_the_closed_form(pipeline: Pipeline) -> None:
    for preset in ("official", "testbed"):
        parameters = METHOD.resolve(preset, {})
        options = UceParameters(**parameters)
        _, edit = token_states(pipeline, [CONCEPT], options)
        made = erase(pipeline, [CONCEPT], parameters, Session())
        state = pipeline.unet.state_dict()
        assert len(made.tensors) == sum("attn2.to_k" in name or "attn2.to_v" in name for name in state)
        for name, matrix in made.tensors.items():
            exact = edited_matrix(state[name].double(), edit, options)
            assert residual(exact, state[name], edit, options) < 1e-10
            torch.testing.assert_close(matrix, exact.float())


def test_erased_states_map_to_the_guide_and_preserved_ones_stay() -> None:
    weight, edit = random_edit()
    options = UceParameters(regularisation=1e-6)
    matrix = edited_matrix(weight, edit, options)
    torch.testing.assert_close(matrix @ edit.erase.T, weight @ edit.guide.T, rtol=0, atol=1e-3)
    torch.testing.assert_close(matrix @ edit.preserve.T, weight @ edit.preserve.T, rtol=0, atol=1e-3)


def test_preserved_concepts_move_within_the_bound_and_less_than_without(pipeline: Pipeline) -> None:
    """Where the objective is least it is at most what W itself costs: s_p ||(W' - W) c_p||^2 <= s_e ||W c_e - v||^2."""
    moved = {}
    for scale in (0.01, 100.0):
        options = UceParameters(preserve_scale=scale)
        _, edit = token_states(pipeline, [CONCEPT], options)
        moved[scale] = 0.0
        for name, weight in pipeline.unet.state_dict().items():
            if not name.endswith(("attn2.to_k.weight", "attn2.to_v.weight")):
                continue
            w, kept = weight.double(), edit.preserve.double()
            matrix = edited_matrix(w, edit, options)
            shift = float(((matrix - w) @ kept.T).pow(2).sum())
            cost = float((w @ (edit.erase - edit.guide).double().T).pow(2).sum())
            assert scale * shift <= options.erase_scale * cost
            moved[scale] += shift
    assert moved[100.0] < 1e-3 * moved[0.01]


def test_several_concepts_are_all_erased_and_never_preserved(pipeline: Pipeline) -> None:
    other = Concept(name="xyz", phrase="xyz", neighbours=("abc", "klm"))
    options = UceParameters()
    texts, edit = token_states(pipeline, [CONCEPT, other], options)
    assert texts == ("abc", "xyz")
    assert len(edit.erase) == 2 and len(edit.preserve) == 1
    made = erase(pipeline, [CONCEPT, other], options.model_dump(), Session())
    assert made.preserved == ("klm",)
    assert made.filename == "uce-abc-xyz.safetensors"


def test_the_backbone_stays_as_it_was(pipeline: Pipeline) -> None:
    before = weights(pipeline)
    made = erase(pipeline, [CONCEPT], METHOD.resolve(None, {}), Session())
    assert same(before, weights(pipeline))
    assert all(not torch.equal(before[name], tensor) for name, tensor in made.tensors.items())


def test_tails_meet_word_at_word_and_end_at_end(pipeline: Pipeline) -> None:
    """The old official code's slices start at both last words; the end tokens are paired, and the longer tail is cut."""
    options = UceParameters(tokens="tail", guide="a dog")
    texts, edit = token_states(pipeline, [CONCEPT], options)
    assert texts == (CONCEPT.phrase,)
    own, guide = pipeline.encode_text([CONCEPT.phrase, options.guide]).cpu()
    ends = [
        pipeline.tokenizer(text)["input_ids"].index(pipeline.tokenizer.eos_token_id)
        for text in (texts[0], options.guide)
    ]
    count = len(guide) - (ends[1] - 1)
    assert torch.equal(edit.erase, own[ends[0] - 1 :][:count])
    assert torch.equal(edit.guide, guide[ends[1] - 1 :])
    assert torch.equal(edit.erase[1], own[ends[0]]) and torch.equal(edit.guide[1], guide[ends[1]])


def test_tails_preserve_the_null_prompt_and_whole_neighbours(pipeline: Pipeline) -> None:
    bare = CONCEPT.model_copy(update={"neighbours": ()})
    _, edit = token_states(pipeline, [bare], UceParameters(tokens="tail"))
    null = pipeline.encode_text([""])[0].cpu()
    assert torch.equal(edit.preserve, null)
    _, edit = token_states(pipeline, [CONCEPT], UceParameters(tokens="tail"))
    assert torch.equal(edit.preserve[: len(null)], null)
    assert len(edit.preserve) == (1 + len(CONCEPT.neighbours)) * len(null)


def test_a_neighbour_is_preserved_under_its_declared_phrase(pipeline: Pipeline) -> None:
    declared = CONCEPT.model_copy(update={"neighbours": ("other",), "neighbour_phrases": {"other": "xyz"}})
    _, edit = token_states(pipeline, [declared], UceParameters())
    _, named = token_states(pipeline, [CONCEPT.model_copy(update={"neighbours": ("xyz",)})], UceParameters())
    assert torch.equal(edit.preserve, named.preserve)
    assert erase(pipeline, [declared], METHOD.resolve(None, {}), Session()).preserved == ("other",)
