"""UCE's closed form: the normal equation holds, preserved concepts stay, and an edit that does nothing is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from audit.backbones import Pipeline, load_pipeline
from audit.checkpoints import apply_weights
from audit.erasers.uce import Edit, edited_matrix, erase
from audit.erasers.uce_parameters import UceParameters, resolve
from audit.errors import CheckpointError, SpecError
from audit.model_refs import resolve_model
from audit.spec import Concept

GENERATOR = torch.Generator().manual_seed(0)


@pytest.fixture(scope="module")
def pipeline(tiny_folder: Path) -> Pipeline:
    return load_pipeline(resolve_model(str(tiny_folder)), torch.device("cpu"))


def random_edit() -> tuple[torch.Tensor, Edit]:
    weight = torch.randn(12, 8, generator=GENERATOR, dtype=torch.float64)
    rows = [torch.randn(n, 8, generator=GENERATOR, dtype=torch.float64) for n in (2, 2, 3)]
    return weight, Edit(*rows)


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


def test_erased_states_map_to_the_guide_and_preserved_ones_stay() -> None:
    weight, edit = random_edit()
    options = UceParameters(regularisation=1e-6)
    matrix = edited_matrix(weight, edit, options)
    torch.testing.assert_close(matrix @ edit.erase.T, weight @ edit.guide.T, rtol=0, atol=1e-3)
    torch.testing.assert_close(matrix @ edit.preserve.T, weight @ edit.preserve.T, rtol=0, atol=1e-3)


@pytest.mark.parametrize("preset", ["official", "testbed"])
def test_only_cross_attention_keys_and_values_change(pipeline: Pipeline, preset: str) -> None:
    concept = Concept(name="abc", phrase="abc", neighbours=("xyz",))
    weights = erase(pipeline, [concept], resolve(preset, {}))
    assert weights
    assert all(name.endswith(("attn2.to_k.weight", "attn2.to_v.weight")) for name in weights)
    before = {name: tensor.clone() for name, tensor in pipeline.unet.state_dict().items()}
    erased, footprint = apply_weights(pipeline.unet, weights, "test")
    after = erased.state_dict()
    differing = {name for name in before if not torch.equal(before[name], after[name])}
    assert differing == set(weights)
    assert footprint.tensors == len(weights)
    assert 0 < footprint.relative_norm < 10
    assert all(torch.equal(before[n], t) for n, t in pipeline.unet.state_dict().items()), "the backbone was changed"


def test_an_edit_that_changes_nothing_is_refused(pipeline: Pipeline) -> None:
    name = next(n for n in pipeline.unet.state_dict() if n.endswith("attn2.to_k.weight"))
    with pytest.raises(CheckpointError, match="nothing was erased"):
        apply_weights(pipeline.unet, {name: pipeline.unet.state_dict()[name].clone()}, "test")


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({}, "empty"),
        ({"wrong.name": torch.zeros(1)}, "does not have"),
        ({"conv_in.bias": torch.zeros(3)}, "shape"),
        ({"conv_in.bias": torch.full((8,), torch.nan)}, "NaN"),
    ],
)
def test_weights_that_do_not_fit_are_refused(
    pipeline: Pipeline, weights: dict[str, torch.Tensor], message: str
) -> None:
    with pytest.raises(CheckpointError, match=message):
        apply_weights(pipeline.unet, weights, "test")


def test_a_phrase_without_known_tokens_is_refused(pipeline: Pipeline) -> None:
    with pytest.raises(SpecError, match="no token"):
        erase(pipeline, [Concept(name="digits", phrase="123")], resolve("official", {}))


def test_unknown_parameters_and_presets_are_refused() -> None:
    with pytest.raises(SpecError, match="no preset"):
        resolve("sdxl", {})
    with pytest.raises(SpecError, match="regularisation"):
        resolve(None, {"regularisation": 0})
    with pytest.raises(SpecError, match="strength"):
        resolve(None, {"strength": 1})
