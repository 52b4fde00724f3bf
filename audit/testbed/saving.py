"""Write trained parts in the folder formats of diffusers and transformers, as fp16 safetensors."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import TypeVar

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    FlowMatchEulerDiscreteScheduler,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from torch import nn
from transformers import (
    CLIPImageProcessor,
    CLIPModel,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    ResNetForImageClassification,
)

from audit.testbed.tokenizer import make_tokenizer
from audit.weights.families import T5_LENGTH

M = TypeVar("M", bound=nn.Module)
WEIGHTS = Path(__file__).parent / "weights"

# The noise levels and the grid of Stable Diffusion v1.4's scheduler_config.json, for the sampler that the audit uses.
SCHEDULER = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "num_train_timesteps": 1000,
    "set_alpha_to_one": False,
    "steps_offset": 1,
    "clip_sample": False,
}


def _half(module: M) -> M:
    return copy.deepcopy(module).cpu().half()


def save_vae(vae: AutoencoderKL, folder: Path) -> None:
    """Keep the VAE in the build folder, at the precision it will ship with."""
    _half(vae).save_pretrained(folder / "vae")


def load_vae(folder: Path) -> AutoencoderKL:
    """Load the VAE of the build folder, in float32."""
    return AutoencoderKL.from_pretrained(folder / "vae", dtype=torch.float32).eval()


def save_pipeline(
    vae: AutoencoderKL, text_encoder: CLIPTextModel, tokenizer: CLIPTokenizer, unet: UNet2DConditionModel
) -> None:
    """Write `weights/pipeline`, a StableDiffusionPipeline folder that diffusers samples from as it stands."""
    StableDiffusionPipeline(
        vae=_half(vae),
        text_encoder=_half(text_encoder),
        tokenizer=tokenizer,
        unet=_half(unet),
        scheduler=DDIMScheduler(**SCHEDULER),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(WEIGHTS / "pipeline")
    _read_in_float32(WEIGHTS / "pipeline" / "text_encoder" / "config.json")


def save_flow_pipeline(
    vae: AutoencoderKL,
    text_encoder: CLIPTextModelWithProjection,
    text_encoder_2: CLIPTextModelWithProjection,
    tokenizer: CLIPTokenizer,
    transformer: SD3Transformer2DModel,
) -> None:
    """Write `weights/sd3`, a StableDiffusion3Pipeline folder without T5."""
    StableDiffusion3Pipeline(
        transformer=_half(transformer),
        scheduler=FlowMatchEulerDiscreteScheduler(),  # no shift of the grid: the latents are small
        vae=_half(vae),
        text_encoder=_half(text_encoder),
        tokenizer=tokenizer,
        text_encoder_2=_half(text_encoder_2),
        tokenizer_2=tokenizer,
        text_encoder_3=None,
        tokenizer_3=None,
    ).save_pretrained(WEIGHTS / "sd3")
    index = WEIGHTS / "sd3" / "model_index.json"
    settings = {**json.loads(index.read_text(encoding="utf-8")), T5_LENGTH: 0}
    index.write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    for part in ("text_encoder", "text_encoder_2"):
        _read_in_float32(WEIGHTS / "sd3" / part / "config.json")
    for part in ("vae", "transformer"):
        _without_origin(WEIGHTS / "sd3" / part / "config.json")


def _without_origin(config: Path) -> None:
    """Leave out where on this machine a part was loaded from."""
    settings = json.loads(config.read_text(encoding="utf-8"))
    settings.pop("_name_or_path", None)
    config.write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _read_in_float32(config: Path) -> None:
    """Make transformers load a text encoder's float16 weights in float32, as diffusers loads those of the other parts."""
    settings = {**json.loads(config.read_text(encoding="utf-8")), "dtype": "float32"}
    config.write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def image_processor() -> CLIPImageProcessor:
    """Return the image processor of the judges and the classifier: 64 x 64 pixels in [-1, 1]."""
    half = [0.5, 0.5, 0.5]
    return CLIPImageProcessor(
        size={"shortest_edge": 64}, crop_size={"height": 64, "width": 64}, image_mean=half, image_std=half
    )


def save_judge(name: str, model: CLIPModel) -> None:
    """Write `weights/judge` or `weights/energy`, loadable as CLIPModel with tokenizer and image processor."""
    _half(model).save_pretrained(WEIGHTS / name)
    make_tokenizer().save_pretrained(WEIGHTS / name)
    image_processor().save_pretrained(WEIGHTS / name)


def save_classifier(model: ResNetForImageClassification) -> None:
    """Write `weights/classifier`, loadable as AutoModelForImageClassification with its image processor."""
    _half(model).save_pretrained(WEIGHTS / "classifier")
    image_processor().save_pretrained(WEIGHTS / "classifier")
