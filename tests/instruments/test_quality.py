"""Picture distances against scikit-image and by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from audit.instruments.quality import formulas


def pictures(noise: float = 20.0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    y, x = np.mgrid[0:48, 0:64]
    first = np.stack([x * 3, y * 4, (x + y) * 2], -1).clip(0, 255)
    second = (first + rng.normal(0, noise, first.shape)).clip(0, 255)
    return first.astype(np.uint8), second.astype(np.uint8)


def test_psnr_and_ssim_equal_scikit_image() -> None:
    first, second = pictures()
    assert formulas.psnr(first, second) == pytest.approx(peak_signal_noise_ratio(first, second, data_range=255))
    inner = np.zeros(first.shape[:2], bool)
    inner[5:-5, 5:-5] = True  # scikit-image leaves out the frame
    options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 255}
    expected = structural_similarity(first, second, channel_axis=2, **options)
    assert formulas.ssim(first, second, inner) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("noise", [5.0, 20.0, 60.0])
def test_at_the_border_ssim_is_scikit_image_s_and_gmsd_its_authors(noise: float) -> None:
    """Wang et al. and scikit-image leave a frame out; Xue et al. and piq continue the picture with zeros."""
    first, second = pictures(noise)
    options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 255}
    expected = structural_similarity(first, second, channel_axis=2, **options)
    assert formulas.ssim(first, second, border="crop") == pytest.approx(expected, abs=1e-9)
    assert abs(formulas.ssim(first, second) - expected) > 1e-5
    assert formulas.gmsd(first, second, border="zero") == pytest.approx(plain_gmsd(first, second, 170), abs=1e-12)
    # piq rounds the constant to 0.0026 for levels in 0..1
    piq = plain_gmsd(first, second, 0.0026 * 255**2)
    assert formulas.gmsd(first, second, border="zero") == pytest.approx(piq, rel=5e-3)
    assert abs(formulas.gmsd(first, second) / piq - 1) > 5e-3


def plain_gmsd(first: np.ndarray, second: np.ndarray, constant: float) -> float:
    """The formula written out: 2 x 2 means of the luminance, Prewitt differences on a frame of zeros, deviation."""
    gradients = []
    for picture in (first, second):
        grey = 0.299 * picture[..., 0].astype(float) + 0.587 * picture[..., 1] + 0.114 * picture[..., 2]
        small = np.pad((grey[::2, ::2] + grey[1::2, ::2] + grey[::2, 1::2] + grey[1::2, 1::2]) / 4, 1)
        rows = (small[:-2] + small[1:-1] + small[2:]) / 3  # sums over three rows
        columns = (small[:, :-2] + small[:, 1:-1] + small[:, 2:]) / 3
        gradients.append(np.sqrt((rows[:, 2:] - rows[:, :-2]) ** 2 + (columns[2:] - columns[:-2]) ** 2))
    one, other = gradients
    return float(np.std((2 * one * other + constant) / (one**2 + other**2 + constant)))


def test_a_region_leaves_out_what_is_not_in_it() -> None:
    first, _ = pictures()
    second = first.copy()
    second[:10, :10] = 255 - second[:10, :10]
    far = np.ones(first.shape[:2], bool)
    far[:30, :30] = False
    assert formulas.psnr(first, second, far) == math.inf
    assert formulas.ssim(first, second, far) == pytest.approx(1.0)
    assert formulas.gmsd(first, second, far) == pytest.approx(0.0, abs=1e-9)
    assert formulas.psnr(first, second) < 30 and formulas.gmsd(first, second) > 0
    nothing = np.zeros(first.shape[:2], bool)
    assert all(math.isnan(f(first, second, nothing)) for f in (formulas.psnr, formulas.ssim, formulas.gmsd))


def test_gmsd_grows_with_distortion_and_is_symmetric() -> None:
    values = [formulas.gmsd(*pictures(noise)) for noise in (0.0, 5.0, 20.0, 60.0)]
    assert values[0] == pytest.approx(0.0, abs=1e-9) and values == sorted(values)
    first, second = pictures()
    assert formulas.gmsd(first, second) == pytest.approx(formulas.gmsd(second, first))


def test_pictures_of_different_sizes_are_a_defect() -> None:
    first, second = pictures()
    with pytest.raises(ValueError, match="cannot be compared"):
        formulas.psnr(first, second[:10])
