"""Differences between two pictures: PSNR, SSIM and GMSD, over a whole picture or outside a region. Pure functions.

Pictures are uint8 arrays (H, W, 3); `region` is a boolean array (H, W) of the pixels that count, None for all of them.
At the border pictures are mirrored, and every pixel of the region counts, unless `border` says otherwise.
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy.ndimage import convolve, gaussian_filter, uniform_filter

from audit.corpus import images

Pixels = npt.NDArray[np.uint8]
Region = npt.NDArray[np.bool_] | None
_C1, _C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
_MODES = {"zero": "constant", "reflect": "reflect"}  # scipy's names
_GMSD_C = 170.0  # for levels in 0..255
SSIM_FRAME = 5  # pixels that the window reaches over: 3.5 standard deviations of 1.5


def psnr(first: Pixels, second: Pixels, region: Region = None) -> float:
    """Return the peak signal-to-noise ratio in decibels over the region; infinity when equal, NaN when the region is empty."""
    _check(first, second, region)
    if region is None:
        return images.psnr(first, second)
    return images.psnr(first[region], second[region]) if region.any() else math.nan


def ssim(first: Pixels, second: Pixels, region: Region = None, border: Literal["crop", "reflect"] = "reflect") -> float:
    """Return the structural similarity in [-1, 1], averaged over the region and the channels; NaN when the region is empty.

    Wang et al. 2004, IEEE TIP 13(4): Gaussian window with a standard deviation of 1.5 pixels cut at 3.5 of them, K1 0.01,
    K2 0.03, population covariances. `crop` leaves out the frame where the window hangs over the border, as the authors'
    code, scikit-image and piq do; `reflect` mirrors the picture there.
    """
    _check(first, second, region)
    if border == "crop":
        inner = np.zeros(first.shape[:2], bool)
        inner[SSIM_FRAME:-SSIM_FRAME, SSIM_FRAME:-SSIM_FRAME] = True
        region = inner if region is None else inner & region
    maps = [
        _ssim_map(first[..., i].astype(np.float64), second[..., i].astype(np.float64)) for i in range(first.shape[2])
    ]
    return _mean(np.mean(maps, axis=0), region)


def _ssim_map(x: npt.NDArray[np.float64], y: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    def blurred(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        smooth: npt.NDArray[np.float64] = gaussian_filter(values, 1.5, truncate=3.5, mode="reflect")
        return smooth

    mx, my = blurred(x), blurred(y)
    vx, vy, vxy = blurred(x * x) - mx * mx, blurred(y * y) - my * my, blurred(x * y) - mx * my
    similarity: npt.NDArray[np.float64] = ((2 * mx * my + _C1) * (2 * vxy + _C2)) / (
        (mx**2 + my**2 + _C1) * (vx + vy + _C2)
    )
    return similarity


def gmsd(first: Pixels, second: Pixels, region: Region = None, border: Literal["zero", "reflect"] = "reflect") -> float:
    """Return the gradient magnitude similarity deviation: 0 for equal pictures, larger the more their structure differs.

    Xue et al. 2014, IEEE TIP 23(2), arXiv 1308.3052: Prewitt gradients of the luminance averaged and halved in size, here a
    perceptual distance that needs no weights. NaN when the region is empty. At the border `zero` continues the luminance
    with zeros, as the authors' code and piq do, and `reflect` mirrors it.
    """
    _check(first, second, region)
    one, other = (_gradient(_luminance(picture, border), border) for picture in (first, second))
    similarity = (2 * one * other + _GMSD_C) / (one**2 + other**2 + _GMSD_C)
    kept = similarity if region is None else similarity[region[::2, ::2]]
    return float(kept.std()) if kept.size else math.nan


def _luminance(picture: Pixels, border: Literal["zero", "reflect"]) -> npt.NDArray[np.float64]:
    """Return the luminance, averaged over 2 x 2 pixels and halved, as the authors of the method do."""
    grey = picture.astype(np.float64) @ np.array([0.299, 0.587, 0.114])
    halved: npt.NDArray[np.float64] = uniform_filter(grey, 2, mode=_MODES[border], origin=-1)[::2, ::2]
    return halved


def _gradient(grey: npt.NDArray[np.float64], border: Literal["zero", "reflect"]) -> npt.NDArray[np.float64]:
    kernel, mode = np.array([[1.0, 0, -1]] * 3) / 3, _MODES[border]
    magnitude: npt.NDArray[np.float64] = np.hypot(*(convolve(grey, k, mode=mode, cval=0.0) for k in (kernel, kernel.T)))
    return magnitude


def _mean(values: npt.NDArray[np.float64], region: Region) -> float:
    kept = values if region is None else values[region]
    return float(kept.mean()) if kept.size else math.nan


def _check(first: Pixels, second: Pixels, region: Region) -> None:
    if first.shape != second.shape or first.ndim != 3 or (region is not None and region.shape != first.shape[:2]):
        raise ValueError(f"pictures of shape {first.shape} and {second.shape} cannot be compared here")
