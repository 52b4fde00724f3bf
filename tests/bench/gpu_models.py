"""Stable Diffusion v1.4's architecture and a CLIP ViT-L/14, both with random weights, made on the device in memory."""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch
from transformers import CLIPConfig, CLIPModel

from audit.diffusion.pipeline import Pipeline
from audit.guards.energy import Energy
from audit.weights.references import ModelRef
from tests.sd14 import Widths, make_text, make_unet, make_vae
from tests.tiny import SD14_SCHEDULER, write_tokenizer

CLIP_SETTINGS = {"image_mean": [0.481, 0.458, 0.408], "image_std": [0.269, 0.261, 0.276]}


def make_pipeline(widths: Widths, device: torch.device, dtype: torch.dtype) -> Pipeline:
    """The backbone as `load_pipeline` returns it, without a folder; `dtype` is the UNet's."""
    with tempfile.TemporaryDirectory() as name, torch.random.fork_rng(), device:
        torch.manual_seed(0)
        tokenizer = write_tokenizer(Path(name), 77)
        unet, vae, text = make_unet(widths), make_vae(widths), make_text(widths, tokenizer)
    for module in (unet, vae, text):
        module.eval().requires_grad_(False)
    ref = ModelRef("random", "local", Path("random"), None, {}, "0" * 64)
    return Pipeline(ref, unet.to(device, dtype), vae.to(device), text.to(device), tokenizer, SD14_SCHEDULER, device)


def make_clip(pipeline: Pipeline, full: bool) -> CLIPModel:
    """A scoring or energy network: ViT-L/14 at 224 pixels, or one of two narrow layers."""
    size = len(pipeline.tokenizer)
    tokens = {"vocab_size": size, "max_position_embeddings": 77, "bos_token_id": size - 2, "eos_token_id": size - 1}
    narrow = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}
    wide = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16}
    config = CLIPConfig(
        text_config={**(text if full else narrow), **tokens},
        vision_config={
            **(wide if full else narrow),
            "image_size": 224 if full else 32,
            "patch_size": 14 if full else 8,
        },
        projection_dim=768 if full else 8,
    )
    with torch.random.fork_rng(), pipeline.device:
        torch.manual_seed(0)
        network = CLIPModel(config)
    return network.to(pipeline.device).eval().requires_grad_(False)


def make_energy(pipeline: Pipeline, network: CLIPModel) -> Energy:
    """EGLOCE's energy around that network."""
    return Energy(network, pipeline.tokenizer, CLIP_SETTINGS, ("a photo of a {phrase}",), ("cat",))
