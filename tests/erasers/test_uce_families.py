"""UCE beyond one CLIP and a UNet: which states it edits on SDXL, Stable Diffusion 3 and Flux, and by which matrices."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest
import torch

from audit.checkpoints.key_sets import POOLED_ENTRY, key_set, matching_set
from audit.diffusion.pipeline import Pipeline
from audit.erasers.token_states import pooled_states, token_states
from audit.erasers.uce import edited_matrix, erase
from audit.erasers.uce_parameters import METHOD, UceParameters
from audit.errors import SpecError
from audit.progress import Session
from audit.spec.sections import Concept
from tests.erasers.conftest import CONCEPT
from tests.erasers.test_uce import residual

Load = Callable[[str], Pipeline]
TAIL = UceParameters(tokens="tail")
CPU = torch.device("cpu")


def clip_states(pipeline: Pipeline, text: str) -> torch.Tensor:
    """What the CLIPs make of a text (L, D) before their last layers, side by side."""
    read = [clip.read([text], pipeline.vocabulary) for clip in pipeline.encoders.clips]
    return torch.cat([one.penultimate[0] for one in read], -1)


def test_sdxl_edits_the_joint_states_and_never_the_pooled_ones(backbone_of: Load) -> None:
    pipeline = backbone_of("sdxl")
    _, edit = token_states(pipeline, [CONCEPT], UceParameters())
    assert torch.equal(edit.erase, clip_states(pipeline, "abc")[3:4])
    assert torch.equal(edit.guide, clip_states(pipeline, "")[:1])  # the empty text as encoded, not SDXL's zeros
    assert edit.guide.any()
    _, edit = token_states(pipeline, [CONCEPT], TAIL)
    assert torch.equal(edit.erase, clip_states(pipeline, "abc")[3:])
    assert len(edit.preserve) == 2 * pipeline.tokenizer.model_max_length


def test_stable_diffusion_3_edits_clip_s_word_and_t5_s(backbone_of: Load) -> None:
    pipeline = backbone_of("sd3")
    assert pipeline.t5 is not None
    options = UceParameters(templates=("q {phrase} r",))
    texts, edit = token_states(pipeline, [CONCEPT], options)
    assert texts == ("abc", "q abc r")
    expected = []
    # T5 begins each word with a piece of its own, and has no start token.
    for text, word, piece in (("abc", 3, 3), ("q abc r", 4, 5)):
        clip = clip_states(pipeline, text)[word]
        expected += [torch.nn.functional.pad(clip, (0, 64 - len(clip))), pipeline.t5.states([text], CPU)[0, piece]]
    assert torch.equal(edit.erase, torch.stack(expected))
    assert torch.equal(edit.guide[3], pipeline.t5.states([""], CPU)[0, 0])
    length = pipeline.tokenizer.model_max_length
    _, edit = token_states(pipeline, [CONCEPT], TAIL)
    assert len(edit.erase) == length - 3 + pipeline.t5.length - 3 and len(edit.preserve) == 2 * (
        length + pipeline.t5.length
    )
    without = dataclasses.replace(pipeline, t5=dataclasses.replace(pipeline.t5, encoder=None))
    assert len(token_states(without, [CONCEPT], UceParameters())[1].erase) == 1


def test_flux_edits_t5_s_word_and_clip_s_pooled_state(backbone_of: Load) -> None:
    pipeline = backbone_of("flux")
    assert pipeline.t5 is not None
    _, edit = token_states(pipeline, [CONCEPT], UceParameters())
    assert torch.equal(edit.erase, pipeline.t5.states(["abc"], CPU)[:, 3])
    pooled = pooled_states(pipeline, [CONCEPT], UceParameters(), 16)
    read = [pipeline.encoders.clips[0].read([text], pipeline.vocabulary).pooler_output for text in ("abc", "", "xyz")]
    assert all(torch.equal(*pair) for pair in zip((pooled.erase, pooled.guide, pooled.preserve), read, strict=True))


def test_an_empty_guide_in_a_template_is_its_last_word(backbone_of: Load) -> None:
    pipeline = backbone_of("flux")
    assert pipeline.t5 is not None
    _, edit = token_states(pipeline, [CONCEPT], UceParameters(wrap_guide=True, templates=("q {phrase}",)))
    assert torch.equal(edit.guide[1], pipeline.t5.states(["q "], CPU)[0, 1])


@pytest.mark.parametrize("family", ["sd3", "flux"])
@pytest.mark.parametrize("preset", ["official", "official-2023"])
def test_the_entries_of_text_solve_the_closed_form(backbone_of: Load, family: str, preset: str) -> None:
    pipeline, parameters = backbone_of(family), METHOD.resolve(preset, {})
    options = UceParameters(**parameters)
    options = options.model_copy(update={"preserve_scale": options.scale(len(CONCEPT.neighbours))})
    made, state = erase(pipeline, [CONCEPT], parameters, Session()), pipeline.unet.state_dict()
    assert set(made.tensors) == key_set("TEXT_ENTRY", state) == {"context_embedder.weight", POOLED_ENTRY}
    assert matching_set(set(made.tensors), set(state)) == "TEXT_ENTRY"
    width = state[POOLED_ENTRY].shape[1]
    edits = {
        "context_embedder.weight": token_states(pipeline, [CONCEPT], options)[1],
        POOLED_ENTRY: pooled_states(pipeline, [CONCEPT], options, width),
    }
    for name, matrix in made.tensors.items():
        exact = edited_matrix(state[name].double(), edits[name], options)
        assert residual(exact, state[name], edits[name], options) < 1e-9
        torch.testing.assert_close(matrix, exact.float())
        moved = (matrix - state[name]) @ edits[name].erase.T
        assert moved.norm() > 0.1 * (state[name] @ (edits[name].guide - edits[name].erase).T).norm()


def test_a_phrase_that_t5_reads_within_a_word_is_refused(backbone_of: Load) -> None:
    concept = Concept(name="abc", phrase="abc")
    with pytest.raises(SpecError, match="melts into other words"):
        token_states(backbone_of("flux"), [concept], UceParameters(templates=("{phrase}s",)))
