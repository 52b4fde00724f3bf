"""LoRA files (Hu et al. 2021, arXiv 2106.09685, eq. 3) by the backbone's names: W' = W + alpha / rank * up @ down.

Read are diffusers' and PEFT's names (`unet.<module>.lora.down.weight`, `.lora_A.weight`, `.processor.to_q_lora.down`,
`text_encoder.<module>.lora_linear_layer.down.weight`), and kohya's (`lora_unet_<module with _>.lora_down.weight`,
`lora_te_...`), whose modules are diffusers' or, as for SDXL, latent-diffusion's. Alpha is the module's `.alpha`, else the
metadata's `lora_alpha`, else the rank.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping

import torch

from audit.checkpoints.families import check_denoiser, check_family, family_of, is_transformer
from audit.checkpoints.footprint import finite
from audit.checkpoints.stored import check_not_quantised, check_stored
from audit.checkpoints.tensors import BackboneTensors, LazyTensor, LazyTensors
from audit.errors import CheckpointError
from audit.files import ForeignError, parse_json
from audit.weights.families import LAYOUTS
from audit.weights.original_names import flat_unet_name

METADATA = "lora_adapter_metadata"  # diffusers' key in the safetensors header, a JSON object
_LARGEST = 1e6  # of an alpha: trainers use at most some hundreds
_NEXT = "get a LoRA that was trained on this backbone's family, as its training wrote it"
_HALF = re.compile(r"(?:\.lora_linear_layer|\.lora|_lora)[._](?P<half>A|B|down|up)(?:\.default)?\.weight$")
_SECOND = ("text_encoder_2.", "text_encoder_3.", "lora_te1_", "lora_te2_", "lora_te3_")
_TEXT_ATTENTION = {"to_q": "q_proj", "to_k": "k_proj", "to_v": "v_proj", "to_out": "out_proj"}


@dataclasses.dataclass(frozen=True)
class Pair:
    """The low-rank change of one layer: `down` (r, in, ...) and `up` (out, r, ...), whose product is added times
    `scale` = alpha / r.
    """

    down: LazyTensor
    up: LazyTensor
    scale: float
    shape: tuple[int, ...]  # of the weight

    @property
    def rank(self) -> int:
        """Return the rank r."""
        return self.down.shape[0]

    def delta(self) -> torch.Tensor:
        """Return the change that is added to the weight, float32 on the CPU."""
        down, up = self.down.load().float(), self.up.load().float()
        return (up.flatten(1) @ down.flatten(1) * self.scale).reshape(self.shape)


@dataclasses.dataclass(frozen=True)
class Lora:
    """A LoRA's pairs by the backbone's weight names; those of the text encoder are without `text_model.`."""

    unet: Mapping[str, Pair]
    text: Mapping[str, Pair]

    @property
    def pairs(self) -> tuple[Pair, ...]:
        """Return the pairs of UNet and text encoder."""
        return (*self.unet.values(), *self.text.values())


def read_lora(tensors: LazyTensors, metadata: Mapping[str, str], backbone: BackboneTensors, where: str) -> Lora:
    """Return the pairs of a LoRA, after checking that names, shapes and values fit.

    Raises `CheckpointError` for a name that is none of this backbone's layers, half a pair, another rank or family, a
    value that is not finite, DoRA, SPM, and a LoRA that changes nothing.
    """
    if "prompts" in metadata and any(name.startswith("lora_unet_") for name in tensors):
        raise _bad("the file is an SPM, which erases: it is no personalisation", where, "audit it as a checkpoint")
    check_not_quantised(tensors, where)
    _check_part(tensors, backbone, where)
    layers: dict[tuple[str, str], dict[str, str]] = {}
    kohya = _kohya(tensors, backbone)
    for name in tensors:
        part, module, half = _place(name, kohya, backbone, where)
        halves = layers.setdefault((part, module), {})
        if half in halves:
            raise _bad(f"{halves[half]} and {name} say the same of one layer", where)
        halves[half] = name
    settings = _settings(metadata, where)
    settings.setdefault("unet", settings.get("transformer", {}))
    pairs: dict[str, dict[str, Pair]] = {"unet": {}, "text_encoder": {}}
    known = {"unet": backbone.unet, "text_encoder": backbone.text}
    downs = {f"{m}.weight": tensors[h["down"]] for (part, m), h in layers.items() if part == "unet" and "down" in h}
    check_family(downs, backbone.unet, where)
    check_stored(tensors, where)
    for (part, module), halves in layers.items():
        weight = known[part][f"{module}.weight"].shape
        pairs[part][f"{module}.weight"] = _pair(tensors, module, halves, weight, settings.get(part, {}), where)
    lora = Lora(pairs["unet"], pairs["text_encoder"])
    _check_values(lora, where)
    return lora


def _place(name: str, kohya: Mapping[str, str], backbone: BackboneTensors, where: str) -> tuple[str, str, str]:
    """Return (unet or text_encoder, the backbone's module path, down | up | alpha) of a tensor's name.

    `kohya` has the module paths by the first part of kohya's names.
    """
    prefix, _, rest = name.partition(".")
    if prefix.startswith(("lora_unet_", "lora_te_")):
        part = "unet" if prefix.startswith("lora_unet_") else "text_encoder"
        module = kohya.get(prefix, "")
        half = {"lora_down.weight": "down", "lora_up.weight": "up", "alpha": "alpha"}.get(rest, "")
    else:
        part, path = (prefix, rest) if prefix in ("unet", "text_encoder") else ("unet", name)
        if prefix == "transformer":
            path = rest
        matched = _HALF.search(path)
        half = {"A": "down", "B": "up"}.get(matched["half"], matched["half"]) if matched else ""
        module = path[: matched.start()] if matched else path
        if path.endswith(".alpha"):
            module, half = path.removesuffix(".alpha"), "alpha"
            module = re.sub(r"(\.lora_linear_layer|\.lora|_lora)$", "", module)
        module = _diffusers(module, part)
    known = backbone.unet if part == "unet" else backbone.text
    if not half or len(known[f"{module}.weight"].shape if f"{module}.weight" in known else ()) < 2:
        raise _bad(f"the tensor {name} belongs to no layer of the backbone that a LoRA can change", where)
    return part, module, half


def _check_part(tensors: LazyTensors, backbone: BackboneTensors, where: str) -> None:
    """Return when the parts that the names tell are the backbone's: one denoiser, one text encoder."""
    family = family_of(backbone.unet)
    second = next((name for name in tensors if name.startswith(_SECOND)), None)
    if second is not None and family in ("sd1", "sd2"):
        raise _bad(f"it changes a second text encoder ({second}), as of SDXL, SD 3.x and Flux", where)
    if second is not None:
        network = "UNet" if family == "sdxl" else "transformer"
        raise _bad(
            f"it changes text encoders of {LAYOUTS[family].title} too ({second}), which is not supported",
            where,
            f"pass a LoRA of the {network} alone, or fuse this one with diffusers (load_lora_weights, fuse_lora, "
            "save_pretrained) and name the folder that this gives as a backbone",
        )
    native = next((name for name in tensors if re.search(r"(joint|double|single)_blocks[._]\d", name)), None)
    if native is not None and is_transformer(backbone.unet):
        raise _bad(
            f"it has the names of the model's authors ({native}), not diffusers'",
            where,
            "convert it with diffusers: load_lora_weights, then save_lora_weights",
        )
    check_denoiser(tensors, backbone.unet, where)


def _diffusers(module: str, part: str) -> str:
    """Return the backbone's path of a module as diffusers' older and newer training scripts call it."""
    module = module.replace(".processor.", ".")
    if part == "unet":
        return f"{module}.0" if module.endswith(".to_out") else module
    module = module.removeprefix("text_model.")
    owner, _, leaf = module.rpartition(".")
    return f"{owner}.{_TEXT_ATTENTION[leaf]}" if leaf in _TEXT_ATTENTION else module


def _kohya(tensors: LazyTensors, backbone: BackboneTensors) -> dict[str, str]:
    """Return the backbone's module path by the first part of each of kohya's names, empty where the backbone has no such module.

    kohya's scripts write underscores for a path's dots. They train SDXL's UNet in latent-diffusion's code, and its modules have
    the paths of that code; the others have diffusers'.
    """

    def paths(prefix: str, part: LazyTensors) -> dict[str, str]:
        modules = [name.removesuffix(".weight") for name in part if name.endswith(".weight")]
        return {prefix + module.replace(".", "_"): module for module in modules}

    known = {**paths("lora_unet_", backbone.unet), **paths("lora_te_text_model_", backbone.text)}
    layers = len({name.split(".")[3] for name in backbone.unet if name.startswith("down_blocks.0.resnets.")})

    def path(name: str) -> str:
        original = flat_unet_name(name.removeprefix("lora_unet_"), layers)
        return known.get(name) or known.get(f"lora_unet_{original}", "")

    return {name: path(name) for name in {name.partition(".")[0] for name in tensors if name.startswith("lora_")}}


def _settings(metadata: Mapping[str, str], where: str) -> dict[str, dict[str, object]]:
    """Return alpha and kind of scaling by part, from the adapter metadata that diffusers writes."""
    try:
        flat = parse_json(metadata.get(METADATA, "{}"))
    except ForeignError as error:
        raise _bad(f"its metadata {METADATA!r} cannot be read: {error}", where) from None
    if not isinstance(flat, dict):
        raise _bad(f"its metadata {METADATA!r} is no JSON object", where)
    settings: dict[str, dict[str, object]] = {}
    for name, value in flat.items():
        part, _, field = name.partition(".")
        settings.setdefault(part, {})[field] = value
    for part, fields in settings.items():
        beyond = [field for field in ("use_dora", "alpha_pattern", "use_rslora") if fields.get(field)]
        if beyond:
            raise _bad(f"its {part} was trained with {beyond[0]}, which is not supported", where)
    return settings


def _pair(
    tensors: LazyTensors,
    module: str,
    halves: Mapping[str, str],
    weight: tuple[int, ...],
    settings: Mapping[str, object],
    where: str,
) -> Pair:
    missing = {"down", "up"} - set(halves)
    if missing:
        raise _bad(f"the layer {module} lacks its {sorted(missing)[0]} half", where)
    down, up = tensors[halves["down"]], tensors[halves["up"]]
    out, into, *kernel = weight
    rank = down.shape[0] if down.shape else 0
    wanted = ((rank, into, *kernel), (out, rank, *[1] * len(kernel)))
    if rank < 1 or (down.shape, up.shape) != wanted:
        raise _bad(f"the pair of {module} has shapes {down.shape} and {up.shape}, its weight has {weight}", where)
    alpha: object = rank
    if "alpha" in halves:
        scalar = tensors[halves["alpha"]]
        alpha = float(finite(halves["alpha"], scalar, where).float()) if scalar.size == 1 else None
    elif settings.get("lora_alpha") is not None:
        alpha = settings["lora_alpha"]
    if isinstance(alpha, bool) or not isinstance(alpha, int | float) or not 0 < alpha <= _LARGEST:
        raise _bad(f"the alpha of {module} is no positive number up to {_LARGEST:g}", where)
    return Pair(down, up, alpha / rank, weight)


def _check_values(lora: Lora, where: str) -> None:
    acting = False
    for name, pair in (*lora.unet.items(), *lora.text.items()):
        for half in (pair.down, pair.up):
            finite(name, half, where)
        delta = pair.delta()
        if not torch.isfinite(delta).all():
            raise _bad(f"what it adds to {name} is not finite", where)
        acting |= bool(delta.any())
    if not acting:
        what = "its output halves are all zero, as before training" if lora.pairs else "it is empty"
        raise _bad(f"the LoRA changes nothing: {what}", where)


def _bad(why: str, where: str, next_step: str = _NEXT) -> CheckpointError:
    return CheckpointError(f"the personalisation cannot be used: {why}", where=where, next_step=next_step)
