"""Storing is not changing: what differs by rounding alone is no change, and a change below it contradicts no claim."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from audit.checkpoints.footprint import same
from audit.checkpoints.inspection import inspect
from audit.checkpoints.key_sets import key_set
from audit.errors import CheckpointError
from audit.weights.checkpoints import resolve_checkpoint
from audit.weights.references import ModelRef, resolve_model
from tests.checkpoints.files import State
from tests.sd14 import CUT, write_sd14

LARGE, BELOW = 0.01, 1e-7  # a change that float16 shows, and one that it does not


def trained(unet: State, keys: str, hidden: int, dtype: torch.dtype, whole: bool) -> State:
    """A key set that changed, `hidden` of its tensors by less than float16 resolves."""
    names = sorted(key_set(keys, unet))
    state = {name: t.clone() for name, t in unet.items() if whole or name in names}
    for number, name in enumerate(names):
        state[name] = state[name].half().float() * (1 + BELOW) if number < hidden else state[name] + LARGE
    return {name: t.to(dtype) for name, t in state.items()}


def said(state: State, claim: str, backbone: ModelRef, folder: Path) -> Any:
    save_file(state, folder / "a.safetensors")
    return inspect(resolve_checkpoint(str(folder / "a.safetensors")), backbone, claim)


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize(("keys", "claim"), [("XATTN", "esd-x"), ("NOXATTN", "advunlearn"), ("KV", "uce")])
def test_a_few_iterations_at_float16_are_what_they_are_claimed_to_be(
    whole: bool, keys: str, claim: str, backbone: ModelRef, unet: State, folder: Path
) -> None:
    if not whole and keys == "NOXATTN":
        claim = "esd-u"  # AdvUnlearn saves whole models
    found = said(trained(unet, keys, 5, torch.float16, whole), claim, backbone, folder)
    assert found["warnings"] == []
    assert found["facts"]["tensors"] == len(key_set(keys, unet)) - 5
    assert set(found["facts"]["stored"]) == {"float16"}


def test_nor_does_a_backbone_that_is_stored_at_float16(unet: State, folder: Path, tmp_path: Path) -> None:
    pipeline = write_sd14(tmp_path / "sd14", CUT)
    weights = pipeline / "unet" / "diffusion_pytorch_model.safetensors"
    save_file({name: t.half() for name, t in unet.items()}, weights)
    found = said(trained(unet, "XATTN", 5, torch.float32, True), "esd-x", resolve_model(str(pipeline)), folder)
    assert found["warnings"] == [] and found["facts"]["tensors"] == len(key_set("XATTN", unet)) - 5


@pytest.mark.parametrize(
    ("keys", "hidden", "claim"),
    [("KV", 0, "esd-all"), ("KV", 0, "esd-x"), ("XATTN", 60, "esd-x"), ("XATTN", 5, "uce"), ("NOXATTN", 5, "esd-x")],
    ids=["other", "part", "mostly hidden", "beyond", "elsewhere"],
)
def test_what_rounding_cannot_explain_is_still_said(
    keys: str, hidden: int, claim: str, backbone: ModelRef, unet: State, folder: Path
) -> None:
    found = said(trained(unet, keys, hidden, torch.float16, True), claim, backbone, folder)
    assert any(f"claimed to be {claim}, which changes" in warning for warning in found["warnings"])


@pytest.mark.parametrize("hidden", [17, 32])
def test_a_part_that_rounding_cannot_have_hidden_did_not_change(
    hidden: int, backbone: ModelRef, unet: State, folder: Path
) -> None:
    with pytest.raises(CheckpointError, match=f"{hidden} (of its 32 )?tensors equal the backbone's"):
        said(trained(unet, "KV", hidden, torch.float16, False), "uce", backbone, folder)


@pytest.mark.parametrize("through", [torch.float16, torch.bfloat16])
def test_a_file_that_was_rounded_before_it_was_saved_differs_where_it_was_edited(
    through: torch.dtype, backbone: ModelRef, unet: State, folder: Path
) -> None:
    """Edited in a pipeline of half precision, and saved as float32."""
    state = {name: t.to(through).float() for name, t in trained(unet, "KV", 0, torch.float32, True).items()}
    found = said(state, "uce", backbone, folder)
    assert found["warnings"] == [] and found["facts"]["changed_key_set"] == "KV"


def pairs(values: Iterable[float]) -> torch.Tensor:
    return torch.tensor(list(values))


def test_same_rounds_once_along_the_way_that_the_file_took() -> None:
    small = pairs([1.0e-6, 3.3e-7, 0.1]).bfloat16()  # below float16's normal numbers
    assert same(small, small.half()) and same(small.float(), small.half())
    assert same(pairs([0.1, 0.2]), pairs([0.1, 0.2]).to(torch.float8_e4m3fn).float(), "float8_e4m3fn")
    assert not same(pairs([0.1, 0.2]), pairs([0.1, 0.2]).to(torch.float8_e4m3fn).float(), "float32")
    assert not same(pairs([0.1, 0.2]), pairs([0.1, 0.2001]))
    long = torch.linspace(0, 1, 5000)
    late = long.half().float()
    late[-1] += 0.01
    assert same(long, long.half().float()) and not same(long, late)
