"""LPIPS, AlexNet, version 0.1, where its package and both of its weight files are on this machine.

Zhang et al. 2018, "The Unreasonable Effectiveness of Deep Features as a Perceptual Metric" (arXiv:1801.03924),
equation 1; lower means more alike. The package `lpips` brings the linear weights and asks torchvision for AlexNet's, from
torch's own cache; nothing is ever downloaded here.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from audit.errors import MissingInstrument
from audit.identity import key
from audit.instruments.detectors.base import Pixels, once_per_process, package_versions
from audit.instruments.quality.base import Reading, Task, make_instrument
from audit.instruments.quality.method import QualityMethod
from audit.instruments.quality.similarity import NoParameters, other_of
from audit.records import QualityInstrument
from audit.spec.quality import QualitySpec
from audit.weights.files import cached_sha256

if TYPE_CHECKING:
    import torch

VERSION = "1"
ALEXNET = "alexnet-owt-7be5be79.pth"  # the name that torchvision gives the file in torch's cache


class Lpips:
    """LPIPS as an instrument: distances of at least 0, and 0 for equal pictures."""

    def __init__(self, entry: QualitySpec, device: str) -> None:
        linear, backbone = _files(entry)
        self._device = device
        self._instrument = make_instrument(
            entry,
            version=VERSION,
            package=package_versions("lpips", "torchvision", "torch"),
            weights_sha256=key([cached_sha256(linear), cached_sha256(backbone)]),
            preprocessing="uint8 RGB > times 2/255 minus 1 > float32",
            metrics=("lpips",),
            parameters={"network": "alex", "version": "0.1"},
        )

    @property
    def instrument(self) -> QualityInstrument:
        """Everything that determines the readings."""
        return self._instrument

    def read(self, tasks: Sequence[Task]) -> list[Reading]:
        """Return one distance per task; pictures of one unit have one size."""
        import torch

        network = _network(self._device)

        def batch(pictures: Sequence[Pixels]) -> torch.Tensor:
            values = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float()
            return (values * (2 / 255) - 1).to(self._device)

        with torch.inference_mode():
            distances = network(batch([t.picture for t in tasks]), batch([other_of(t) for t in tasks]))
        return [Reading(value=value) for value in distances.flatten().double().cpu().tolist()]


def _files(entry: QualitySpec) -> tuple[Path, Path]:
    """Return the package's linear weights and torchvision's AlexNet. Raises `MissingInstrument` when either is not here."""
    package = importlib.util.find_spec("lpips")
    if package is None or not package.submodule_search_locations:
        raise _missing(entry, "the package lpips is not installed", "pip install 'erasure-audit[lpips]'")
    linear = Path(package.submodule_search_locations[0]) / "weights" / "v0.1" / "alex.pth"
    if not linear.is_file():
        raise _missing(entry, f"the package lpips lacks {linear.name}", "reinstall lpips")
    cache = os.environ.get("TORCH_HOME") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "torch"
    backbone = Path(os.path.expanduser(cache)) / "hub" / "checkpoints" / ALEXNET
    if not backbone.is_file():
        raise _missing(entry, f"AlexNet's weights are not at {backbone}", f"put torchvision's {ALEXNET} there")
    return linear, backbone


def _missing(entry: QualitySpec, what: str, next_step: str) -> MissingInstrument:
    return MissingInstrument(
        f"quality instrument {entry.name!r} (lpips) cannot measure here: {what}",
        where=f"quality.{entry.name}",
        next_step=f"{next_step}, or use gmsd, which needs no weights",
    )


@once_per_process
def _network(device: str) -> torch.nn.Module:
    import lpips

    return lpips.LPIPS(net="alex", version="0.1", verbose=False).eval().requires_grad_(False).to(device)


METHOD = QualityMethod("lpips", VERSION, NoParameters, Lpips, "arXiv:1801.03924")
