"""Refuse files of erasers whose layouts are not read, each with its method's name and what to do.

They are recognised by names that their public code writes:

- GLoCE (Hyun1A/GLoCE, src/models/gloce.py): `lora_gloce_<module>.lora_update.weight`, `.lora_degen.weight`, `.selector.*`,
  gated additions to a layer's output that no weights can express
- UnHype (gmum/UnHype, piotrmwojcik/UnGuide, hyper_lora.py): a hypernetwork's `left_head.*` and `right_head.*` for each
  layer, which make a LoRA out of each prompt's embedding
- MCE (YaNgZhAnG-V5/minimalist_concept_erasure, hooks/base.py): a list of one vector of masks for each hooked layer, which
  does not say which layers these are
- STEREO (koushiksrivats/robust-concept-erasing, utils/stereo.py): `ste_stage_model.pt` holds the model in between its
  stages, `model_state_dict`, and the words that attacked it, `saved_tokens`; the erased model is `final_reo_unet.pt`

EraseFlow (Abhiramkns/EraseFlow) saves an ordinary LoRA by diffusers' `save_lora_weights`, which is read as one.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import torch

from audit.errors import CheckpointError

_MERGED = (
    "save the erased model as a whole pipeline folder, where the method allows it, or audit another method's model"
)


def refuse_names(names: Collection[str], where: str) -> None:
    """Raise `CheckpointError` when the names are GLoCE's or UnHype's."""
    if any(name.startswith(("lora_gloce_", "gloce_layers.")) or ".lora_degen." in name for name in names):
        raise CheckpointError(
            "the file is GLoCE's: gated layers, which act by what each picture shows and are not supported",
            where=where,
            next_step=_MERGED,
        )
    if any(".left_head." in name for name in names) and any(".right_head." in name for name in names):
        raise CheckpointError(
            "the file is UnHype's: a hypernetwork that makes another LoRA for each prompt, which is not supported",
            where=where,
            next_step=_MERGED,
        )


def refuse_content(content: object, where: str) -> None:
    """Raise `CheckpointError` when a pickle's content is MCE's or of STEREO's first stage."""
    if isinstance(content, Mapping) and {"model_state_dict", "saved_tokens"} <= content.keys():
        raise CheckpointError(
            "the file is STEREO's first stage (ste_stage_model.pt), the model before it is erased robustly",
            where=where,
            next_step="pass the UNet that STEREO's second stage writes, final_reo_unet.pt",
        )
    if isinstance(content, Sequence) and content and all(_is_mask(value) for value in content):
        raise CheckpointError(
            "the file holds a list of vectors, as MCE saves its masks: it does not say which layers they switch off",
            where=where,
            next_step="save the masked model as a whole pipeline folder with MCE's own code, then pass that folder",
        )


def _is_mask(value: object) -> bool:
    return isinstance(value, torch.Tensor) and len(value.shape) == 1
