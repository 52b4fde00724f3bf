"""Tensors that are no weights are refused by name and dtype, from every container; eight bits are read exactly."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from audit.checkpoints import apply_artefact, backbone_files, recognise
from audit.checkpoints.inspection import inspect
from audit.checkpoints.key_sets import key_set
from audit.checkpoints.personal import read_change
from audit.checkpoints.personalisation import resolve_personalisation
from audit.checkpoints.receler_adapter import nested
from audit.diffusion.pipeline import Pipeline
from audit.errors import CheckpointError
from audit.weights.checkpoints import resolve_checkpoint
from audit.weights.references import ModelRef
from tests.checkpoints.files import SPM_METADATA, State, adapters, erased, moved, spm_state

Change = Callable[[torch.Tensor], torch.Tensor]


def quantised(tensor: torch.Tensor) -> torch.Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch is giving these up; files with them stay
        return torch.quantize_per_tensor(tensor.float(), 0.1, 0, torch.qint8)


KINDS: dict[str, tuple[Change, str]] = {
    "integer": (lambda t: t.to(torch.int16), "int16"),
    "boolean": (lambda t: t.bool(), "bool"),
    "complex": (lambda t: t.to(torch.complex64), "complex64"),
    "sparse": (lambda t: t.to_sparse(), "sparse float32"),
    "meta": (lambda t: t.to("meta"), "float32 on the meta device, without values"),
    "quantised": (quantised, "quantised qint8"),
    "scale": (lambda t: t.float().to(torch.float8_e8m0fnu), "float8_e8m0fnu"),
}
DENSE = ("integer", "boolean", "complex", "scale")  # what safetensors can hold


def with_one(state: State, change: Change) -> State:
    """The state with its second tensor changed, which has two dimensions."""
    name = sorted(n for n, t in state.items() if t.dim() == 2)[1]
    return {**state, name: change(state[name])}


def lora(unet: State) -> State:
    module = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k"
    width, rows = unet[f"{module.removeprefix('unet.')}.weight"].shape[::-1]
    return {f"{module}.lora_A.weight": torch.ones(4, width), f"{module}.lora_B.weight": torch.ones(rows, 4)}


def kv(unet: State) -> State:
    return moved(unet, key_set("KV", unet))


def saved(folder: Path, state: Any, name: str) -> Path:
    path = folder / name
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if name.endswith(".safetensors"):
            save_file(state, path, SPM_METADATA if "spm" in name else None)
        else:
            torch.save(state, path)
    return path


SAVED = [(kind, file) for kind in KINDS for file in ("kv.pt", "eraser_weights.pt", "lora.bin")] + [
    (kind, file) for kind in DENSE for file in ("kv.safetensors", "spm.safetensors", "lora.safetensors")
]


@pytest.mark.parametrize(("kind", "file"), SAVED)
def test_what_is_no_weight_is_refused_by_name_and_kind(
    kind: str, file: str, backbone: ModelRef, pipeline: Pipeline, unet: State, folder: Path
) -> None:
    change, said = KINDS[kind]
    make = {"kv": kv, "eraser_weights": adapters, "lora": lora, "spm": spm_state}[file.partition(".")[0]]
    state = with_one(make(unet), change)
    path = saved(folder, nested(state) if file == "eraser_weights.pt" else state, file)
    with pytest.raises(
        CheckpointError, match=rf"is {said}, and weights are dense floating-point|is quantised"
    ) as found:
        if file.startswith("lora"):
            read_change(resolve_personalisation(str(path)), backbone_files(backbone))
        else:
            apply_artefact(pipeline, str(path))
    assert found.value.where and found.value.next_step and "\n" not in found.value.what


@pytest.mark.parametrize("dtype", ["float8_e4m3fn", "float8_e5m2"])
@pytest.mark.parametrize("name", ["a.safetensors", "a.pt"])
def test_weights_of_eight_bits_are_read_as_the_numbers_they_are(
    dtype: str, name: str, pipeline: Pipeline, unet: State, folder: Path
) -> None:
    """A whole UNet of them differs from its backbone where it was edited, and not where it was only rounded."""
    kind = getattr(torch, dtype)
    state = {n: t.to(kind) for n, t in erased(unet, "KV").items()}
    model = apply_artefact(pipeline, str(saved(folder, state, name)))
    assert model.footprint.key_set == "KV"
    after = model.unet.state_dict()
    for found in model.footprint.names:
        torch.testing.assert_close(after[found], (unet[found] + 0.05).to(kind).float(), rtol=0, atol=0)


def test_a_lora_of_eight_bits_adds_what_it_holds(backbone: ModelRef, unet: State, folder: Path) -> None:
    state = {name: (tensor * 0.3).to(torch.float8_e4m3fn) for name, tensor in lora(unet).items()}
    for name in ("lora.safetensors", "lora.bin"):
        change = read_change(resolve_personalisation(str(saved(folder, state, name))), backbone_files(backbone))
        (delta,) = change.unet.values()
        value = float(torch.tensor(0.3).to(torch.float8_e4m3fn).float())
        torch.testing.assert_close(delta(), torch.full_like(delta(), 4 * value * value))


def test_inspect_says_how_tensors_are_stored(backbone: ModelRef, unet: State, folder: Path) -> None:
    state = {n: t.to(torch.float8_e5m2) for n, t in kv(unet).items()}
    found = inspect(resolve_checkpoint(str(saved(folder, state, "a.safetensors"))), backbone, "uce")
    assert found["facts"]["stored"] == {"float8_e5m2": 32}
    assert found["warnings"] == [
        "32 of its tensors are stored with eight bits: those that differ carry that rounding, and part of what the audit "
        "sees is it"
    ]


def eight_bits(unet: State) -> State:
    return {n: (t * 100).to(torch.int8) if t.dim() > 1 else t.clone() for n, t in unet.items()}


def with_scales(unet: State) -> State:
    """ComfyUI's layout."""
    scales = {f"{n.removesuffix('weight')}scale_weight": torch.ones(()) for n in unet if n.endswith("to_k.weight")}
    return {**{n: t.to(torch.float8_e4m3fn) for n, t in erased(unet, "KV").items()}, **scales}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (eight_bits, r"the file is quantised: \d+ of its \d+ tensors are int8"),
        (with_scales, r"the file is quantised: scales are beside them \(.*attn1\.to_k\.scale_weight\)"),
    ],
)
@pytest.mark.parametrize("name", ["a.safetensors", "a.pt"])
def test_a_quantised_unet_is_called_one(
    make: Callable[[State], State], message: str, name: str, backbone: ModelRef, unet: State, folder: Path
) -> None:
    with pytest.raises(CheckpointError, match=message) as found:
        recognise(resolve_checkpoint(str(saved(folder, make(unet), name))), backbone_files(backbone))
    assert "float16 or bfloat16" in (found.value.next_step or "")


def test_a_tensor_that_says_it_is_larger_than_any_layer_is_refused(
    pipeline: Pipeline, unet: State, folder: Path
) -> None:
    """One number, viewed as a billion: eight bytes on disk, and gigabytes in memory."""
    flat = {n: torch.full((1,), 0.1).expand(t.shape) for n, t in adapters(unet, rank=1).items()}
    huge = {n: torch.full((1,), 0.1).expand([2**29 if s == 1 else s for s in t.shape]) for n, t in flat.items()}
    path = saved(folder, nested(huge), "eraser_weights.pt")
    with pytest.raises(CheckpointError, match=r"is float32 of \d+ numbers"):
        apply_artefact(pipeline, str(path))


def test_an_alpha_of_a_whole_number_is_read(backbone: ModelRef, unet: State, folder: Path) -> None:
    """kohya's scripts store it as the number that the user typed."""
    state = {**lora(unet), "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k.alpha": torch.tensor(8)}
    change = read_change(
        resolve_personalisation(str(saved(folder, state, "lora.safetensors"))), backbone_files(backbone)
    )
    (delta,) = change.unet.values()
    assert torch.equal(delta(), torch.full_like(delta(), 8.0))


@pytest.mark.parametrize(
    ("said", "message"),
    [
        (json.dumps({"unet.lora_alpha": 10**250}), "no positive number up to"),
        ('{"unet.lora_alpha": 1' + "0" * 5000 + "}", "an integer of more than 300 digits"),
        ("[" * 50_000, "nested deeper than 64"),
        ("[1]", "no JSON object"),
    ],
    ids=["huge", "longer", "deep", "list"],
)
def test_metadata_that_nobody_means_is_refused(
    said: str, message: str, backbone: ModelRef, unet: State, folder: Path
) -> None:
    path = folder / "lora.safetensors"
    save_file(lora(unet), path, {"lora_adapter_metadata": said})
    with pytest.raises(CheckpointError, match=message) as found:
        read_change(resolve_personalisation(str(path)), backbone_files(backbone))
    assert found.value.next_step


@pytest.mark.parametrize("alpha", ["inf", "nan", "1e400", "9" * 5000])
def test_an_spm_of_an_endless_rank_or_alpha_is_refused(
    alpha: str, pipeline: Pipeline, unet: State, folder: Path
) -> None:
    for field in ("alpha", "rank"):
        path = folder / f"{field}.safetensors"
        save_file(spm_state(unet), path, {**SPM_METADATA, field: alpha})
        with pytest.raises(CheckpointError, match=r"its metadata says rank .{1,60} and alpha .{1,60}, its tensors"):
            apply_artefact(pipeline, str(path))
