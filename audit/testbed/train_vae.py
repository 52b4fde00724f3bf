"""Train the testbed's AutoencoderKL: f = 4, latents 16 x 16 x 4, scaled to unit variance."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import AutoencoderKL

from audit.testbed.data import load_scenes
from audit.testbed.loop import Training, build

SCENES, STEPS, BATCH, CROP, SEED, PEAK = 12_000, 2_500, 32, 32, 11, 2e-3
KL_WEIGHT = 1e-5


def _make() -> AutoencoderKL:
    return AutoencoderKL(
        block_out_channels=(16, 32, 64),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        latent_channels=4,
        layers_per_block=1,
        norm_num_groups=8,
        sample_size=64,
    )


def train_vae(folder: Path, scale: float = 1.0) -> AutoencoderKL:
    """Train the VAE, and measure its `scaling_factor` so that scaled latents have unit variance.

    Crops of 32 pixels cost a quarter of whole pictures, and nothing in a scene is larger than the decoder's view.
    """
    scenes = load_scenes(folder, SCENES, everything=False)
    vae = build(_make, SEED)
    training = Training("vae", folder, {"vae": vae}, steps=int(STEPS * scale), peak=PEAK, seed=SEED)

    def loss_of(generator: torch.Generator) -> torch.Tensor:
        """Return the loss of a batch that `generator` draws."""
        rows = torch.randint(len(scenes), (BATCH,), generator=generator)
        top, left = torch.randint(64 - CROP + 1, (2,), generator=generator).tolist()
        images = scenes.batch(rows)[:, :, top : top + CROP, left : left + CROP].to(training.device)
        posterior = vae.encode(images).latent_dist
        mean, std = posterior.mean.float(), posterior.std.float()
        noise = torch.randn(mean.shape, generator=generator).to(mean)
        decoded = vae.decode(mean + std * noise).sample.float()
        error = decoded - images
        kl = 0.5 * (mean.pow(2) + std.pow(2) - 1 - posterior.logvar.float()).mean()
        return error.abs().mean() + 4 * error.pow(2).mean() + KL_WEIGHT * kl

    training.run(loss_of)
    vae.register_to_config(scaling_factor=round(1 / latent_std(vae, scenes.batch(torch.arange(512))), 5))
    return vae


@torch.no_grad()
def latent_std(vae: AutoencoderKL, images: torch.Tensor) -> float:
    """Return the standard deviation of the posterior means of `images` (B, 3, 64, 64)."""
    return float(vae.encode(images.to(vae.device)).latent_dist.mean.std())


@torch.no_grad()
def reconstruction_psnr(vae: AutoencoderKL, images: torch.Tensor) -> torch.Tensor:
    """Return the PSNR (B,), in dB, of the VAE round trip of each image in [-1, 1]."""
    decoded = vae.decode(vae.encode(images.to(vae.device)).latent_dist.mean).sample.clamp(-1, 1).cpu()
    return 10 * torch.log10(4 / (decoded - images).pow(2).mean((1, 2, 3)))
