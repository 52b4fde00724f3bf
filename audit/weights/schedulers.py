"""Which class of diffusers a sampler's scheduler is, and with which settings, from the backbone's scheduler_config.json.

Nothing here imports torch, so that a plan already refuses a folder that a run could not use.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Literal, TypeAlias

from audit.errors import CheckpointError
from audit.files import Document
from audit.weights import settings
from audit.weights.families import FLUX_SIDE, LAYOUTS, family_of
from audit.weights.files import read_json

Kind: TypeAlias = Literal["epsilon", "v_prediction", "flow"]  # see `audit.diffusion.levels`
DDIM, AS_PIPELINE, LCM = "ddim", "as-pipeline", "lcm"
# What says where the noise levels and the grid lie. Every class takes these from the folder, whatever it is called.
_GRID = (
    "beta_start", "beta_end", "beta_schedule", "trained_betas", "rescale_betas_zero_snr", "num_train_timesteps",
    "steps_offset", "set_alpha_to_one", "timestep_spacing",
)  # fmt: skip
# Name in a spec -> class, what the name means, and what else of the folder's settings it takes.
_NAMED: Mapping[str, tuple[str, Document, tuple[str, ...]]] = {
    DDIM: ("DDIMScheduler", {"clip_sample": False, "timestep_spacing": "leading"}, ()),
    "euler": ("EulerDiscreteScheduler", {}, ()),
    "euler-ancestral": ("EulerAncestralDiscreteScheduler", {}, ()),
    "dpm++2m": ("DPMSolverMultistepScheduler", {"algorithm_type": "dpmsolver++", "solver_order": 2}, ()),
    "dpm++2m-karras": (
        "DPMSolverMultistepScheduler",
        {"algorithm_type": "dpmsolver++", "solver_order": 2, "use_karras_sigmas": True},
        (),
    ),
    "pndm": ("PNDMScheduler", {"skip_prk_steps": True}, ("skip_prk_steps",)),  # as Stable Diffusion is published
    "unipc": ("UniPCMultistepScheduler", {}, ()),
    LCM: ("LCMScheduler", {}, ("original_inference_steps", "timestep_scaling")),
}
# How the class in the folder walks the grid, which DDIM would ignore.
WALK = (
    "timestep_spacing", "clip_sample", "thresholding", "use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas",
    "use_lu_lambdas", "sigma_min", "sigma_max", "final_sigmas_type", "timestep_type", "interpolation_type",
)  # fmt: skip
# What StableDiffusionPipeline sets in its scheduler, whatever the folder says; StableDiffusionXLPipeline sets nothing.
_CORRECTIONS: Document = {"steps_offset": 1, "clip_sample": False}
# Stable Diffusion v1.x as it is published, for a backbone whose files are not here.
PUBLISHED: Document = {
    "_class_name": "PNDMScheduler",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "num_train_timesteps": 1000,
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "steps_offset": 1,
    "_corrected": True,
}


# Settings by which a flow's grid is shifted with the number of image tokens, and the class's defaults.
_DYNAMIC: Mapping[str, float] = {
    "base_image_seq_len": 256,
    "max_image_seq_len": 4096,
    "base_shift": 0.5,
    "max_shift": 1.15,
}


@dataclasses.dataclass(frozen=True)
class Chosen:
    """A class of diffusers by its name, and the settings that it gets; it may ignore some."""

    named: str
    settings: Mapping[str, object] = dataclasses.field(hash=False)


def own_scheduler(folder: Path) -> Document:
    """Return the settings in a pipeline folder, as they are written, with the name of the class in `_class_name`.

    Beside them stands what diffusers' pipeline does with them. A diffusion's: `_corrected`, whether it is one that sets
    `steps_offset` to 1 and `clip_sample` to false, as StableDiffusionPipeline does and StableDiffusionXLPipeline does not. A
    flow's: `_image_tokens` of a picture of the backbone's own size, and `_even`, whether noise levels fall evenly to 1 / steps
    before they are shifted, as FluxPipeline sets them.
    """
    written, index = read_json(folder / "scheduler" / "scheduler_config.json"), read_json(folder / "model_index.json")
    found = {**written, "_class_name": index["scheduler"][1]}
    if not is_flow(found):
        unet = read_json(folder / "unet" / "config.json")
        return {**found, "_corrected": family_of(index, unet, written) in ("sd1", "sd2")}
    network = read_json(folder / "transformer" / "config.json")
    flux = index["_class_name"] in LAYOUTS["flux"].pipelines
    side = (FLUX_SIDE if flux else int(network["sample_size"])) // (2 if flux else int(network["patch_size"]))
    return {**found, "_image_tokens": side * side, "_even": flux}


def is_flow(written: Mapping[str, object]) -> bool:
    """Return whether a folder's scheduler is a flow's, which is sampled by its own class alone."""
    return str(written.get("_class_name", "")).startswith("FlowMatch")


def flow_timesteps(written: Mapping[str, object], steps: int) -> tuple[float, ...]:
    """Return the timesteps in (0, 1000], noisiest first, that FlowMatchEulerDiscreteScheduler takes on a flow's folder.

    `written` is what `own_scheduler` returns. Of a grid that is shifted by the picture's size these are those of the backbone's
    own size. Rounded to a thousandth.
    """
    shift = shifted = float(str(written.get("shift", 1.0)))
    if written.get("use_dynamic_shifting"):
        # As `calculate_shift` of diffusers' pipelines, and the class's `time_shift`.
        few, many, low, high = (float(str(written.get(name, default))) for name, default in _DYNAMIC.items())
        mu = low + (high - low) * (float(str(written["_image_tokens"])) - few) / (many - few)
        shift, shifted = (mu if written.get("time_shift_type") == "linear" else math.exp(mu)), 1.0
    # The class's own range ends at its last training level, which a fixed shift has moved already.
    last = 1 / steps if written.get("_even") else _shifted(0.001, shifted)
    even = (1.0 - i * (1.0 - last) / max(1, steps - 1) for i in range(steps))
    return tuple(round(1000 * _shifted(level, shift), 3) for level in even)


def _shifted(level: float, shift: float) -> float:
    return shift * level / (1 + (shift - 1) * level)


def prediction_kind(written: Mapping[str, object]) -> Kind:
    """Return what a pipeline's network predicts, by its scheduler's settings. Raises `CheckpointError` for any other kind."""
    if is_flow(written):
        return "flow"
    match written.get("prediction_type", "epsilon"):
        case "epsilon":
            return "epsilon"
        case "v_prediction":
            return "v_prediction"
        case other:
            raise CheckpointError(
                f"the scheduler predicts {other!r}; only epsilon, v_prediction and flow matching are supported",
                where="scheduler/scheduler_config.json",
                next_step="use a pipeline folder of one of the supported families",
            )


def choose(written: Mapping[str, object], scheduler: str) -> Chosen:
    """Return what a spec's `scheduler` is on a folder that has `written` this, as `own_scheduler` returns it."""
    plain = {name: value for name, value in written.items() if not name.startswith("_")}
    if written.get("_corrected"):
        plain |= _CORRECTIONS
    if scheduler == AS_PIPELINE:
        return Chosen(str(written["_class_name"]), MappingProxyType(plain))
    named, meant, further = _NAMED[scheduler]
    kept = {name: plain[name] for name in (*_GRID, *further) if name in plain}
    if scheduler == DDIM:
        return Chosen(named, MappingProxyType({**kept, **meant}))
    return Chosen(named, MappingProxyType({**meant, **kept}))


def further_classes(schedulers: Collection[str]) -> tuple[str, ...]:
    """Return the classes of a folder that these schedulers can do with, beside those on DDIM's grid."""
    return () if DDIM in schedulers else tuple(settings.OWN_SCHEDULERS)


def honoured(schedulers: Collection[str]) -> frozenset[str]:
    """Return the settings of a folder that all of these schedulers honour where DDIM would ignore them."""
    each = {DDIM: frozenset[str](), AS_PIPELINE: frozenset(WALK)}
    return frozenset(WALK).intersection(*(each.get(name, frozenset({"timestep_spacing"})) for name in schedulers))
