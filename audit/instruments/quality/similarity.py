"""PSNR, SSIM and GMSD as instruments: no weights, the formulas' constants are their parameters."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence

from pydantic import BaseModel

from audit.corpus.images import Mask
from audit.instruments.detectors.base import Pixels, package_versions
from audit.instruments.quality import formulas
from audit.instruments.quality.base import Reading, Task, make_instrument
from audit.instruments.quality.method import QualityMethod
from audit.records import QualityInstrument
from audit.spec.quality import BORDERS, QualitySpec

VERSION = "1"
_FORMULAS: Mapping[str, tuple[Callable[..., float], Mapping[str, object]]] = {
    "psnr": (formulas.psnr, {"peak": 255}),
    "ssim": (formulas.ssim, {"sigma": 1.5, "truncate": 3.5, "k1": 0.01, "k2": 0.03}),
    "gmsd": (formulas.gmsd, {"c": 170, "downsample": 2}),
}


class Borders(BaseModel):
    """The setting that a kind with a window adds to a spec entry."""

    border: str | None = None
    "Treatment of the picture's border; by default the first that the kind knows."


class NoParameters(BaseModel):
    """No parameters: a spec can set nothing."""


class Formula:
    """A formula over two pictures of equal size as an instrument."""

    def __init__(self, entry: QualitySpec, device: str = "cpu") -> None:
        formula, constants = _FORMULAS[entry.kind]
        border = {"border": entry.border or BORDERS[entry.kind][0]} if entry.kind in BORDERS else {}
        where = {"where": entry.where} if entry.where else {}
        self._formula: Callable[[Pixels, Pixels, Mask | None], float] = functools.partial(formula, **border)
        self._instrument = make_instrument(
            entry,
            version=VERSION,
            package=package_versions("numpy", "scipy"),
            weights_sha256="",
            preprocessing="uint8 RGB > float64",
            metrics=(entry.kind,),
            parameters={**constants, **border, **where},
        )

    @property
    def instrument(self) -> QualityInstrument:
        """Everything that determines the readings."""
        return self._instrument

    def read(self, tasks: Sequence[Task]) -> list[Reading]:
        """Return one number per task; see `formulas` for units and ranges. A picture without an inside has none."""
        return [self._read(task) for task in tasks]

    def _read(self, task: Task) -> Reading:
        value = self._formula(task.picture, other_of(task), task.region)
        if math.isnan(value) and task.region is not None:
            return Reading(error="nothing of the picture that counts lies outside the concept's region")
        if math.isnan(value):
            height, width = task.picture.shape[:2]
            frame = f"a picture of {width} x {height} pixels has nothing inside the frame that is left out"
            return Reading(error=f"{frame}; set border: reflect")
        return Reading(value=value)


def other_of(task: Task) -> Pixels:
    """Return the picture that a task compares with. Raises ValueError for a task without one, a defect of the plan."""
    if task.other is None:
        raise ValueError("the task names no picture to compare with")
    return task.other


PSNR = QualityMethod("psnr", VERSION, NoParameters, Formula)
SSIM = QualityMethod("ssim", VERSION, Borders, Formula, "Wang et al. 2004")
GMSD = QualityMethod("gmsd", VERSION, Borders, Formula, "Xue et al. 2014, arXiv 1308.3052")
