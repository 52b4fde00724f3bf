"""Disturbances: as strong as they say, seeded by case, and the same direction at every strength."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from audit.corpus.images import psnr, to_model_input
from audit.diffusion.perturbation import perturb_image, perturb_latents
from audit.testbed.scenes import sample_scene

LATENTS = 0.8 * torch.randn(2, 4, 32, 32, generator=torch.Generator().manual_seed(5))
PICTURE = to_model_input(sample_scene("audit", 0).image, 64)


def test_latent_noise_has_its_strength_and_one_direction() -> None:
    weak, strong = (perturb_latents(LATENTS, "latent-noise", sigma, [1, 2]) - LATENTS for sigma in (0.1, 0.2))
    assert float(weak.std()) == pytest.approx(0.1, rel=0.03)
    torch.testing.assert_close(2 * weak, strong, rtol=1e-3, atol=1e-5)


def test_latent_noise_is_the_cases_own() -> None:
    together = perturb_latents(LATENTS, "latent-noise", 0.1, [1, 2])
    alone = perturb_latents(LATENTS[1:], "latent-noise", 0.1, [2])
    assert torch.equal(together[1:], alone)
    assert not torch.equal(together, perturb_latents(LATENTS, "latent-noise", 0.1, [1, 3]))


def test_the_sphere_keeps_each_latents_norm_and_the_noise() -> None:
    free = perturb_latents(LATENTS, "latent-noise", 0.5, [1, 2])
    kept = perturb_latents(LATENTS, "latent-noise-sphere", 0.5, [1, 2])
    torch.testing.assert_close(kept.flatten(1).norm(dim=1), LATENTS.flatten(1).norm(dim=1))
    assert (free.flatten(1).norm(dim=1) > LATENTS.flatten(1).norm(dim=1)).all()
    assert torch.nn.functional.cosine_similarity(free.flatten(1), kept.flatten(1)).min() > 0.9999


@pytest.mark.parametrize(
    ("kind", "weak", "strong"), [("image-noise", 2, 16), ("image-jpeg", 95, 10), ("image-resize", 0.9, 0.25)]
)
def test_image_disturbances_are_repeatable_and_grow(kind: str, weak: float, strong: float) -> None:
    little, much = (perturb_image(PICTURE, kind, strength, "item") for strength in (weak, strong))
    assert little.shape == PICTURE.shape and little.dtype == np.float32
    assert np.abs(much).max() <= 1
    assert np.array_equal(much, perturb_image(PICTURE, kind, strong, "item"))
    assert psnr(PICTURE, much, peak=2.0) < psnr(PICTURE, little, peak=2.0) < 60


def test_image_noise_is_counted_in_grey_levels_and_seeded_by_the_item() -> None:
    grey = np.zeros((64, 64, 3), np.float32)
    noisy = perturb_image(grey, "image-noise", 8, "item")
    assert float(noisy.std()) * 127.5 == pytest.approx(8, rel=0.05)
    assert not np.array_equal(noisy, perturb_image(grey, "image-noise", 8, "other"))


def test_each_kind_belongs_to_one_input() -> None:
    with pytest.raises(ValueError, match="does not perturb latents"):
        perturb_latents(LATENTS, "image-noise", 1, [1, 2])
    with pytest.raises(ValueError, match="does not perturb images"):
        perturb_image(PICTURE, "latent-noise", 1, "item")
