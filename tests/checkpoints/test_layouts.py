"""Every layout that an eraser's code writes is recognised by its content, measured, and changes what it should."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path

import pytest
import torch

from audit.checkpoints import ErasedModel, apply_artefact
from audit.checkpoints.footprint import ADAPTERS, SPM_LAYERS, TEXT_ENCODER
from audit.checkpoints.key_sets import key_set
from audit.diffusion.pipeline import Pipeline, noise_model
from tests.checkpoints.files import TABLE, State, bare

LATENT = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
TEXTS = ("a star", "xyz")


def predicted(pipeline: Pipeline, model: ErasedModel | None) -> torch.Tensor:
    encoder = model.text_encoder if model is not None else None
    reading = dataclasses.replace(pipeline, text_encoder=encoder) if encoder is not None else pipeline
    predict = noise_model(pipeline.unet) if model is None else model.noise_model(TEXTS)
    with torch.no_grad():
        return predict(LATENT, 500, reading.encode_text(TEXTS))


@pytest.mark.parametrize("row", TABLE)
def test_a_layout_is_recognised_and_applied(
    row: str, pipeline: Pipeline, unet: State, text: State, folder: Path
) -> None:
    write, layout, changed = TABLE[row]
    before = predicted(pipeline, None)
    model = apply_artefact(pipeline, str(write(folder, unet, text)))
    assert (model.artefact.layout.name, model.footprint.key_set) == (layout, changed)
    if changed:
        assert set(model.footprint.names) == key_set(changed, unet)
    assert not torch.equal(predicted(pipeline, model), before)
    assert torch.equal(predicted(pipeline, None), before), "the backbone was changed"


def test_the_changed_tensors_are_the_files_and_the_others_the_backbones(
    pipeline: Pipeline, unet: State, text: State, folder: Path
) -> None:
    model = apply_artefact(pipeline, str(TABLE["A1 esd-x"][0](folder, unet, text)))
    after = model.unet.state_dict()
    for name, tensor in unet.items():
        if name in model.footprint.names:
            torch.testing.assert_close(after[name], (tensor + 0.05).bfloat16().float(), rtol=0, atol=0)
        else:
            assert after[name].data_ptr() == tensor.data_ptr(), "an untouched tensor was copied"


def test_advunlearn_goes_into_the_text_encoder(pipeline: Pipeline, unet: State, text: State, folder: Path) -> None:
    """Trap 3: transformers 5 has no `text_model`, and a lenient load would change nothing."""
    lenient = copy.deepcopy(pipeline.text_encoder)
    old = {f"text_model.{name}": tensor + 0.05 for name, tensor in bare(text).items()}
    assert lenient.load_state_dict(old, strict=False).unexpected_keys
    assert all(torch.equal(tensor, text[name]) for name, tensor in lenient.state_dict().items())
    model = apply_artefact(pipeline, str(TABLE["J1"][0](folder, unet, text)))
    assert model.text_encoder is not None and set(model.footprint.groups) == {TEXT_ENCODER}
    for name, tensor in bare(model.text_encoder.state_dict()).items():
        torch.testing.assert_close(tensor, bare(text)[name] + 0.05)
    assert model.unet is not pipeline.unet and set(model.footprint.text_names) == set(bare(text))


def test_merged_adapters_act(pipeline: Pipeline, unet: State, text: State, folder: Path) -> None:
    """Trap 5: dropping the adapters, as `from_pretrained` does, would audit the backbone."""
    model = apply_artefact(pipeline, str(TABLE["C2"][0](folder, unet, text)))
    assert model.adapters is not None and len(model.artefact.adapters) == 64
    assert model.footprint.groups[ADAPTERS].relative_norm is None and not model.footprint.names
    before = predicted(pipeline, None)
    assert not torch.equal(predicted(pipeline, model), before)
    model.adapters.detach()
    assert torch.equal(predicted(pipeline, model), before)


def test_spm_acts_by_prompt(pipeline: Pipeline, unet: State, text: State, folder: Path) -> None:
    model = apply_artefact(pipeline, str(TABLE["I"][0](folder, unet, text)))
    assert model.transport is not None and set(model.footprint.groups) == {SPM_LAYERS}
    assert model.transport.multiplier("star") == pytest.approx(1.0)
    assert model.transport.multiplier("") < 1.0
    # gamma^2 * alpha / rank * up @ down, as if it were merged into the weights
    gamma = model.transport.multiplier("xyz")
    state = {n: t.clone() for n, t in unet.items()}
    for name in state:
        if ".attentions." in name and name.endswith(".weight") and state[name].dim() >= 2:
            state[name] += gamma**2 * 0.1 * 0.2
    merged = type(pipeline.unet).from_config(pipeline.unet.config)
    merged.load_state_dict(state)
    states = pipeline.encode_text(["xyz"])
    with torch.no_grad():
        expected = noise_model(merged.eval())(LATENT[:1], 500, states)
        found = model.noise_model(["xyz"])(LATENT[:1], 500, states)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)


def test_spm_gives_each_case_its_own_multiplier_in_both_branches(
    pipeline: Pipeline, unet: State, text: State, folder: Path
) -> None:
    model = apply_artefact(pipeline, str(TABLE["I"][0](folder, unet, text)))
    states = pipeline.encode_text(["", "", *TEXTS])
    with torch.no_grad():
        together = model.noise_model(TEXTS)(LATENT.repeat(2, 1, 1, 1), 500, states)
        for case, prompt in enumerate(TEXTS):
            one = model.noise_model([prompt])
            for row in (case, 2 + case):
                alone = one(LATENT[case : case + 1], 500, states[row : row + 1])
                torch.testing.assert_close(together[row : row + 1], alone, rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="prompts"):
        model.noise_model()


def test_a_half_precision_model_has_half_precision_additions(
    pipeline: Pipeline, unet: State, text: State, folder: Path
) -> None:
    model = apply_artefact(pipeline, str(TABLE["C1"][0](folder, unet, text)), dtype=torch.bfloat16)
    assert model.unet.dtype == torch.bfloat16 and pipeline.unet.dtype == torch.float32
    assert torch.isfinite(predicted(pipeline, model)).all()
