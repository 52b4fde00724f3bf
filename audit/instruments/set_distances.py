"""Distances between two sets of pictures, by their feature vectors. Pure functions; nothing here imports torch.

Features are float arrays (pictures, dimensions) of one network; which one it is decides what a distance means, so a
number never travels without it.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Features = npt.NDArray[np.floating]
CMMD_SIGMA = 10.0
CMMD_SCALE = 1000.0


def frechet_minimum(dimensions: int) -> int:
    """Return the fewest pictures of a set: with as many as dimensions or fewer, its covariance is singular by counting."""
    return dimensions + 1


def frechet(first: Features, second: Features) -> float:
    """Return the Frechet distance between Gaussians fitted to both sets, at least 0.

    Heusel et al. 2017, arXiv:1706.08500, equation 6: |m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)), with unbiased
    covariances. The trace of the root is taken from the eigenvalues of C1^(1/2) C2 C1^(1/2), which is symmetric and
    positive, so that no imaginary part has to be thrown away. It is biased upwards in small sets: compare distances of
    equal counts only. Raises `ValueError` for a set of fewer pictures than `frechet_minimum`, and for vectors that are
    not finite or of different sizes.
    """
    one, other = _checked(first, second)
    least = frechet_minimum(one.shape[1])
    if min(len(one), len(other)) < least:
        raise ValueError(
            f"{min(len(one), len(other))} pictures of {one.shape[1]} features; at least {least} are needed"
        )
    shift = one.mean(0) - other.mean(0)
    covariance, another = (np.atleast_2d(np.cov(values, rowvar=False)) for values in (one, other))
    root = _root(covariance)
    inner = root @ another @ root
    trace = np.sqrt(np.clip(np.linalg.eigvalsh((inner + inner.T) / 2), 0, None)).sum()
    distance = shift @ shift + np.trace(covariance) + np.trace(another) - 2 * trace
    return float(max(distance, 0.0))


def cmmd(first: Features, second: Features) -> float:
    """Return CMMD, 1000 times the squared maximum mean discrepancy of unit CLIP embeddings (Gaussian kernel, sigma 10).

    Jayasumana et al. 2024, "Rethinking FID" (arXiv:2401.09603), equation 5 with the kernel of section 4; as in the
    authors' code the embeddings are scaled to length 1 and every pair counts, a vector's with itself too, so that the
    estimate is never below 0. It needs no covariance, so small sets can be compared. Raises `ValueError` for sets of
    fewer than two pictures, zero vectors, and vectors that are not finite or of different sizes.
    """
    one, other = _checked(first, second)
    if min(len(one), len(other)) < 2:
        raise ValueError("two pictures at least are needed on each side")
    one, other = _unit(one), _unit(other)
    value = _kernel_mean(one, one) + _kernel_mean(other, other) - 2 * _kernel_mean(one, other)
    return float(max(CMMD_SCALE * value, 0.0))


def _kernel_mean(one: npt.NDArray[np.float64], other: npt.NDArray[np.float64]) -> float:
    """Return the mean of exp(-|x - y|^2 / (2 sigma^2)) over all pairs; expm1 keeps the digits of distances near 0."""
    total = 0.0
    for block in np.array_split(one, max(1, len(one) // 512)):
        squares = (block**2).sum(1)[:, None] + (other**2).sum(1) - 2 * block @ other.T
        total += float(np.expm1(-np.clip(squares, 0, None) / (2 * CMMD_SIGMA**2)).sum())
    return total / (len(one) * len(other))  # the constant 1 of every mean cancels out


def _root(matrix: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    values, vectors = np.linalg.eigh(matrix)
    root: npt.NDArray[np.float64] = (vectors * np.sqrt(np.clip(values, 0, None))) @ vectors.T
    return root


def _unit(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    lengths = np.linalg.norm(values, axis=1, keepdims=True)
    if not (lengths > 0).all():
        raise ValueError("a feature vector is zero")
    scaled: npt.NDArray[np.float64] = values / lengths
    return scaled


def _checked(first: Features, second: Features) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    if first.ndim != 2 or second.ndim != 2 or first.shape[1] != second.shape[1]:
        raise ValueError(f"features of shape {first.shape} and {second.shape} cannot be compared")
    if not (np.isfinite(first).all() and np.isfinite(second).all()):
        raise ValueError("a feature vector is not finite")
    return first.astype(np.float64), second.astype(np.float64)
