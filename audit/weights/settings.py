"""The settings of a pipeline's parts that the audit honours; those that it would ignore are reported by name.

Nothing here imports torch, so that a plan already refuses a folder that a run could not use.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from audit.weights.setting_checks import (
    DEEPEST,
    LAYERS,
    SIDE,
    Fields,
    Settings,
    each,
    either,
    few,
    finite,
    number,
    one_of,
    problem_of,
    shown,
    token,
    whole,
)

# The only classes that a part may name. Parts are loaded by these, whatever model_index.json says.
CLASSES: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "unet": ("diffusers", ("UNet2DConditionModel",)),
    "vae": ("diffusers", ("AutoencoderKL",)),
    "text_encoder": ("transformers", ("CLIPTextModel",)),
    "tokenizer": ("transformers", ("CLIPTokenizer", "CLIPTokenizerFast")),
}
# Parts that other pipelines use and this one does not; never imported. The safety checker would black pictures out.
IGNORED_PARTS = ("safety_checker", "feature_extractor", "image_encoder")
PIPELINES = ("StableDiffusionPipeline", "StableDiffusionPipelineSafe", "StableDiffusionImg2ImgPipeline")

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

_WIDTHS, _ABSENT = each(whole), one_of(None)
_UNET: Fields = {
    "sample_size": ("one number (of latents)", lambda value: whole(value, 1, SIDE), False),
    "block_out_channels": ("a list of widths", _WIDTHS, False),
    "cross_attention_dim": ("one width", whole, False),
    "attention_head_dim": ("a number above 0, or a list of them", either(whole, _WIDTHS), True),
    "num_attention_heads": ("a number above 0, or a list of them", either(_ABSENT, whole, _WIDTHS), True),
    "layers_per_block": ("a number of layers, or a list of them", either(few, each(few)), True),
    "transformer_layers_per_block": ("a number of layers, or a list of them", either(few, each(few)), True),
    "norm_num_groups": ("a number above 0", either(_ABSENT, whole), True),
    "freq_shift": ("a number", finite, True),
    "flip_sin_to_cos": ("true or false", one_of(True, False), True),
}
_VAE: Fields = {
    "block_out_channels": ("a list of widths", _WIDTHS, False),
    "in_channels": ("3", one_of(3), True),
    "out_channels": ("3", one_of(3), True),
    "latent_channels": ("4", one_of(4), True),
    "layers_per_block": ("a number of layers", few, True),
    "norm_num_groups": ("a number above 0", whole, True),
    "scaling_factor": ("a number above 0", number, True),
}
_TEXT_ENCODER: Fields = {
    "model_type": ("clip_text_model", one_of("clip_text_model"), True),
    "hidden_size": ("one width", whole, False),
    "vocab_size": ("a number above 0", whole, False),
    "max_position_embeddings": ("a number above 2", lambda value: whole(value, 3), False),
    "num_hidden_layers": ("a number of layers", lambda value: whole(value, 1, DEEPEST), True),
    "num_attention_heads": ("a number above 0", whole, True),
    "intermediate_size": ("one width", whole, True),
    "bos_token_id": ("a token's number", token, True),
    "eos_token_id": ("a token's number", token, True),
    "pad_token_id": ("a token's number", token, True),
}
_SCHEDULER: Fields = {
    "beta_start": ("a number above 0 and below 1", lambda value: number(value) and value < 1, True),
    "beta_end": ("a number above 0 and below 1", lambda value: number(value) and value < 1, True),
    "beta_schedule": ("", one_of("linear", "scaled_linear", "squaredcos_cap_v2"), True),
    "num_train_timesteps": ("", one_of(1000), True),
    "steps_offset": ("0 or 1", one_of(0, 1), True),
    "set_alpha_to_one": ("true or false", one_of(True, False), True),
}
# SDXL's conditioning beside the text: pooled text and six numbers of the picture's size.
_SIZED_UNET: Fields = {
    "addition_embed_type": ("", one_of("text_time"), False),
    "addition_time_embed_dim": ("one width", whole, False),
    "projection_class_embeddings_input_dim": ("one width", whole, False),
}
_FLOW_VAE: Fields = {
    "latent_channels": ("4 or 16", one_of(4, 16), True),
    "shift_factor": ("a number", finite, False),
}
_NEUTRAL_FLOW_VAE: Settings = {"latents_mean": None, "latents_std": None}
_FLOW: Fields = {
    "num_train_timesteps": ("", one_of(1000), True),
    "shift": ("a number above 0", number, True),
    "use_dynamic_shifting": ("true or false", one_of(True, False), True),
    "base_shift": ("a number above 0", either(_ABSENT, number), True),
    "max_shift": ("a number above 0", either(_ABSENT, number), True),
    "base_image_seq_len": ("a number above 0", either(_ABSENT, whole), True),
    "max_image_seq_len": ("a number above 0", either(_ABSENT, whole), True),
    "time_shift_type": ("", one_of("exponential", "linear"), True),
}
_NEUTRAL_FLOW: Settings = {
    "invert_sigmas": False,
    "shift_terminal": None,
    "use_karras_sigmas": False,
    "use_exponential_sigmas": False,
    "use_beta_sigmas": False,
    "stochastic_sampling": False,
}
_JOINT: Fields = {
    "in_channels": ("a number above 0", whole, True),
    "num_layers": ("a number of layers", few, True),
    "attention_head_dim": ("a number above 0", whole, True),
    "num_attention_heads": ("a number above 0", whole, True),
    "joint_attention_dim": ("one width", whole, False),
    "pooled_projection_dim": ("one width", whole, False),
}
_TRANSFORMERS: Mapping[str, Fields] = {
    "SD3Transformer2DModel": {
        **_JOINT,
        "sample_size": ("one number (of latents)", lambda value: whole(value, 2, SIDE), False),
        "patch_size": ("a number above 0", whole, True),
        "caption_projection_dim": ("one width", whole, True),
        "pos_embed_max_size": ("a number above 0", lambda value: whole(value, 1, 2 * SIDE), True),
        "qk_norm": ("rms_norm, or nothing", one_of("rms_norm", "layer_norm", None), True),
    },
    "FluxTransformer2DModel": {
        **_JOINT,
        "num_single_layers": ("a number of layers", few, True),
        "guidance_embeds": ("true or false", one_of(True, False), False),
        "patch_size": ("1", one_of(1), True),
    },
}
_NEUTRAL_TRANSFORMER: Settings = {"quantization_config": None}


def unet_problem(unet: Settings, *, sized: bool = False) -> str | None:
    """Return the first problem with a UNet's settings; None when all are honoured.

    `sized` UNets, SDXL's, take pooled text and the picture's size beside the text states.
    """
    fields, neutral = _UNET, _NEUTRAL_UNET
    if sized:
        fields = {**fields, **_SIZED_UNET}
        neutral = {name: value for name, value in neutral.items() if name not in _SIZED_UNET}
    return (
        _class(unet, "UNet", "UNet2DConditionModel")
        or problem_of(unet, "a UNet", fields, neutral)
        or _depth(unet, "a UNet")
    )


def vae_problem(vae: Settings, *, flow: bool = False) -> str | None:
    """Return the first problem with a VAE's settings; None when all are honoured. Those of flows shift their latents."""
    fields, neutral = (_VAE, _NEUTRAL_VAE) if not flow else ({**_VAE, **_FLOW_VAE}, _NEUTRAL_FLOW_VAE)
    return _class(vae, "VAE", "AutoencoderKL") or problem_of(vae, "a VAE", fields, neutral) or _depth(vae, "a VAE")


def text_problem(text: Settings, *, activations: tuple[str, ...] = ("quick_gelu",)) -> str | None:
    """Return the first problem with a CLIP text encoder's settings; None when all are honoured."""
    neutral = (
        {**_NEUTRAL_TEXT, "hidden_act": text.get("hidden_act")}
        if text.get("hidden_act") in activations
        else _NEUTRAL_TEXT
    )
    problem = problem_of(text, "a text encoder", _TEXT_ENCODER, neutral)
    if problem is None and text["hidden_size"] % text.get("num_attention_heads", 8):
        problem = f"has a text encoder with hidden_size {text['hidden_size']}, which its attention heads do not divide"
    return problem


def transformer_problem(transformer: Settings, expected: str) -> str | None:
    """Return the first problem with the settings of a transformer of the class `expected`; None when all are honoured."""
    return _class(transformer, "transformer", expected) or problem_of(
        transformer, "a transformer", _TRANSFORMERS[expected], _NEUTRAL_TRANSFORMER
    )


def flow_problem(scheduler: Settings, named: str) -> str | None:
    """Return the first problem with the settings of a flow's scheduler; None when all are honoured."""
    if scheduler.get("_class_name", named) != named:
        own = shown(scheduler["_class_name"])
        return f"has a scheduler that model_index.json calls {named} and scheduler_config.json {own}"
    return problem_of(scheduler, "a scheduler", _FLOW, _NEUTRAL_FLOW)


def scheduler_problem(scheduler: Settings, named: str, honoured: Collection[str] = ()) -> str | None:
    """Return the first problem with the settings of a scheduler of class `named`; None when DDIM honours or does not
    need them. Settings in `honoured` may have any value: the run's samplers take them.
    """
    if scheduler.get("_class_name", named) != named:
        own = shown(scheduler["_class_name"])
        return f"has a scheduler that model_index.json calls {named} and scheduler_config.json {own}"
    settings = scheduler_settings(scheduler, named)
    neutral = {name: nothing for name, nothing in _NEUTRAL_SCHEDULER.items() if name not in honoured}
    problem = problem_of(settings, "a scheduler", _SCHEDULER, neutral)
    if problem is not None:
        written = problem_of(scheduler, "a scheduler", _SCHEDULER, neutral)
        return (
            problem if written else f"{problem}: it is the default of {named}, and scheduler_config.json says nothing"
        )
    known = {*_SCHEDULER, *_NEUTRAL_SCHEDULER, *_SOLVER, "prediction_type"}
    for name, value in settings.items():
        if name not in known and not name.startswith("_") and value not in (None, False):
            return f"has a scheduler with {shown(name)} {shown(value)}, which the audit does not know"
    if settings["beta_start"] > settings["beta_end"]:
        return f"has a scheduler with beta_start {settings['beta_start']} above beta_end {settings['beta_end']}"
    return None


def scheduler_settings(scheduler: Settings, named: str) -> Settings:
    """Return a scheduler's settings, with the defaults of its class `named` for those that it leaves out."""
    return {**SCHEDULERS.get(named, OWN_SCHEDULERS.get(named, _COMMON)), **scheduler}


def _class(settings: Settings, part: str, expected: str) -> str | None:
    named = settings.get("_class_name", expected)
    return None if named == expected else f"has a {part} of class {shown(named)}, and only {expected} is supported"


def _depth(settings: Settings, part: str) -> str | None:
    """Return the problem of a network that would take minutes to lay out, None for one of a usual depth."""
    layers = len(settings["block_out_channels"])
    for name in ("layers_per_block", "transformer_layers_per_block"):
        value = settings.get(name, 1)
        layers *= max(value) if isinstance(value, list) else value
    return f"has {part} of {layers} layers, and at most {LAYERS} are supported" if layers > LAYERS else None
