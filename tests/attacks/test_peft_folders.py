"""PEFT's own folders as attack inputs: read with the strength their configuration says, and nothing beyond a plain LoRA."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load

from audit.checkpoints.personalisation import resolve_personalisation
from audit.diffusion.pipeline import Pipeline
from audit.errors import CheckpointError
from tests.attacks import loras
from tests.attacks.loras import State
from tests.attacks.personalised import change_of, written


def peft_halves(unet: State) -> State:
    """A LoRA of the UNet by the names that it has in a model which PEFT has wrapped."""
    return {n.removeprefix("unet."): tensor for n, tensor in loras.lora_state(unet, loras.peft_name).items()}


def test_pefts_own_folder_acts_as_its_configuration_says(tmp_path: Path, pipeline: Pipeline, unet: State) -> None:
    plain = change_of(written(tmp_path / "plain.safetensors", loras.lora_state(unet)), pipeline).unet
    folder = loras.write_peft(tmp_path / "peft", peft_halves(unet), lora_alpha=6)
    for named in (folder, folder / "adapter_model.safetensors"):
        found = change_of(named, pipeline)
        assert set(found.unet) == set(plain) and not found.text
        assert all(torch.allclose(found.unet[n](), delta() * (6 / loras.RANK)) for n, delta in plain.items())
    digest = resolve_personalisation(str(folder)).files.sha256
    loras.write_peft(folder, peft_halves(unet), lora_alpha=3)
    assert resolve_personalisation(str(folder)).files.sha256 != digest  # the strength is part of what it is
    torch.save(load((folder / "adapter_model.safetensors").read_bytes()), folder / "adapter_model.bin")
    (folder / "adapter_model.safetensors").unlink()
    pickled = change_of(folder, pipeline).unet
    assert all(torch.allclose(pickled[n](), delta() * (3 / loras.RANK)) for n, delta in plain.items())


@pytest.mark.parametrize("prefix", ["text_model.", ""], ids=["transformers 4", "transformers 5"])
def test_pefts_folder_of_a_text_encoder_changes_the_text_encoder(
    tmp_path: Path, pipeline: Pipeline, prefix: str
) -> None:
    layer = f"{prefix}encoder.layers.0.self_attn.q_proj"
    halves = {f"{layer}.lora_A.weight": torch.ones(1, 16), f"{layer}.lora_B.weight": torch.full((16, 1), 0.5)}
    change = change_of(loras.write_peft(tmp_path / "te", halves, r=1, lora_alpha=1), pipeline)
    assert not change.unet and list(change.text) == ["encoder.layers.0.self_attn.q_proj.weight"]
    assert torch.equal(change.text["encoder.layers.0.self_attn.q_proj.weight"](), torch.full((16, 16), 0.5))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"use_dora": True}, "use_dora = True"),
        ({"use_rslora": True}, "use_rslora = True"),
        ({"alpha_pattern": {"to_q": 4}}, "alpha_pattern"),
        ({"modules_to_save": ["conv_in"]}, "modules_to_save"),
        ({"bias": "lora_only"}, "bias = 'lora_only'"),
        ({"init_lora_weights": "pissa_niter_4"}, "init_lora_weights = 'pissa"),
        ({"peft_type": "LOHA"}, "type 'LOHA'"),
        ({"lora_alpha": None}, "no lora_alpha"),
        ({"lora_alpha": 0}, "no positive number"),
        ({"r": 4}, "says r = 4"),
        (None, "is not beside it"),
    ],
    ids=lambda value: None if isinstance(value, str) else next(iter(value or {"absent": 0})),
)
def test_what_pefts_configuration_asks_beyond_a_plain_lora_is_refused(
    tmp_path: Path, pipeline: Pipeline, unet: State, config: dict[str, Any] | None, message: str
) -> None:
    folder = loras.write_peft(tmp_path / "peft", peft_halves(unet), **(config or {}))
    if config is None:
        (folder / "adapter_config.json").unlink()
    with pytest.raises(CheckpointError, match=message) as caught:
        change_of(folder, pipeline)
    assert caught.value.next_step and caught.value.where
