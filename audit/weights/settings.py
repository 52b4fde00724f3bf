"""The settings of a Stable Diffusion 1.x folder that the audit honours; those that it would ignore are reported by name.

Nothing here imports torch, so that a plan already refuses a folder that a run could not use.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import TypeGuard

from audit.files import Document

Settings = Document

# The only classes that a part may name. Parts are loaded by these, whatever model_index.json says.
CLASSES: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "unet": ("diffusers", ("UNet2DConditionModel",)),
    "vae": ("diffusers", ("AutoencoderKL",)),
    "text_encoder": ("transformers", ("CLIPTextModel",)),
    "tokenizer": ("transformers", ("CLIPTokenizer", "CLIPTokenizerFast")),
}
# Parts that other pipelines use and this one does not; never imported. The safety checker would black pictures out.
IGNORED_PARTS = ("safety_checker", "feature_extractor", "image_encoder")
_PIPELINES = ("StableDiffusionPipeline", "StableDiffusionPipelineSafe", "StableDiffusionImg2ImgPipeline")

# Samplers of diffusers on the same noise levels, with the defaults in which their classes differ. Pictures are sampled
# with DDIM whichever of them a folder names, so these say only where the grid lies.
_COMMON = {
    "beta_start": 0.0001,
    "beta_end": 0.02,
    "beta_schedule": "linear",
    "num_train_timesteps": 1000,
    "steps_offset": 0,
    "prediction_type": "epsilon",
    "timestep_spacing": "leading",
    "set_alpha_to_one": True,
}
SCHEDULERS: Mapping[str, Settings] = {
    "PNDMScheduler": {**_COMMON, "set_alpha_to_one": False},
    "DDIMScheduler": {**_COMMON, "clip_sample": True},
    "DDPMScheduler": {**_COMMON, "clip_sample": True},
    **{
        f"{name}Scheduler": {**_COMMON, "timestep_spacing": "linspace"}
        for name in (
            "LMSDiscrete", "EulerDiscrete", "EulerAncestralDiscrete", "DPMSolverMultistep", "UniPCMultistep",
            "DEISMultistep",
        )
    },
}  # fmt: skip
# Samplers that DDIM cannot stand in for: supported where a run samples as its folder says.
OWN_SCHEDULERS: Mapping[str, Settings] = {
    "HeunDiscreteScheduler": {**_COMMON, "beta_start": 0.00085, "beta_end": 0.012, "timestep_spacing": "linspace"},
    "LCMScheduler": {**_COMMON, "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"},
}
# What shapes samples or the grid in ways that are not honoured -> the only value, beside null, that changes nothing.
_NEUTRAL_SCHEDULER: Settings = {
    "timestep_spacing": "leading",
    "clip_sample": False,
    "thresholding": False,
    "trained_betas": None,
    "rescale_betas_zero_snr": False,
    "use_karras_sigmas": False,
    "use_exponential_sigmas": False,
    "use_beta_sigmas": False,
    "use_lu_lambdas": False,
    "use_flow_sigmas": False,
    "use_dynamic_shifting": False,
    "shift_terminal": None,
    "sigma_min": None,
    "sigma_max": None,
    "final_sigmas_type": "zero",
    "timestep_type": "discrete",
    "interpolation_type": "linear",
}
# How another solver walks the grid, and details of what is neutral above: without meaning for DDIM.
_SOLVER = (
    "skip_prk_steps", "variance_type", "dynamic_thresholding_ratio", "clip_sample_range", "sample_max_value",
    "solver_order", "algorithm_type", "solver_type", "lower_order_final", "euler_at_final", "lambda_min_clipped",
    "predict_x0", "disable_corrector", "solver_p", "flow_shift", "time_shift_type", "original_inference_steps",
    "timestep_scaling",
)  # fmt: skip
# Inputs beside latent, timestep and text, which the sampler never gives.
_NEUTRAL_UNET: Settings = {
    "class_embed_type": None,
    "num_class_embeds": None,
    "projection_class_embeddings_input_dim": None,
    "class_embeddings_concat": False,
    "addition_embed_type": None,
    "addition_time_embed_dim": None,
    "encoder_hid_dim": None,
    "encoder_hid_dim_type": None,
    "time_cond_proj_dim": None,
    "attention_type": "default",
    "dual_cross_attention": False,
}
_NEUTRAL_VAE: Settings = {"shift_factor": None, "latents_mean": None, "latents_std": None}
# Stable Diffusion 1.x is conditioned by CLIP ViT-L/14 of OpenAI; another activation is another family's encoder.
_NEUTRAL_TEXT: Settings = {"hidden_act": "quick_gelu", "quantization_config": None}

_LARGEST = 1_000_000  # of any width or count: far beyond every model of the family
_DEEPEST = 64  # layers of a text encoder
_BLOCKS = 8  # of one list
_LAYERS = 256  # blocks times layers times transformer layers; Stable Diffusion XL has 60
_SIDE = 256  # of latents: pictures of 2048 pixels

Check = Callable[[object], bool]


def _whole(value: object, low: int = 1, high: int = _LARGEST) -> bool:
    return type(value) is int and low <= value <= high


def _few(value: object) -> bool:
    return _whole(value, 0, _DEEPEST)


def _number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and 1e-9 <= value <= 1e9


def _finite(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= 1e9


def _token(value: object) -> bool:
    return value is None or _whole(value, 0)


def _each(check: Check) -> Check:
    return lambda value: isinstance(value, list) and 0 < len(value) <= _BLOCKS and all(check(item) for item in value)


def _either(*checks: Check) -> Check:
    return lambda value: any(check(value) for check in checks)


def _one_of(*values: object) -> Check:
    return lambda value: any(type(value) is type(known) and value == known for known in values)


_WIDTHS, _ABSENT = _each(_whole), _one_of(None)
# Field -> (what it has to be, in words; the check; whether it may be left out).
_UNET: Mapping[str, tuple[str, Check, bool]] = {
    "sample_size": ("one number (of latents)", lambda value: _whole(value, 1, _SIDE), False),
    "block_out_channels": ("a list of widths", _WIDTHS, False),
    "cross_attention_dim": ("one width", _whole, False),
    "attention_head_dim": ("a number above 0, or a list of them", _either(_whole, _WIDTHS), True),
    "num_attention_heads": ("a number above 0, or a list of them", _either(_ABSENT, _whole, _WIDTHS), True),
    "layers_per_block": ("a number of layers, or a list of them", _either(_few, _each(_few)), True),
    "transformer_layers_per_block": ("a number of layers, or a list of them", _either(_few, _each(_few)), True),
    "norm_num_groups": ("a number above 0", _either(_ABSENT, _whole), True),
    "freq_shift": ("a number", _finite, True),
    "flip_sin_to_cos": ("true or false", _one_of(True, False), True),
}
_VAE: Mapping[str, tuple[str, Check, bool]] = {
    "block_out_channels": ("a list of widths", _WIDTHS, False),
    "in_channels": ("3", _one_of(3), True),
    "out_channels": ("3", _one_of(3), True),
    "latent_channels": ("4", _one_of(4), True),
    "layers_per_block": ("a number of layers", _few, True),
    "norm_num_groups": ("a number above 0", _whole, True),
    "scaling_factor": ("a number above 0", _number, True),
}
_TEXT_ENCODER: Mapping[str, tuple[str, Check, bool]] = {
    "model_type": ("clip_text_model", _one_of("clip_text_model"), True),
    "hidden_size": ("one width", _whole, False),
    "vocab_size": ("a number above 0", _whole, False),
    "max_position_embeddings": ("a number above 2", lambda value: _whole(value, 3), False),
    "num_hidden_layers": ("a number of layers", lambda value: _whole(value, 1, _DEEPEST), True),
    "num_attention_heads": ("a number above 0", _whole, True),
    "intermediate_size": ("one width", _whole, True),
    "bos_token_id": ("a token's number", _token, True),
    "eos_token_id": ("a token's number", _token, True),
    "pad_token_id": ("a token's number", _token, True),
}
_SCHEDULER: Mapping[str, tuple[str, Check, bool]] = {
    "beta_start": ("a number above 0 and below 1", lambda value: _number(value) and value < 1, True),
    "beta_end": ("a number above 0 and below 1", lambda value: _number(value) and value < 1, True),
    "beta_schedule": ("", _one_of("linear", "scaled_linear", "squaredcos_cap_v2"), True),
    "num_train_timesteps": ("", _one_of(1000), True),
    "steps_offset": ("0 or 1", _one_of(0, 1), True),
    "set_alpha_to_one": ("true or false", _one_of(True, False), True),
}


def class_problem(index: Settings, further: Collection[str] = ()) -> str | None:
    """Return the first problem with the classes that a model_index.json names; None when each is the family's.

    Schedulers of the classes in `further` are supported too.
    """
    named = index.get("_class_name", _PIPELINES[0])
    if named not in _PIPELINES:
        return f"is a {_shown(named)}, which works otherwise than a {_PIPELINES[0]}"
    for part, loader in index.items():
        if part.startswith("_") or part in IGNORED_PARTS or not isinstance(loader, list) or loader == [None, None]:
            continue
        if part == "scheduler":
            library, classes = "diffusers", (*SCHEDULERS, *further)
        elif part in CLASSES:
            library, classes = CLASSES[part]
        else:
            return f"has a part {part!r} ({_shown(loader)}), which the audit does not know and would ignore"
        if len(loader) != 2 or loader[0] != library or loader[1] not in classes:
            known = " or ".join(classes) if len(classes) < 3 else ", ".join(classes)
            return f"has a {part} of class {_shown(loader)}, and only {known} of {library} is supported"
    return None


def unet_problem(unet: Settings) -> str | None:
    """Return the first problem with a UNet's settings; None when all are honoured."""
    return (
        _class(unet, "UNet", "UNet2DConditionModel")
        or _problem(unet, "a UNet", _UNET, _NEUTRAL_UNET)
        or _depth(unet, "a UNet")
    )


def vae_problem(vae: Settings) -> str | None:
    """Return the first problem with a VAE's settings; None when all are honoured."""
    return _class(vae, "VAE", "AutoencoderKL") or _problem(vae, "a VAE", _VAE, _NEUTRAL_VAE) or _depth(vae, "a VAE")


def text_problem(text: Settings) -> str | None:
    """Return the first problem with a text encoder's settings; None when all are honoured."""
    problem = _problem(text, "a text encoder", _TEXT_ENCODER, _NEUTRAL_TEXT)
    if problem is None and text["hidden_size"] % text.get("num_attention_heads", 8):
        problem = f"has a text encoder with hidden_size {text['hidden_size']}, which its attention heads do not divide"
    return problem


def scheduler_problem(scheduler: Settings, named: str, honoured: Collection[str] = ()) -> str | None:
    """Return the first problem with the settings of a scheduler of class `named`; None when DDIM honours or does not
    need them. Settings in `honoured` may have any value: the run's samplers take them.
    """
    if scheduler.get("_class_name", named) != named:
        own = _shown(scheduler["_class_name"])
        return f"has a scheduler that model_index.json calls {named} and scheduler_config.json {own}"
    settings = scheduler_settings(scheduler, named)
    neutral = {name: nothing for name, nothing in _NEUTRAL_SCHEDULER.items() if name not in honoured}
    problem = _problem(settings, "a scheduler", _SCHEDULER, neutral)
    if problem is not None:
        written = _problem(scheduler, "a scheduler", _SCHEDULER, neutral)
        return (
            problem if written else f"{problem}: it is the default of {named}, and scheduler_config.json says nothing"
        )
    known = {*_SCHEDULER, *_NEUTRAL_SCHEDULER, *_SOLVER, "prediction_type"}
    for name, value in settings.items():
        if name not in known and not name.startswith("_") and value not in (None, False):
            return f"has a scheduler with {_shown(name)} {_shown(value)}, which the audit does not know"
    if settings["beta_start"] > settings["beta_end"]:
        return f"has a scheduler with beta_start {settings['beta_start']} above beta_end {settings['beta_end']}"
    return None


def scheduler_settings(scheduler: Settings, named: str) -> Settings:
    """Return a scheduler's settings, with the defaults of its class `named` for those that it leaves out."""
    return {**SCHEDULERS.get(named, OWN_SCHEDULERS.get(named, _COMMON)), **scheduler}


def _class(settings: Settings, part: str, expected: str) -> str | None:
    named = settings.get("_class_name", expected)
    return None if named == expected else f"has a {part} of class {_shown(named)}, and only {expected} is supported"


def _depth(settings: Settings, part: str) -> str | None:
    """Return the problem of a network that would take minutes to lay out, None for one of a usual depth."""
    layers = len(settings["block_out_channels"])
    for name in ("layers_per_block", "transformer_layers_per_block"):
        value = settings.get(name, 1)
        layers *= max(value) if isinstance(value, list) else value
    return f"has {part} of {layers} layers, and at most {_LAYERS} are supported" if layers > _LAYERS else None


def _problem(
    settings: Settings, part: str, fields: Mapping[str, tuple[str, Check, bool]], neutral: Settings
) -> str | None:
    for name, (needed, check, may_lack) in fields.items():
        if name not in settings and may_lack:
            continue
        if name not in settings:
            return f"has {part} without {name}"
        if not check(settings[name]):
            wanted = f"; {needed} is needed" if needed else ", which is not supported"
            return f"has {part} with {name} {_shown(settings[name])}{wanted}"
    for name, nothing in neutral.items():
        value = settings.get(name)
        if value is not None and (type(value) is not type(nothing) or value != nothing):
            instead = "" if nothing is None else f" (only {_shown(nothing)} is)"
            return f"has {part} with {name} {_shown(value)}, which is not supported{instead}"
    return None


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
