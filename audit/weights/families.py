"""The families of pipelines that can be audited: the parts of each, and the settings that it honours.

Nothing here imports torch, so that a plan already refuses a folder that a run could not use.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Mapping
from typing import Literal, TypeAlias

from audit.errors import SpecError
from audit.files import Document
from audit.weights import settings
from audit.weights.setting_checks import shown

Family: TypeAlias = Literal["sd1", "sd2", "sdxl", "sd3", "flux"]
Settings: TypeAlias = Document

_CLIP, _PROJECTED = ("transformers", ("CLIPTextModel",)), ("transformers", ("CLIPTextModelWithProjection",))
_T5, _T5_TOKENS = ("transformers", ("T5EncoderModel",)), ("transformers", ("T5TokenizerFast", "T5Tokenizer"))
_TOKENS = settings.CLASSES["tokenizer"]
_UNET, _VAE = settings.CLASSES["unet"], settings.CLASSES["vae"]
_DIFFUSION = ("diffusers", tuple(settings.SCHEDULERS))
_FLOW = ("diffusers", ("FlowMatchEulerDiscreteScheduler",))


@dataclasses.dataclass(frozen=True)
class Layout:
    """The parts of a family by name, each as (library, classes); `optional` ones may be left out, as [null, null].

    `title` names the family in messages, `pipelines` are the classes of its model_index.json.
    """

    title: str
    pipelines: tuple[str, ...]
    parts: Mapping[str, tuple[str, tuple[str, ...]]]
    optional: tuple[str, ...] = ()

    @property
    def network(self) -> str:
        """The part that denoises: `unet` or `transformer`."""
        return "unet" if "unet" in self.parts else "transformer"

    def encoders(self) -> tuple[str, ...]:
        """Return the parts that read text."""
        return tuple(part for part in self.parts if part.startswith("text_encoder"))


_UNET_PARTS = {"unet": _UNET, "vae": _VAE, "text_encoder": _CLIP, "tokenizer": _TOKENS, "scheduler": _DIFFUSION}
LAYOUTS: Mapping[Family, Layout] = {
    "sd1": Layout("Stable Diffusion 1.x", settings.PIPELINES, _UNET_PARTS),
    "sd2": Layout("Stable Diffusion 2.x", settings.PIPELINES, _UNET_PARTS),
    "sdxl": Layout(
        "SDXL",
        ("StableDiffusionXLPipeline", "StableDiffusionXLImg2ImgPipeline"),
        {**_UNET_PARTS, "text_encoder_2": _PROJECTED, "tokenizer_2": _TOKENS},
    ),
    "sd3": Layout(
        "Stable Diffusion 3.x",
        ("StableDiffusion3Pipeline", "StableDiffusion3Img2ImgPipeline"),
        {
            "transformer": ("diffusers", ("SD3Transformer2DModel",)),
            "vae": _VAE,
            "text_encoder": _PROJECTED,
            "tokenizer": _TOKENS,
            "text_encoder_2": _PROJECTED,
            "tokenizer_2": _TOKENS,
            "text_encoder_3": _T5,
            "tokenizer_3": _T5_TOKENS,
            "scheduler": _FLOW,
        },
        ("text_encoder_3", "tokenizer_3"),
    ),
    "flux": Layout(
        "Flux",
        ("FluxPipeline", "FluxImg2ImgPipeline"),
        {
            "transformer": ("diffusers", ("FluxTransformer2DModel",)),
            "vae": _VAE,
            "text_encoder": _CLIP,
            "tokenizer": _TOKENS,
            "text_encoder_2": _T5,
            "tokenizer_2": _T5_TOKENS,
            "scheduler": _FLOW,
        },
    ),
}
FLUX_SIDE = 128  # of latents: pictures of 1024 pixels; Flux's configuration names no size
# Tokens that T5 reads unless model_index.json says otherwise under this key; diffusers' pipelines take as many by default.
# Where Stable Diffusion 3 comes without T5, as many zeros stand in its place.
T5_LENGTH, T5_LENGTHS = "_t5_length", {"sd3": 256, "flux": 512}
FAMILIES: tuple[Family, ...] = tuple(LAYOUTS)
GUIDED: tuple[Family, ...] = ("sd1", "sd2", "sdxl", "sd3")  # by a second evaluation under the null prompt
SUPPORTED = ", ".join(layout.title for layout in LAYOUTS.values())


def require_family(family: Family, able: Collection[str], what: str, where: str) -> None:
    """Raise `SpecError` at `where` unless `what`, a method for the families `able`, can act on a backbone of `family`."""
    if family not in able:
        others = ", ".join(layout.title for name, layout in LAYOUTS.items() if name in able)
        raise SpecError(
            f"{what} cannot act on a {LAYOUTS[family].title} backbone; it is for {others}",
            where=where,
            next_step="take another method, or a backbone of one of these families",
        )


def family_of(index: Settings, unet: Settings, scheduler: Settings) -> Family | None:
    """Return the family of a pipeline by its model_index.json and the settings of its UNet ({} without one) and scheduler.

    None for a transformer of any other class.
    """
    if "transformer" in index:
        named = (
            index["transformer"][1]
            if isinstance(index["transformer"], list) and len(index["transformer"]) == 2
            else None
        )
        return {"SD3Transformer2DModel": "sd3", "FluxTransformer2DModel": "flux"}.get(str(named))  # type: ignore[return-value]
    if index.get("text_encoder_2") or unet.get("addition_embed_type"):
        return "sdxl"
    second = unet.get("cross_attention_dim") == 1024 or unet.get("use_linear_projection")
    return "sd2" if second or scheduler.get("prediction_type") == "v_prediction" else "sd1"


def class_problem(index: Settings, family: Family, further: Collection[str] = ()) -> str | None:
    """Return the first problem with the classes that a model_index.json names; None when each is the family's.

    A diffusion's scheduler may be of the classes in `further` too.
    """
    layout = LAYOUTS[family]
    named = index.get("_class_name", layout.pipelines[0])
    if named not in layout.pipelines:
        return f"is a {shown(named)}, which works otherwise than a {layout.pipelines[0]}"
    for part, loader in index.items():
        if (
            part.startswith("_")
            or part in settings.IGNORED_PARTS
            or not isinstance(loader, list)
            or loader == [None, None]
        ):
            continue
        if part not in layout.parts:
            return f"has a part {part!r} ({shown(loader)}), which the audit does not know and would ignore"
        library, classes = layout.parts[part]
        if part == "scheduler" and layout.network == "unet":
            classes = (*classes, *further)
        if len(loader) != 2 or loader[0] != library or loader[1] not in classes:
            known = " or ".join(classes) if len(classes) < 3 else ", ".join(classes)
            return f"has a {part} of class {shown(loader)}, and only {known} of {library} is supported"
    for part in layout.parts:
        if part not in layout.optional and not _named(index.get(part)):
            lack = "; T5 is what Flux reads prompts with" if family == "flux" and part.endswith("_2") else ""
            return f"has no {part} that model_index.json says how to load{lack}"
    if _named(index.get("text_encoder_3")) != _named(index.get("tokenizer_3")):
        return "has one of text_encoder_3 and tokenizer_3 without the other: T5 is loaded whole or not at all"
    return None


def settings_problem(
    family: Family, read: Callable[[str], Settings], index: Settings, honoured: Collection[str] = ()
) -> str | None:
    """Return the first problem with the settings of a family's parts; `read` gives those of a part.

    Settings of a diffusion's scheduler in `honoured` may have any value.
    """
    flow, layout = family in ("sd3", "flux"), LAYOUTS[family]
    activations = ("quick_gelu",) if family == "sd1" else ("quick_gelu", "gelu")
    network, named = read(layout.network), index["scheduler"][1]
    problem = (
        settings.transformer_problem(network, layout.parts["transformer"][1][0])
        if flow
        else settings.unet_problem(network, sized=family == "sdxl")
    )
    problem = problem or settings.vae_problem(read("vae"), flow=flow)
    for part in layout.encoders():
        if problem is None and _is_clip(index, part):
            problem = settings.text_problem(read(part), activations=activations)
    problem = problem or width_problem(family, read, index)
    if problem is not None:
        return problem
    scheduler = read("scheduler")
    return settings.flow_problem(scheduler, named) if flow else settings.scheduler_problem(scheduler, named, honoured)


def width_problem(family: Family, read: Callable[[str], Settings], index: Settings) -> str | None:
    """Return the first problem with widths that do not fit together; `read` gives the settings of a part."""
    network = read(LAYOUTS[family].network)
    clips = [read(part) for part in LAYOUTS[family].encoders() if _is_clip(index, part)]
    width, channels = sum(int(clip["hidden_size"]) for clip in clips), int(read("vae").get("latent_channels", 4))
    match family:
        case "sdxl":
            wanted = {"cross_attention_dim": (width, "its text encoders' widths")}
            t5 = None
        case "sd3":
            projected = sum(int(clip.get("projection_dim", 512)) for clip in clips)
            wanted = {
                "in_channels": (channels, "its VAE's latent_channels"),
                "pooled_projection_dim": (projected, "its text encoders' projections"),
            }
            t5 = read("text_encoder_3") if has_t5(index, family) else None
        case "flux":
            wanted = {
                "in_channels": (4 * channels, "four times its VAE's latent_channels"),
                "pooled_projection_dim": (width, "its text encoder's width"),
            }
            t5 = read("text_encoder_2")
        case _:
            return None
    for name, (expected, what) in wanted.items():
        if network.get(name) != expected:
            return f"has a network with {name} {shown(network.get(name))}, and {what} make it {expected}"
    joint = network.get("joint_attention_dim", 0)
    if family == "sd3" and width > joint:
        return f"has a transformer with joint_attention_dim {joint} below its text encoders' width of {width}"
    return _t5_problem(t5, joint) if t5 is not None else None


def has_t5(index: Settings, family: Family) -> bool:
    """Return whether the folder brings T5."""
    part = {"sd3": "text_encoder_3", "flux": "text_encoder_2"}.get(family)
    return part is not None and _named(index.get(part))


def _is_clip(index: Settings, part: str) -> bool:
    return _named(index.get(part)) and str(index[part][1]).startswith("CLIP")


def _named(loader: object) -> bool:
    return isinstance(loader, list) and len(loader) == 2 and all(isinstance(name, str) for name in loader)


def _t5_problem(t5: Settings, width: int) -> str | None:
    if t5.get("model_type", "t5") != "t5":
        return f"has a T5 of model_type {shown(t5.get('model_type'))}; t5 is needed"
    if t5.get("d_model") != width:
        return f"has a T5 of width {shown(t5.get('d_model'))}, and its transformer's joint_attention_dim is {width}"
    return None
