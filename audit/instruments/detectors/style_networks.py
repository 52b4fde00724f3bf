"""Networks that give a picture's style as a vector: CSD, or CLIP's image embedding.

A folder of CSD holds config.json (`model_type: clip_vision_model`, with the sizes of CLIP ViT-L/14 and `projection_dim` of the
style head), preprocessor_config.json as CLIP's, and its weights as safetensors, under either set of names:

* transformers' own (`CLIPVisionModelWithProjection`), with the style head as `visual_projection.weight`;
* the authors' (the `model_state_dict` of their checkpoint.pth, with or without 'module.'): `backbone.*`, the style head
  `last_layer_style` (hidden size x D), and `last_layer_content`, which is not used.

Everything else in it, and everything that it lacks, is refused by name.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from audit.instruments.detectors import folders
from audit.instruments.detectors.base import Pixels, once_per_process
from audit.instruments.detectors.clip_zero_shot import picture_embeddings
from audit.instruments.detectors.phrases import mistake
from audit.instruments.detectors.similarity import Vectors
from audit.spec.sections import DetectorSpec
from audit.weights.files import check_safetensors
from audit.weights.references import ModelRef

if TYPE_CHECKING:
    import torch
    from transformers import CLIPVisionModelWithProjection
    from transformers.image_processing_base import ImageProcessingMixin

LAYERS = {"clip": "CLIP's projected image embedding", "clip_vision_model": "CSD's style head"}
_CONTENT = "last_layer_content"
_TOP = {
    "conv1.weight": "embeddings.patch_embedding.weight",
    "class_embedding": "embeddings.class_embedding",
    "positional_embedding": "embeddings.position_embedding.weight",
    **{f"ln_pre.{kind}": f"pre_layrnorm.{kind}" for kind in ("weight", "bias")},
    **{f"ln_post.{kind}": f"post_layernorm.{kind}" for kind in ("weight", "bias")},
}
_LAYER = {
    "attn.out_proj": "self_attn.out_proj",
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}


@dataclasses.dataclass(frozen=True)
class Layout:
    """What a folder holds: the kind of network, and whether its tensors have the names of CSD's authors."""

    model_type: str
    authors: bool


def layout(spec: DetectorSpec, ref: ModelRef) -> Layout:
    """Return the layout of a folder from its headers. Raises `DetectorError` for a vision network without a style head."""
    kind = str(folders.model_type(ref))
    if kind == "clip":
        return Layout(kind, False)
    names = {name.removeprefix("module.") for file in ref.files for name in check_safetensors(ref.path / file)}
    authors = any(name.startswith("backbone.") for name in names)
    if ("last_layer_style" if authors else "visual_projection.weight") not in names:
        raise mistake(
            spec,
            "model",
            "the folder holds a vision network without a style head",
            "save CSD's checkpoint as safetensors with last_layer_style, or as CLIPVisionModelWithProjection with "
            "visual_projection.weight",
        )
    return Layout(kind, authors)


def embeddings(ref: ModelRef, found: Layout, device: str, images: Sequence[Pixels]) -> Vectors:
    """Return the unit embeddings of pictures, (pictures, D)."""
    import torch

    if found.model_type == "clip":
        vectors = picture_embeddings(ref, device, images)
    else:
        network, processor = _csd(ref, found.authors, device)
        with torch.inference_mode():
            vectors = network(pixel_values=folders.pixel_values(processor, images, device)).image_embeds
    result: Vectors = vectors.cpu().double().numpy()
    return result / np.linalg.norm(result, axis=1, keepdims=True)


@once_per_process
def _csd(ref: ModelRef, authors: bool, device: str) -> tuple[CLIPVisionModelWithProjection, ImageProcessingMixin]:
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    from audit.diffusion.strict_loading import Misfit, read_tensors, transformers_network

    processor = folders.load_image_processor(ref)
    if not authors:
        return folders.load_network(CLIPVisionModelWithProjection, ref, device), processor
    try:
        settings = CLIPVisionConfig.from_pretrained(ref.path, local_files_only=True)
        tensors = renamed(read_tensors([ref.path / name for name in ref.files]))
        network = transformers_network(CLIPVisionModelWithProjection, settings, tensors)
        return network.to(device), processor
    except (Misfit, OSError, ValueError, TypeError) as error:
        raise folders.unusable(ref, " ".join(str(error).split())[:300]) from error


def renamed(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the authors' tensors under the names of transformers.

    The joint projection of each attention is cut into those of queries, keys and values. The content head is dropped; a
    tensor whose name means nothing here keeps it, so that strict loading refuses it.
    """
    result: dict[str, torch.Tensor] = {}
    for full, tensor in tensors.items():
        name = full.removeprefix("module.")
        if name.split(".")[0] == _CONTENT:
            continue
        if name == "last_layer_style":
            result["visual_projection.weight"] = tensor.T.contiguous()
            continue
        inner = name.removeprefix("backbone.")
        if inner in _TOP:
            result[f"vision_model.{_TOP[inner]}"] = tensor
            continue
        _, _, rest = inner.partition("transformer.resblocks.")
        number, _, part = rest.partition(".")
        layer = f"vision_model.encoder.layers.{number}"
        if part in ("attn.in_proj_weight", "attn.in_proj_bias"):
            kind = part.removeprefix("attn.in_proj_")
            for letter, piece in zip("qkv", tensor.chunk(3), strict=False):
                result[f"{layer}.self_attn.{letter}_proj.{kind}"] = piece.contiguous()
            continue
        own, _, kind = part.rpartition(".")
        result[f"{layer}.{_LAYER[own]}.{kind}" if own in _LAYER else full] = tensor
    return result
