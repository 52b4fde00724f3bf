"""A pipeline in one safetensors file, as its authors publish it, with the settings from a folder of the same family.

The file holds weights and nothing else: networks' settings, tokenizers and the scheduler come from a diffusers folder, whose
own weights are used for the parts that the file lacks (text encoders, in most files of Stable Diffusion 3 and Flux). The
reference is `FILE.safetensors#config=FOLDER`. Nothing here reads tensors or imports torch.
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Collection, Mapping
from functools import partial
from pathlib import Path

from audit.errors import CheckpointError
from audit.files import Document
from audit.weights import original_names as names
from audit.weights.families import LAYOUTS, SUPPORTED, Family, family_of
from audit.weights.files import Stored, read_json, safetensors_header
from audit.weights.hub_names import hub_name
from audit.weights.original_names import Namer, Pieces, Shapes
from audit.weights.sharing import CONFIG_MARK
from audit.weights.testbed import weights_path

FORM = f"FILE.safetensors{CONFIG_MARK}FOLDER"
DENOISER = "model.diffusion_model."
_OTHER = "pass the file's own family as the config, or a file of this one"
_LATENT_DIFFUSION_TEXT: Mapping[str, Namer] = {
    "cond_stage_model.transformer.": names.hugging_face,
    "cond_stage_model.model.": names.open_clip,
}
_T5: Mapping[str, Namer] = {"text_encoders.t5xxl.transformer.": names.hugging_face}
_VAE: Mapping[str, Namer] = {"first_stage_model.": names.vae, "vae.": names.vae}
# Part of a pipeline -> the beginnings of its tensors' names in a file, each with what follows it.
_TEXT: Mapping[Family, Mapping[str, Mapping[str, Namer]]] = {
    "sd1": {"text_encoder": _LATENT_DIFFUSION_TEXT},
    "sd2": {"text_encoder": _LATENT_DIFFUSION_TEXT},
    "sdxl": {
        "text_encoder": {"conditioner.embedders.0.transformer.": names.hugging_face},
        "text_encoder_2": {"conditioner.embedders.1.model.": names.open_clip},
    },
    "sd3": {
        "text_encoder": {"text_encoders.clip_l.transformer.": names.unprojected_clip},
        "text_encoder_2": {"text_encoders.clip_g.transformer.": names.hugging_face},
        "text_encoder_3": _T5,
    },
    "flux": {
        "text_encoder": {"text_encoders.clip_l.transformer.": names.hugging_face},
        "text_encoder_2": _T5,
    },
}
_DENOISERS: Mapping[str, Namer] = {"sd3": names.joint, "flux": names.flux}
# What files keep beside the weights: the noise schedule and losses of the training, constants, CLIP's temperature.
_NO_WEIGHTS = re.compile(
    r"(betas|(sqrt_|log_)?(one_minus_|recip_|recipm1_)?alphas_cumprod(_prev)?|posterior_[a-z0-9_]+|logvar|lvlb_weights"
    r"|scale_factor|global_step|denoiser\.(sigmas|log_sigmas)|.*\.position_ids|.*\.logit_scale|.*\.attn_mask"
    r"|first_stage_model\.loss\..*)"
)
_BARE = (
    "input_blocks.", "middle_block.", "output_blocks.", "time_embed.", "label_emb.", "out.", "joint_blocks.",
    "double_blocks.", "single_blocks.", "final_layer.", "x_embedder.", "t_embedder.", "y_embedder.", "context_embedder.",
    "img_in.", "txt_in.", "time_in.", "vector_in.", "guidance_in.",
)  # fmt: skip
_PICKLES = (b"PK", b"\x80")


@dataclasses.dataclass(frozen=True)
class SingleFile:
    """A file with the weights of a pipeline's parts. `prefixes`: part -> the beginning of its tensors' names there."""

    path: Path
    family: Family
    prefixes: Mapping[str, str] = dataclasses.field(hash=False)
    text_layers: int  # of the first text encoder's settings, which leave out OpenCLIP's last one
    unet_layers: int  # residual layers of each level of a UNet


def is_single_file(reference: str) -> bool:
    """Return whether a reference names a file and the folder with its settings."""
    return CONFIG_MARK in reference


def config_folder(config: str) -> Path:
    """Return the folder that a single file's reference names for the settings: `testbed`, a folder, or a pinned hub id.

    Raises `CheckpointError` when there is none.
    """
    name, _, inside = config.partition("/")
    if name == "testbed":
        return weights_path(inside or "pipeline")
    folder = Path(os.path.expanduser(config))
    if config and folder.is_dir():
        return folder
    hub = hub_name(config)
    if hub is None or hub.commit is None or hub.inside:
        raise CheckpointError(
            "there is no such config folder",
            where=str(folder.absolute()) if config else None,
            next_step=f"write {FORM}, where FOLDER is a diffusers folder of the file's family, or 'org/name@<40-hex commit>'",
        )
    from audit.weights import hub_cache

    cached = hub_cache.cached_snapshot(hub.repo, hub.commit)
    if cached is None and not hub_cache.download_allowed():
        raise hub_cache.not_available(hub.repo, hub.commit, "the config folder is not in the local Hugging Face cache")
    return cached or hub_cache.download_configs(hub.repo, hub.commit)


def read_single_file(path: Path, folder: Path, parts: Mapping[str, bool]) -> SingleFile:
    """Return which parts of a pipeline are in a file, by the settings in `folder`; `parts` are those of that.

    Raises `CheckpointError` for a pickle, a file of another family, one that holds its UNet twice, and tensors that belong
    to no part.
    """
    _refuse_pickle(path)
    read = {part: read_json(folder / part / "config.json") for part, weighted in parts.items() if weighted}
    header, family = safetensors_header(path), _config_family(folder, parts, read)
    _check_family(path, header, family, read.get("unet", {}))
    prefixes = {}
    for part, known in _places(family, header).items():
        held = [prefix for prefix in known if any(name.startswith(prefix) for name in header)]
        if len(held) > 1:
            raise CheckpointError(
                f"the file holds two of its {part} ({' and '.join(held)}...)",
                where=str(path),
                next_step="use a file that holds each part once",
            )
        if held:
            prefixes[part] = held[0]
    _check_leftovers(path, header, prefixes)
    text, unet = read.get("text_encoder", {}), read.get("unet", {})
    return SingleFile(
        path, family, prefixes, _whole(text, "num_hidden_layers", 12), _whole(unet, "layers_per_block", 2)
    )


def _whole(settings: Document, name: str, default: int) -> int:
    """Return a setting that is a number of layers; what else it may be, the check of the settings refuses later."""
    value = settings.get(name, default)
    return value if type(value) is int and value > 0 else default


def pieces_of(single: SingleFile, part: str) -> tuple[Pieces, Mapping[str, Stored]]:
    """Return what the tensors of a part are in the file, by the network's names, and the file's header.

    Names that no rule knows are kept, for the strict loader to refuse. Raises `CheckpointError` for an unreadable file.
    """
    header, prefix = safetensors_header(single.path), single.prefixes[part]
    shapes: Shapes = {
        name.removeprefix(prefix): tensor.shape
        for name, tensor in header.items()
        if name.startswith(prefix) and (prefix or _is_denoiser(name)) and not _NO_WEIGHTS.fullmatch(name)
    }
    namer = _places(single.family, header)[part][prefix]
    if part == "unet":
        namer = partial(names.unet, layers=single.unet_layers)
    elif namer is names.open_clip and part == "text_encoder":
        shapes = _used(shapes, single.text_layers)
    found = namer(shapes)
    return {name: dataclasses.replace(piece, source=prefix + piece.source) for name, piece in found.items()}, header


def denoiser_pieces(tensors: Shapes) -> Pieces | None:
    """Return what a transformer's tensors are, by diffusers' names, in a file of its authors; None for any other file.

    Tensors of other parts are left out.
    """
    prefix = DENOISER if any(name.startswith(DENOISER) for name in tensors) else ""
    shapes = {name.removeprefix(prefix): shape for name, shape in tensors.items() if name.startswith(prefix)}
    namer = _DENOISERS.get(_family(shapes) or "")
    if namer is None:
        return None
    found = namer(shapes)
    return {name: dataclasses.replace(piece, source=prefix + piece.source) for name, piece in found.items()}


def _config_family(folder: Path, parts: Mapping[str, bool], read: Mapping[str, Document]) -> Family:
    scheduler = read_json(folder / "scheduler" / "scheduler_config.json") if "scheduler" in parts else {}
    index = read_json(folder / "model_index.json") if "" not in parts else {}
    family = family_of(index, read.get("unet", {}), scheduler)
    if family is None or LAYOUTS[family].network not in parts:
        raise CheckpointError(
            "the config folder is of no pipeline that the audit knows",
            where=str(folder),
            next_step=f"use a diffusers folder of the file's family: {SUPPORTED}",
        )
    return family


def _places(family: Family, header: Collection[str]) -> Mapping[str, Mapping[str, Namer]]:
    """Return where each part may be; a file of the network alone may spell its names without a prefix."""
    namer = _DENOISERS.get(family, names.unet)
    bare = {"": namer} if any(map(_is_denoiser, header)) else {}
    return {LAYOUTS[family].network: {DENOISER: namer, **bare}, "vae": _VAE, **_TEXT[family]}


def _is_denoiser(name: str) -> bool:
    """Return whether a name is that of a UNet or a transformer without a prefix."""
    return name == "pos_embed" or name.startswith(_BARE)


def _used(shapes: Shapes, layers: int) -> Shapes:
    """Return OpenCLIP's tensors without those that Stable Diffusion 2 does not use: the projection and the last layer."""
    last = f"transformer.resblocks.{layers}."
    return {name: shape for name, shape in shapes.items() if name != "text_projection" and not name.startswith(last)}


def _refuse_pickle(path: Path) -> None:
    try:
        with path.open("rb") as stream:
            start = stream.read(9)
    except OSError:
        return  # reading the header says what is the matter
    if start.startswith(_PICKLES) and start[8:] != b"{":  # a header's length may begin with the same byte
        raise CheckpointError(
            "the file is a pickle (as .ckpt files are), which can run code when it is loaded",
            where=str(path),
            next_step="where you trust its source, convert it to safetensors: python -c "
            "\"import torch, safetensors.torch as s; d = torch.load('FILE', weights_only=True); d = d.get('state_dict', d); "
            "s.save_file({k: v.contiguous().clone() for k, v in d.items() if hasattr(v, 'shape')}, 'FILE.safetensors')\"",
        )


def _family(found: Collection[str]) -> str | None:
    """Return the family by the names of a file without its denoiser's prefix; `unet` where they do not tell which."""
    marks = {"joint_blocks.": "sd3", "double_blocks.": "flux", "label_emb.": "sdxl", "conditioner.": "sdxl"}
    for mark, family in {**marks, "input_blocks.": "unet"}.items():
        if any(name.startswith(mark) for name in found):
            return family
    return None


def _check_family(path: Path, header: Mapping[str, Stored], family: Family, unet: Document) -> None:
    if any(name.startswith("model_ema.") for name in header):
        raise CheckpointError(
            "the file holds its UNet twice, as trained and averaged (model_ema.*), and it is not said which is meant",
            where=str(path),
            next_step="use the file for inference, often called ...-emaonly, or remove one of the two",
        )
    shown = _family([name.removeprefix(DENOISER) for name in header])
    if shown is None:
        raise CheckpointError(
            "the file holds no UNet or transformer in the layout of Stable Diffusion's or Flux's authors "
            f"(its first tensor is {min(header, default='none')[:80]})",
            where=str(path),
            next_step="pass the folder of a diffusers pipeline, or a file of a whole model",
        )
    wanted = "unet" if family in ("sd1", "sd2") else family
    if shown != wanted:
        title = {"unet": "Stable Diffusion 1.x or 2.x"}.get(shown) or LAYOUTS[shown].title  # type: ignore[index]
        raise CheckpointError(
            f"the file is of {title}, and the config folder of {LAYOUTS[family].title}",
            where=str(path),
            next_step=_OTHER,
        )
    keys = [t.shape for n, t in sorted(header.items()) if n.endswith("attn2.to_k.weight") and len(t.shape) == 2]
    width = unet.get("cross_attention_dim")
    if wanted in ("unet", "sdxl") and keys and isinstance(width, int) and keys[0][1] != width:
        raise CheckpointError(
            f"the file's UNet reads text of width {keys[0][1]}, and the config folder's of width {width}",
            where=str(path),
            next_step=_OTHER,
        )


def _check_leftovers(path: Path, header: Collection[str], prefixes: Mapping[str, str]) -> None:
    """Return when every tensor belongs to a part, or is none of a network's weights."""
    held = tuple(prefix for prefix in prefixes.values() if prefix)
    bare = "" in prefixes.values()
    left = sorted(
        name
        for name in header
        if not (name.startswith(held) or (bare and _is_denoiser(name)) or _NO_WEIGHTS.fullmatch(name))
    )
    if left:
        raise CheckpointError(
            f"{len(left)} of the file's {len(header)} tensors belong to no part of the pipeline (e.g. {left[0][:120]})",
            where=str(path),
            next_step="use a file of the original layout, or the folder of a diffusers pipeline",
        )
