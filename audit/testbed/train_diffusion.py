"""Train the testbed's UNet and text encoder: epsilon prediction on SD v1.4's noise levels, captions dropped for guidance."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from audit.testbed.captions import ALL_CLASSES, BACKGROUNDS, COLOURS, FILLS, caption
from audit.testbed.data import NOTHING, Scenes, load_scenes
from audit.testbed.loop import Training, build
from audit.testbed.saving import SCHEDULER
from audit.testbed.tokenizer import CONTEXT, make_tokenizer

SCENES, STEPS, BATCH, SEED, PEAK = 24_000, 6_500, 64, 41, 1e-3
WIDTH = 128  # of the text encoder
CAPTION_DROP = 0.1
MIN_SNR = 5.0  # weights of arXiv 2303.09556, which only reweigh the epsilon loss over noise levels


@dataclasses.dataclass(frozen=True)
class _Object:
    cls: str
    colour: str
    fill: str


def _make_unet() -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=16,
        in_channels=4,
        out_channels=4,
        block_out_channels=(48, 96, 128),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=WIDTH,
        attention_head_dim=4,  # the number of heads, as in SD v1.x
        norm_num_groups=16,
    )


def _make_text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    return CLIPTextModel._from_config(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=WIDTH,
            intermediate_size=2 * WIDTH,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=CONTEXT,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        ),
        attn_implementation="eager",  # like the UNet's attention below
    )


@torch.no_grad()
def encode_scenes(vae: AutoencoderKL, scenes: Scenes, device: torch.device, folder: Path) -> torch.Tensor:
    """Return the scenes' scaled posterior means (N, 4, 16, 16), in float16 to keep the set small; encoded once, into `folder`."""
    key = f"{vae.config['scaling_factor']}-{vae.decoder.conv_out.weight.sum().item():.6f}"
    cache = folder / f"latents-{len(scenes)}-{key}.npy"
    if cache.exists():
        return torch.from_numpy(np.load(cache))
    batches = torch.arange(len(scenes)).split(256)
    scale = vae.config["scaling_factor"]
    means = [vae.encode(scenes.batch(rows).to(device)).latent_dist.mean * scale for rows in batches]
    latents = torch.cat(means).half().cpu()
    partial = cache.with_suffix(".partial.npy")
    np.save(partial, latents.numpy())
    partial.replace(cache)
    return latents


def draw_caption(scenes: Scenes, row: int, rng: np.random.Generator) -> str:
    """Draw a caption of a scene, or the empty one that trains the unconditional branch."""
    if rng.random() < CAPTION_DROP:
        return ""
    things = [
        _Object(ALL_CLASSES[kind], COLOURS[colour], FILLS[fill])
        for kind, colour, fill in scenes.objects[row]
        if kind != NOTHING
    ]
    return caption(things, BACKGROUNDS[int(scenes.backgrounds[row])], rng)


def train_diffusion(
    vae: AutoencoderKL, folder: Path, scale: float = 1.0
) -> tuple[AutoencoderKL, CLIPTextModel, CLIPTokenizer, UNet2DConditionModel]:
    """Train UNet and text encoder; return VAE, text encoder, tokenizer and UNet, ready to be saved as one pipeline."""
    scenes, tokenizer = load_scenes(folder, SCENES, everything=False), make_tokenizer()
    unet, text = build(_make_unet, SEED), build(lambda: _make_text_encoder(tokenizer), SEED + 1)
    # The backward pass of torch's fused attention on CPUs takes longer than the rest of the step.
    unet.set_attn_processor(AttnProcessor())
    steps = int(STEPS * scale)
    training = Training("diffusion", folder, {"unet": unet, "text": text}, steps=steps, peak=PEAK, seed=SEED)
    device = training.device
    latents = encode_scenes(vae.to(device), scenes, device, folder)
    levels = DDPMScheduler(**{k: v for k, v in SCHEDULER.items() if k.startswith("beta")}).alphas_cumprod
    weight = (MIN_SNR / (levels / (1 - levels))).clamp(max=1.0)

    def loss_of(generator: torch.Generator) -> torch.Tensor:
        """Return the loss of a batch that `generator` draws."""
        rows = torch.randint(len(scenes), (BATCH,), generator=generator)
        rng = np.random.default_rng(int(torch.randint(2**31, (1,), generator=generator)))
        texts = [draw_caption(scenes, int(row), rng) for row in rows]
        tokens = tokenizer(texts, padding="max_length", max_length=CONTEXT, return_tensors="pt")["input_ids"]
        timesteps = torch.randint(1000, (BATCH,), generator=generator)
        clean = latents[rows].float()
        noise = torch.randn(clean.shape, generator=generator)
        abar = levels[timesteps].view(-1, 1, 1, 1)
        noisy = (abar.sqrt() * clean + (1 - abar).sqrt() * noise).to(device)
        states = text(tokens.to(device))[0]
        predicted = unet(noisy, timesteps.to(device), states).sample.float()
        error = (predicted - noise.to(device)).pow(2).mean((1, 2, 3))
        return (weight[timesteps].to(device) * error).mean()

    training.run(loss_of)
    return vae, text, tokenizer, unet
