"""What is no erased model of this backbone, cannot be read safely or changes nothing is refused with its reason."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from audit.checkpoints import apply_artefact, backbone_files, recognise
from audit.checkpoints.key_sets import key_set
from audit.diffusion.pipeline import load_pipeline
from audit.errors import CheckpointError
from audit.weights.checkpoints import resolve_checkpoint
from audit.weights.references import ModelRef, resolve_model
from tests.checkpoints.files import (
    TABLE,
    State,
    adapters,
    erased,
    ldm_full,
    merged_state,
    moved,
    spm_state,
    text_folder,
)
from tests.tiny_families import WRITERS

Maker = Callable[[Path, State, State], Path]


class Payload:
    """Runs code when it is unpickled."""

    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.proof),)


def tensors(make: Callable[[State], State], name: str = "a.safetensors", **metadata: str) -> Maker:
    def write(folder: Path, unet: State, text: State) -> Path:
        save_file(make(unet), folder / name, metadata or None)
        return folder / name

    return write


def pickle(make: Callable[[State, State], Any]) -> Maker:
    def write(folder: Path, unet: State, text: State) -> Path:
        torch.save(make(unet, text), folder / "a.pt")
        return folder / "a.pt"

    return write


def content(data: bytes, name: str) -> Maker:
    def write(folder: Path, unet: State, text: State) -> Path:
        (folder / name).write_bytes(data)
        return folder / name

    return write


def truncated(row: str) -> Maker:
    def write(folder: Path, unet: State, text: State) -> Path:
        path = TABLE[row][0](folder, unet, text)
        os.truncate(path, path.stat().st_size // 2)
        return path

    return write


def mace_intermediate(folder: Path, unet: State, text: State) -> Path:
    TABLE["G1"][0](folder, unet, text)
    (folder / "lora" / "star").mkdir(parents=True)
    (folder / "lora" / "star" / "pytorch_lora_weights.safetensors").write_bytes(b"x")
    return folder


def mace_loras_alone(folder: Path, unet: State, text: State) -> Path:
    (folder / "lora" / "star").mkdir(parents=True)
    (folder / "lora" / "star" / "pytorch_lora_weights.bin").write_bytes(b"x")
    return folder


def pipeline_with_lora(folder: Path, unet: State, text: State) -> Path:
    TABLE["G1"][0](folder, unet, text)
    (folder / "pytorch_lora_weights.safetensors").write_bytes(b"x")
    return folder


def lora_state(unet: State) -> State:
    """Diffusers' own names for a LoRA."""
    module = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k"
    return {f"{module}.lora_A.weight": torch.ones(4, 32), f"{module}.lora_B.weight": torch.ones(32, 4)}


def wrong_rank(folder: Path, unet: State, text: State) -> Path:
    TABLE["C1"][0](folder, unet, text)
    (folder / "eraser_config.json").write_text(json.dumps({"eraser_rank": 128}))
    return folder


def of_width(width: int) -> Callable[[State], State]:
    """Keys and values that read text of another width."""
    return lambda unet: {n: torch.ones(unet[n].shape[0], width) for n in key_set("KV", unet)}


def kv(unet: State) -> State:
    return moved(unet, key_set("KV", unet))


def with_nan(unet: State) -> State:
    state = kv(unet)
    next(iter(state.values()))[0, 0] = float("nan")
    return state


def half_changed(unet: State) -> State:
    state = kv(unet)
    name = sorted(state)[3]
    return {**state, name: unet[name].clone()}


def reshaped(unet: State) -> State:
    state = kv(unet)
    name = sorted(state)[0]
    return {**state, name: state[name][:-1].contiguous()}


def without(unet: State, count: int) -> State:
    return dict(sorted(kv(unet).items())[count:])


def zero_up(unet: State) -> State:
    return {name: torch.zeros_like(t) if ".up." in name else t for name, t in adapters(unet).items()}


def sdxl(unet: State) -> State:
    return {"down_blocks.1.attentions.0.transformer_blocks.1.attn2.to_k.weight": torch.ones(8, 2048)}


def sd2_esd_u(unet: State) -> State:
    """ESD-u of an SD 2.x model: the same names as SD 1.x, linear projections, and no cross-attention among them."""
    state = moved(unet, key_set("ESD_U", unet))
    linear = ("proj_in.weight", "proj_out.weight")
    return {n: t.flatten(1).contiguous() if n.endswith(linear) else t for n, t in state.items()}


def sdxl_esd_u(unet: State) -> State:
    """ESD-u as the SDXL script saves it: only blocks, no embeddings, no cross-attention; several layers a transformer."""
    block = "down_blocks.1.attentions.0"
    names = [f"{block}.transformer_blocks.{i}.attn1.to_{part}.weight" for i in (0, 1) for part in "qkv"]
    return {f"{block}.proj_in.weight": torch.ones(8, 8), **{name: torch.ones(8, 8) for name in names}}


REFUSED: dict[str, tuple[Maker, str]] = {
    "G2 MACE's intermediate folder (trap 18)": (mace_intermediate, "intermediate state.*not the erased model"),
    "G2 its LoRAs without the pipeline": (mace_loras_alone, "intermediate state.*not the erased model"),
    "G2 a pipeline with a LoRA beside it": (pipeline_with_lora, "intermediate state.*not the erased model"),
    "G3 MACE's cache": (
        pickle(lambda u, t: {f"{i}_for_mat{m}": torch.ones(2, 2) for i in range(32) for m in (1, 2)}),
        "MACE's cached prior.*not a model",
    ),
    "M a learned embedding": (pickle(lambda u, t: {"<star>": torch.ones(768)}), "token embedding.*not a defence"),
    "SD 2.x": (tensors(of_width(1024)), "made for Stable Diffusion 2.x.*width 1024"),
    "SDXL": (tensors(sdxl), "made for SDXL.*width 2048"),
    "SD 2.x ESD-u": (tensors(sd2_esd_u), r"made for Stable Diffusion 2\.x or SDXL.*2 dimensions, the backbone's 4"),
    "A2 SDXL ESD-u": (tensors(sdxl_esd_u), "made for SDXL.*width 2048"),
    "another model": (tensors(of_width(12)), "made for another model.*width 12"),
    "all names wrong (trap 1)": (tensors(lambda u: {f"x.{n}": t for n, t in kv(u).items()}), "0 of 32 tensors"),
    "some names wrong": (tensors(lambda u: {**kv(u), "x.y": torch.ones(1)}), r"1 of 33 .*\(e\.g\. x\.y\)"),
    "an incomplete set": (tensors(lambda u: without(u, 2)), "nearest is KV.*2 missing and 0 besides"),
    "a wrong shape": (tensors(reshaped), r"has shape \(.*the backbone's UNet has \("),
    "NaN": (tensors(with_nan), "holds NaN or infinity"),
    "equal to the backbone (trap 2)": (tensors(lambda u: {n: u[n].clone() for n in key_set("KV", u)}), "nothing was"),
    "equal after rounding": (
        tensors(lambda u: {n: u[n].bfloat16() for n in key_set("XATTN", u)}),
        "nothing was erased",
    ),
    "a whole UNet equal to the backbone": (pickle(lambda u, t: dict(u)), "nothing was erased"),
    "a tensor that did not change": (tensors(half_changed), "1 of its 32 tensors equal the backbone's"),
    "untrained erasers": (tensors(zero_up, "eraser_weights.safetensors"), "all zero, as before training"),
    "erasers of another rank": (wrong_rank, "rank 4, eraser_config.json says 128"),
    "a missing eraser": (
        tensors(lambda u: dict(list(adapters(u).items())[4:]), "eraser_weights.safetensors"),
        "do not match .* 4 missing",
    ),
    "an SPM that names no prompt": (tensors(spm_state, prompts=" , "), "SPM's metadata 'prompts' is empty"),
    "an SPM of another rank": (tensors(spm_state, prompts="star", rank="4"), "metadata says rank '4'"),
    "new token embeddings": (pickle(lambda u, t: {"state_dict": {"embed": torch.ones(1, 4)}}), "modified tokenizer"),
    "an incomplete LDM checkpoint": (
        pickle(lambda u, t: dict(sorted(ldm_full(u, t).items(), reverse=True)[9:])),
        "tensors of the UNet are missing",
    ),
    "an empty state dict": (pickle(lambda u, t: {"state_dict": {}}), "'state_dict' holds no named tensors"),
    "a state dict by numbers": (pickle(lambda u, t: {"state_dict": {1: torch.ones(1)}}), "holds no named tensors"),
    "a training state": (pickle(lambda u, t: {"epoch": 3, "model": 1}), "'epoch' is a int, not a tensor"),
    "an endless name": (pickle(lambda u, t: {"unet": {"a" * 501: torch.ones(1)}}), "names an entry by 501 characters"),
    "a list": (pickle(lambda u, t: [1, 2]), "holds a list"),
    "a whole module (trap 4)": (pickle(lambda u, t: torch.nn.Linear(1, 1)), "could run code.*nothing of it was run"),
    "numpy inside": (pickle(lambda u, t: {"a": __import__("numpy").float64(1)}), "could run code"),
    "no checkpoint at all": (content(b"hello world, this is text", "a.pt"), "no (whole )?PyTorch file"),
    "an empty file": (content(b"", "a.pt"), "no (whole )?PyTorch file"),
    "a Git LFS pointer": (content(b"version https://git-lfs.github.com/spec/v1\n", "a.pt"), "Git LFS pointer"),
    "truncated safetensors": (truncated("B1"), "truncated"),
    "a truncated pickle": (truncated("A5"), "no (whole )?PyTorch file"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_bad_checkpoint_is_refused(
    name: str, backbone: ModelRef, unet: State, text: State, folder: Path, pipeline: Any
) -> None:
    write, message = REFUSED[name]
    path = write(folder, unet, text)
    with pytest.raises(CheckpointError, match=f"(?s){message}") as raised:
        apply_artefact(pipeline, str(path))
    assert raised.value.where and raised.value.next_step


def test_a_payload_is_named_and_never_run(backbone: ModelRef, folder: Path, tmp_path: Path) -> None:
    """Trap 4."""
    torch.save({"a": Payload(tmp_path / "ran")}, folder / "evil.pt")
    with pytest.raises(CheckpointError, match=r"evil\.pt is a pickle that could run code.*mkdir"):
        recognise(resolve_checkpoint(str(folder / "evil.pt")), backbone_files(backbone))
    assert not (tmp_path / "ran").exists()


def test_a_lightning_file_is_read(backbone: ModelRef, unet: State, text: State, folder: Path) -> None:
    torch.save({"state_dict": ldm_full(unet, text), "global_step": 5}, folder / "last.ckpt")
    found = recognise(resolve_checkpoint(str(folder / "last.ckpt")), backbone_files(backbone))
    assert found.layout.name == "ldm-full" and any("outside the UNet" in note for note in found.notes)


def test_a_wrapped_state_dict_of_diffusers_names_is_read(backbone: ModelRef, unet: State, folder: Path) -> None:
    for name, state, layout in (("whole", erased(unet, "KV"), "full-unet"), ("part", kv(unet), "partial-unet")):
        torch.save({"state_dict": state, "global_step": 5}, folder / f"{name}.ckpt")
        found = recognise(resolve_checkpoint(str(folder / f"{name}.ckpt")), backbone_files(backbone))
        assert found.layout.name == layout and len(found.unet) == len(state)


def test_a_file_from_before_zip_archives_is_read(backbone: ModelRef, unet: State, folder: Path) -> None:
    torch.save(erased(unet, "KV"), folder / "old.pt", _use_new_zipfile_serialization=False)
    assert recognise(resolve_checkpoint(str(folder / "old.pt")), backbone_files(backbone)).key_set == "ALL"


@pytest.mark.parametrize(
    ("ref", "message"),
    [
        ("nowhere.pt", "no such checkpoint"),
        ("./a/b/c", "no such checkpoint"),
        ("", "no such checkpoint"),
        ("ChaoGong/RECE", "not pinned to a commit"),
        ("ChaoGong/RECE@main/nudity_ep2.pt", "not pinned.*'main' can move"),
        (f"ChaoGong/RECE@{'a' * 40}/../x.pt", "leaves it"),
        (f"ChaoGong/RECE@{'a' * 40}/nudity_ep2.pt", "not in the local Hugging Face cache"),
    ],
)
def test_a_reference_that_leads_nowhere(
    ref: str, message: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError, match=message) as raised:
        resolve_checkpoint(ref)
    assert raised.value.next_step


def test_a_folder_of_many_files_is_not_guessed(folder: Path, unet: State) -> None:
    for name in ("a.pt", "b.pt"):
        (folder / name).write_bytes(b"x")
    with pytest.raises(CheckpointError, match=r"2 weight files: a\.pt, b\.pt"):
        resolve_checkpoint(str(folder))


def test_the_digest_is_the_contents_not_the_paths(folder: Path, tmp_path: Path, unet: State, text: State) -> None:
    first = resolve_checkpoint(str(text_folder(folder, unet, text)))
    copied = tmp_path / "elsewhere.safetensors"
    copied.write_bytes((folder / "model.safetensors").read_bytes())
    assert resolve_checkpoint(str(copied)).sha256 == first.sha256


@pytest.mark.parametrize(
    ("family", "network", "further"),
    [
        ("sdxl", "unet", "text_encoder_2"),
        ("sd3", "transformer", "text_encoder_2"),
        ("sd3", "transformer", "text_encoder_3"),
        ("flux", "transformer", "text_encoder_2"),
    ],
)
def test_a_folder_is_read_and_refused_with_another_further_text_encoder(
    family: str, network: str, further: str, tmp_path: Path
) -> None:
    """Whose change would not be applied, and would be called erased."""
    backbone = load_pipeline(resolve_model(str(WRITERS[family](tmp_path / "backbone"))), torch.device("cpu"))
    folder = Path(shutil.copytree(tmp_path / "backbone", tmp_path / "erased"))
    for part in (network, further):
        (weights,) = (folder / part).glob("*.safetensors")
        name = next(name for name, tensor in load_file(weights).items() if tensor.ndim == 2)
        save_file({key: 2 * tensor if key == name else tensor for key, tensor in load_file(weights).items()}, weights)
        if part == network:
            assert apply_artefact(backbone, str(folder)).footprint.names == (name,)
    with pytest.raises(CheckpointError, match=f"{further} is not the backbone's"):
        apply_artefact(backbone, str(folder))
    if family == "sdxl":  # one with Receler's adapters among its tensors too
        weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
        save_file(merged_state(backbone.unet.state_dict()), weights)
        with pytest.raises(CheckpointError, match=f"{further} is not the backbone's"):
            apply_artefact(backbone, str(folder))
