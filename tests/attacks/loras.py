"""Personalisations as training scripts lay them out, made from a backbone's tensors."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file

State = dict[str, torch.Tensor]
Name = Callable[[str, str], str]  # (module path, "down" | "up") -> the name of a half
RANK = 2


def diffusers_name(module: str, half: str) -> str:
    """Of today's scripts, through `convert_state_dict_to_diffusers`."""
    return f"unet.{module}.lora.{half}.weight"


def peft_name(module: str, half: str) -> str:
    """As PEFT names them."""
    return f"unet.{module}.lora_{'A' if half == 'down' else 'B'}.weight"


def processor_name(module: str, half: str) -> str:
    """Of the scripts of 2023, which trained attention processors."""
    owner, leaf = module.removesuffix(".0").rsplit(".", 1)
    return f"unet.{owner}.processor.{leaf}_lora.{half}.weight"


def bare_name(module: str, half: str) -> str:
    """As the first scripts did, which knew the UNet alone."""
    return processor_name(module, half).removeprefix("unet.")


def kohya_name(module: str, half: str) -> str:
    """Of kohya's scripts."""
    return f"lora_unet_{module.replace('.', '_')}.lora_{half}.weight"


def attention_modules(unet: Mapping[str, torch.Tensor]) -> list[str]:
    """to_q, to_k, to_v and to_out.0 of every attention layer."""
    return [n.removesuffix(".weight") for n in unet if ".to_" in n and n.endswith(".weight")]


def pairs(unet: Mapping[str, torch.Tensor], seed: int = 0, rank: int = RANK) -> dict[str, tuple[torch.Tensor, ...]]:
    """Module path -> (down (r, in), up (out, r))."""
    generator = torch.Generator().manual_seed(seed)
    return {
        module: (
            torch.randn(rank, unet[f"{module}.weight"].shape[1], generator=generator),
            torch.randn(unet[f"{module}.weight"].shape[0], rank, generator=generator),
        )
        for module in attention_modules(unet)
    }


def lora_state(unet: Mapping[str, torch.Tensor], name: Name = diffusers_name, seed: int = 0) -> State:
    """A LoRA on every attention layer of the UNet."""
    found = pairs(unet, seed)
    halves = {
        name(m, half): tensor for m, pair in found.items() for half, tensor in zip(("down", "up"), pair, strict=True)
    }
    return dict(halves)


def write_peft(folder: Path, halves: Mapping[str, torch.Tensor], **config: object) -> Path:
    """A folder as PEFT's `save_pretrained` lays it out, with halves by their names in the wrapped model."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {f"base_model.model.{name}": tensor.contiguous() for name, tensor in halves.items()}
    save_file(tensors, folder / "adapter_model.safetensors", {"format": "pt"})
    said = {
        "peft_type": "LORA", "r": RANK, "lora_alpha": RANK, "target_modules": ["to_q", "to_k", "to_v", "to_out.0"],
        "bias": "none", "fan_in_fan_out": False, "init_lora_weights": True, "lora_dropout": 0.0, "use_dora": False,
        "use_rslora": False, "rank_pattern": {}, "alpha_pattern": {}, "modules_to_save": None, "task_type": None,
        "base_model_name_or_path": None, "inference_mode": True, "loftq_config": {}, "layer_replication": None,
    }  # fmt: skip
    (folder / "adapter_config.json").write_text(json.dumps({**said, **config}))
    (folder / "README.md").write_text("A LoRA.")
    return folder


def write_lora(path: Path, unet: Mapping[str, torch.Tensor], seed: int = 0) -> Path:
    """The path of a LoRA file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(lora_state(unet, seed=seed), path)
    return path
