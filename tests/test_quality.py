"""Picture distances against scikit-image and by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from audit import quality


def pictures(noise: float = 20.0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    y, x = np.mgrid[0:48, 0:64]
    first = np.stack([x * 3, y * 4, (x + y) * 2], -1).clip(0, 255)
    second = (first + rng.normal(0, noise, first.shape)).clip(0, 255)
    return first.astype(np.uint8), second.astype(np.uint8)


def test_psnr_and_ssim_equal_scikit_image() -> None:
    first, second = pictures()
    assert quality.psnr(first, second) == pytest.approx(peak_signal_noise_ratio(first, second, data_range=255))
    inner = np.zeros(first.shape[:2], bool)
    inner[5:-5, 5:-5] = True  # scikit-image leaves out the frame
    options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 255}
    expected = structural_similarity(first, second, channel_axis=2, **options)
    assert quality.ssim(first, second, inner) == pytest.approx(expected, abs=1e-6)


def test_a_region_leaves_out_what_is_not_in_it() -> None:
    first, _ = pictures()
    second = first.copy()
    second[:10, :10] = 255 - second[:10, :10]
    far = np.ones(first.shape[:2], bool)
    far[:30, :30] = False
    assert quality.psnr(first, second, far) == math.inf
    assert quality.ssim(first, second, far) == pytest.approx(1.0)
    assert quality.gmsd(first, second, far) == pytest.approx(0.0, abs=1e-9)
    assert quality.psnr(first, second) < 30 and quality.gmsd(first, second) > 0
    nothing = np.zeros(first.shape[:2], bool)
    assert all(math.isnan(f(first, second, nothing)) for f in (quality.psnr, quality.ssim, quality.gmsd))


def test_gmsd_grows_with_distortion_and_is_symmetric() -> None:
    values = [quality.gmsd(*pictures(noise)) for noise in (0.0, 5.0, 20.0, 60.0)]
    assert values[0] == pytest.approx(0.0, abs=1e-9) and values == sorted(values)
    first, second = pictures()
    assert quality.gmsd(first, second) == pytest.approx(quality.gmsd(second, first))


def test_pictures_of_different_sizes_are_a_defect() -> None:
    first, second = pictures()
    with pytest.raises(ValueError, match="cannot be compared"):
        quality.psnr(first, second[:10])
