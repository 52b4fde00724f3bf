"""Read PEFT's folder of a LoRA, as `save_pretrained` writes it: the tensors, and `adapter_config.json` with their strength.

The tensors, `base_model.model.<module>.lora_A.weight` (r, in) and `.lora_B.weight` (out, r), tell neither the model
that they belong to nor their alpha. A layer gets lora_alpha / r * B @ A; a configuration that asks for more is refused.
Written down from PEFT's LoraConfig and `get_peft_model_state_dict` (huggingface/peft).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping

from audit.checkpoints.lora import METADATA
from audit.checkpoints.tensors import BackboneTensors, LazyTensor, LazyTensors, shown
from audit.errors import CheckpointError
from audit.files import Document
from audit.weights.checkpoints import PEFT_CONFIG, CheckpointRef
from audit.weights.files import read_json

_PREFIX = "base_model.model."
_BEYOND = (
    "use_dora", "use_rslora", "alpha_pattern", "lora_bias", "modules_to_save", "layer_replication", "use_qalora",
    "megatron_config", "target_parameters", "trainable_token_indices", "alora_invocation_tokens", "arrow_config",
)  # fmt: skip
# Other ways to begin, such as PiSSA and LoftQ, change the weights that the LoRA is added to, which it does not carry.
_BEGINNINGS = (True, False, None, "gaussian", "eva", "orthogonal")


def is_peft(tensors: Iterable[str]) -> bool:
    """Return whether the names are those of PEFT's `save_pretrained`."""
    return any(name.startswith(_PREFIX) for name in tensors)


def by_part(
    tensors: LazyTensors, files: CheckpointRef, backbone: BackboneTensors
) -> tuple[LazyTensors, Mapping[str, str]]:
    """Return the tensors with the prefix `unet.` or `text_encoder.` of their layer, and metadata as diffusers writes it.

    Raises `CheckpointError` without a configuration beside the tensors, and for one that is no plain LoRA's or that
    contradicts the tensors.
    """
    where = str(files.path)
    config = _config(files)
    renamed = {_renamed(name, backbone, where): tensor for name, tensor in tensors.items()}
    if not config.get("rank_pattern"):
        _check_rank(renamed, config.get("r"), where)
    alphas = {f"{part}.lora_alpha": config["lora_alpha"] for part in {name.partition(".")[0] for name in renamed}}
    return renamed, {METADATA: json.dumps(alphas)}


def _config(files: CheckpointRef) -> Document:
    """Return the `adapter_config.json` of a plain LoRA."""
    folder = files.path if files.path.is_dir() else files.path.parent
    path = folder / PEFT_CONFIG
    if PEFT_CONFIG not in files.files:
        raise _bad(
            f"PEFT's {PEFT_CONFIG} is not beside it, without which its strength is unknown",
            str(files.path),
            f"put the {PEFT_CONFIG} of its training into the same folder, beside adapter_model.safetensors",
        )
    config = read_json(path)
    if config.get("peft_type") != "LORA":
        kind = config.get("peft_type")
        raise _bad(f"its {PEFT_CONFIG} is of the type {shown(kind)}, and only LORA is supported", str(path))
    beyond = next((field for field in _BEYOND if config.get(field)), None)
    if beyond is None and config.get("bias", "none") != "none":
        beyond = "bias"
    if beyond is None and config.get("init_lora_weights") not in _BEGINNINGS:
        beyond = "init_lora_weights"
    if beyond is not None:
        raise _bad(f"it was trained with {beyond} = {shown(config[beyond])}, which is not supported", str(path))
    if config.get("lora_alpha") is None:
        raise _bad(f"its {PEFT_CONFIG} says no lora_alpha", str(path))
    return config


def _renamed(name: str, backbone: BackboneTensors, where: str) -> str:
    if not name.startswith(_PREFIX):
        raise _bad(f"the tensor {name} is not named as PEFT names the others", where)
    path = name.removeprefix(_PREFIX)
    module = path.partition(".lora_")[0].removeprefix("text_model.")
    return f"text_encoder.{path}" if f"{module}.weight" in backbone.text else f"unet.{path}"


def _check_rank(tensors: Mapping[str, LazyTensor], rank: object, where: str) -> None:
    """Return when every pair has the configuration's rank: otherwise file and configuration are of two trainings."""
    for name, tensor in tensors.items():
        if ".lora_A." in name and tensor.shape[:1] != (rank,):
            raise _bad(f"its {PEFT_CONFIG} says r = {shown(rank)}, and {name} has the shape {tensor.shape}", where)


def _bad(why: str, where: str, next_step: str = "") -> CheckpointError:
    return CheckpointError(
        f"the personalisation cannot be used: {why}",
        where=where,
        next_step=next_step
        or "train a plain LoRA, or merge it into the model and name the whole network that this gives",
    )
