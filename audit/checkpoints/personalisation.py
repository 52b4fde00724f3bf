"""Personalisations that a spec names: LoRA weights, or a whole UNet of DreamBooth.

A personalisation is an attack's input: weights that a user brings, put on top of a defence's model. Nothing here loads
one; a LoRA is told from a whole UNet by the names in the file.
"""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Literal

from audit.errors import CheckpointError
from audit.weights.checkpoints import PEFT_FILES, CheckpointRef, is_safetensors, resolve_checkpoint
from audit.weights.files import check_safetensors

Kind = Literal["lora", "dreambooth"]

# As diffusers saves them, and PEFT.
LORA_FILES = ("pytorch_lora_weights.safetensors", "pytorch_lora_weights.bin", *PEFT_FILES)
LORA_MARKS = (".lora_", "_lora.", ".lora.", "lora_unet_", "lora_te_")  # in the names of a LoRA's tensors
NEXT = (
    "name diffusers' pytorch_lora_weights.safetensors, PEFT's folder with adapter_model.safetensors, "
    "a whole UNet or transformer of the backbone's family, or a pipeline folder with such a UNet"
)


@dataclasses.dataclass(frozen=True)
class PersonalisationRef:
    """One personalisation on disk."""

    kind: Kind
    files: CheckpointRef

    @property
    def sha256(self) -> str:
        """Return the digest of the personalisation's content."""
        return self.files.sha256


def resolve_personalisation(ref: str) -> PersonalisationRef:
    """Return the personalisation that `ref` names: a file, a folder, or `org/name@<40-hex commit>/path`, with digests.

    Raises `CheckpointError` when it is missing, unpinned, or a folder without one clear personalisation.
    """
    folder = Path(os.path.expanduser(ref.strip()))
    lora = next((folder / name for name in LORA_FILES if (folder / name).is_file()), None)
    # A pipeline folder with a LoRA in it is no clear case, and is refused as it is among checkpoints.
    files = resolve_checkpoint(str(lora) if lora and not (folder / "model_index.json").is_file() else ref)
    if files.kind in ("pipeline", "unet"):
        return PersonalisationRef("dreambooth", files)
    if files.kind != "file":
        raise CheckpointError(
            f"the folder is a {files.kind} checkpoint, which is no personalisation", where=ref, next_step=NEXT
        )
    return PersonalisationRef("lora" if _is_lora(files.paths()[0]) else "dreambooth", files)


def has_lora_names(names: tuple[str, ...]) -> bool:
    """Return whether a file with tensors of these names is a LoRA."""
    return any(mark in name for name in names for mark in LORA_MARKS)


def _is_lora(path: Path) -> bool:
    if is_safetensors(path):
        return has_lora_names(check_safetensors(path))
    from audit.checkpoints.tensors import from_pickle  # imports torch, which telling safetensors apart does not need

    content = from_pickle(path)
    return isinstance(content, dict) and has_lora_names(tuple(map(str, content)))
