"""Erased checkpoints as each method's own code lays them out, made from a backbone's tensors."""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from audit.checkpoints.key_sets import key_set
from audit.checkpoints.receler_adapter import nested
from tests.original_layouts import ldm_names

State = dict[str, torch.Tensor]
Writer = Callable[[Path, State, State], Path]

SPM_METADATA = {"rank": "1", "alpha": "1.0", "prompts": "star"}


def moved(state: State, names: Iterable[str], by: float = 0.05) -> State:
    """The named tensors, changed; each in storage of its own."""
    return {name: state[name].clone() + by for name in names}


def erased(unet: State, keys: str) -> State:
    """A whole UNet in which one key set has changed."""
    return {**{n: t.clone() for n, t in unet.items()}, **moved(unet, key_set(keys, unet))}


def partial(keys: str, dtype: torch.dtype = torch.bfloat16) -> Writer:
    """ESD of 2025 and UCE: part of a UNet as safetensors."""

    def write(folder: Path, unet: State, text: State) -> Path:
        state = {name: tensor.to(dtype) for name, tensor in moved(unet, key_set(keys, unet)).items()}
        save_file(state, folder / "esd.safetensors")
        return folder / "esd.safetensors"

    return write


def pickled(make: Callable[[State, State], Any], name: str = "erased.pt") -> Writer:
    """Any content as a PyTorch pickle."""

    def write(folder: Path, unet: State, text: State) -> Path:
        torch.save(make(unet, text), folder / name)
        return folder / name

    return write


def esd_nested(unet: State, text: State) -> Any:
    """ESD's alternative script: `unet.<module>` -> its weight and bias."""
    content: dict[str, OrderedDict[str, torch.Tensor]] = {}
    for name, tensor in moved(unet, key_set("XATTN", unet)).items():
        module, _, leaf = name.rpartition(".")
        content.setdefault(f"unet.{module}", OrderedDict())[leaf] = tensor
    return content


def ldm_full(unet: State, text: State) -> State:
    """ESD of 2023: a whole latent-diffusion state dict whose every UNet tensor differs from the hub's copy."""
    named = {ldm: unet[name] + 0.05 for ldm, name in ldm_names(unet).items()}
    others = {"first_stage_model.encoder.conv_in.weight": torch.ones(2), "betas": torch.ones(3)}
    return {**named, **others, "cond_stage_model.transformer.text_model.final_layer_norm.bias": torch.ones(2)}


def ldm_delta(unet: State, text: State) -> Any:
    """Concept Ablation's CompVis delta: only what differs."""
    members = key_set("KV", unet)
    return {"state_dict": {ldm: unet[name] + 0.05 for ldm, name in ldm_names(unet).items() if name in members}}


def adapters(unet: State, rank: int = 4) -> State:
    """Receler's flat tensors for every attn2."""
    flat = {}
    for name, tensor in unet.items():
        if name.endswith(".attn2.to_out.0.weight"):
            parts, width = name.split("."), tensor.shape[0]
            entry = ".".join(parts[:3] if parts[0] == "mid_block" else parts[:4])
            shapes = {
                "down.weight": (rank, width),
                "down.bias": (rank,),
                "up.weight": (width, rank),
                "up.bias": (width,),
            }
            for part, shape in shapes.items():
                flat[f"{entry}.{part}"] = torch.full(shape, 0.1, device=tensor.device)
    return flat


def receler(folder: Path, unet: State, text: State) -> Path:
    """Receler's folder: weights and configuration."""
    torch.save(nested(adapters(unet)), folder / "eraser_weights.pt")
    (folder / "eraser_config.json").write_text(json.dumps({"eraser_type": "adapter", "eraser_rank": 4}))
    return folder


def merged_state(unet: State) -> State:
    """A UNet's tensors with the adapters' among them."""
    merged = {n: t.clone() for n, t in unet.items()}
    for name, tensor in adapters(unet).items():
        entry, module, leaf = name.rsplit(".", 2)
        merged[f"{entry}.transformer_blocks.0.adapter.{module}.{leaf}"] = tensor
    return merged


def receler_merged(folder: Path, unet: State, text: State) -> Path:
    """The re-implementation's folder, as `unet.save_pretrained` writes it."""
    save_file(merged_state(unet), folder / "diffusion_pytorch_model.safetensors")
    return folder


def spm_state(unet: State, rank: int = 1) -> State:
    """Kohya-style pairs for every linear and convolution layer of the transformers."""
    state = {}
    for name, tensor in unet.items():
        if ".attentions." in name and name.endswith(".weight") and tensor.dim() >= 2:
            module = "lora_unet_" + name.removesuffix(".weight").replace(".", "_")
            ones = [1] * (tensor.dim() - 2)
            device = tensor.device
            state[f"{module}.lora_down.weight"] = torch.full((rank, tensor.shape[1], *ones), 0.1, device=device)
            state[f"{module}.lora_up.weight"] = torch.full((tensor.shape[0], rank, *ones), 0.2, device=device)
            state[f"{module}.alpha"] = torch.ones((), device=device)
    return state


def spm(folder: Path, unet: State, text: State) -> Path:
    """SPM's file with its metadata."""
    save_file(spm_state(unet), folder / "star_last.safetensors", SPM_METADATA)
    return folder / "star_last.safetensors"


def advunlearn(unet: State, text: State) -> State:
    """AdvUnlearn's wrapper saved under transformers 4: every tensor twice, and the position buffer."""
    old = {f"text_model.{name}": tensor + 0.05 for name, tensor in bare(text).items()}
    aliases = {n.removeprefix("text_model.").replace("embeddings.", "embedding."): t for n, t in old.items()}
    position = {"text_encoder.text_model.embeddings.position_ids": torch.arange(77)[None]}
    return {**{f"text_encoder.{n}": t for n, t in old.items()}, **aliases, **position}


def bare(text: Mapping[str, torch.Tensor]) -> State:
    """A text encoder's tensors without `text_model.`."""
    return {name.removeprefix("text_model."): tensor for name, tensor in text.items()}


def text_folder(folder: Path, unet: State, text: State) -> Path:
    """A transformers folder in the old key layout, as on the hub."""
    (folder / "config.json").write_text("{}")
    state = {f"text_model.{name}": tensor + 0.05 for name, tensor in bare(text).items()}
    save_file(state, folder / "model.safetensors")
    return folder


def pipeline_folder(folder: Path, unet: State, text: State) -> Path:
    """MACE's final folder."""
    (folder / "model_index.json").write_text('{"_class_name": "StableDiffusionPipeline"}')
    for part, name, state in (
        ("unet", "diffusion_pytorch_model", erased(unet, "KV")),
        ("text_encoder", "model", {n: t.clone() for n, t in text.items()}),
    ):
        (folder / part).mkdir()
        save_file(state, folder / part / f"{name}.safetensors")
    return folder


def ca_delta(keys: str) -> Callable[[State, State], Any]:
    """Concept Ablation's delta.bin."""
    return lambda unet, text: {"unet": moved(unet, key_set(keys, unet))}


# Row of the compatibility table -> writer, layout, key set that is found to have changed.
TABLE: dict[str, tuple[Writer, str, str | None]] = {
    "A1 esd-x": (partial("XATTN"), "partial-unet", "XATTN"),
    "A1 esd-u": (partial("ESD_U"), "partial-unet", "ESD_U"),
    "A1 esd-all": (partial("ESD_ALL"), "partial-unet", "ESD_ALL"),
    "A1 esd-x-strict": (partial("KV"), "partial-unet", "KV"),
    "A3": (pickled(esd_nested), "esd-nested", "XATTN"),
    "A4": (pickled(ldm_full), "ldm-full", "ALL"),
    "A5": (pickled(lambda unet, text: erased(unet, "NOXATTN")), "full-unet", "NOXATTN"),
    "B1": (partial("KV", torch.float32), "partial-unet", "KV"),
    "B2": (pickled(lambda unet, text: erased(unet, "KV")), "full-unet", "KV"),
    "C1": (receler, "receler", None),
    "C2": (receler_merged, "receler-merged", None),
    "G1": (pipeline_folder, "pipeline", "KV"),
    "H1 cross-attn": (pickled(ca_delta("KV"), "delta.bin"), "ca-delta", "KV"),
    "H1 attn": (pickled(ca_delta("QKVO"), "delta-100"), "ca-delta", "QKVO"),
    "H1 embedding": (
        pickled(lambda unet, text: {"unet": {}, "text_encoder": {n: t + 0.05 for n, t in text.items()}}),
        "ca-delta",
        None,
    ),
    "H2": (pickled(ldm_delta, "delta_5.ckpt"), "ca-ldm-delta", "KV"),
    "I": (spm, "spm", None),
    "J1": (pickled(advunlearn), "text-encoder-state", None),
    "J2": (text_folder, "text-encoder", None),
    "J3": (pickled(ldm_full, "Compvis-UNet.pt"), "ldm-full", "ALL"),
    "K": (pickled(lambda unet, text: erased(unet, "KV"), "0.1000-2.pt"), "full-unet", "KV"),
}
