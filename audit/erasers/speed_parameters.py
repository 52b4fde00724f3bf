"""Parameters of SPEED: the official values for each kind of concept, and the testbed's preset. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from pydantic import Field

from audit.erasers.costs import tensor_bytes
from audit.erasers.method import EraserMethod
from audit.erasers.uce_parameters import EditParameters
from audit.methods.parameters import Values


class SpeedParameters(EditParameters):
    """Options of SPEED. Defaults are those of the official script for a few concepts (train_erase_null.py).

    Its lists of a thousand and more characters or artists to retain are not shipped: the concepts' neighbours are retained,
    or the null prompt where there are none. They are the concept's words alone, without templates, as there.
    """

    matrices: Literal["values", "keys-and-values"] = "values"
    "The projections of the cross-attention that are edited (params V or KV)."
    threshold: float = Field(0.1, gt=0)
    "Singular values of the retained states' second moment below which a direction is free to change."
    filtering: bool = True
    "Retain only the states that erasing alone would move more than average (influence-based prior filtering)."
    augmentations: int = Field(10, ge=0)
    "Noisy copies of each retained state along the direction that a matrix sees least (directed prior augmentation)."
    clusters: int = Field(3, ge=0)
    """Cluster centres of the null prompt's states that the edit keeps exactly, beside the start token's (invariant equality
    constraints)."""
    retain_scale: float = Field(1.0, gt=0)
    "Pull of the edit towards the old matrix."
    invariant_regularisation: float = Field(0.0, ge=0)
    "Added to the system of the exact constraints, which has no solution where the retained states span them already (lamb)."
    seed: int = Field(0, ge=0, lt=2**31)
    "Seed of the noisy copies."


PRESETS: Mapping[str, Mapping[str, object]] = {
    "official": {"wrap_preserved": False},
    "official-many": {"wrap_preserved": False, "threshold": 1e-4},
    "official-implicit": {
        "wrap_preserved": False,
        "tokens": "tail",
        "preserve_neighbours": False,
        "invariant_regularisation": 0.5,
    },
    "testbed": {
        "tokens": "tail",
        "matrices": "keys-and-values",
        "templates": ("a photo of a {phrase}", "a {phrase}"),
        "retain_scale": 0.1,
        "invariant_regularisation": 0.5,
    },
}
_SUFFIXES: Mapping[str, tuple[str, ...]] = {"values": ("to_v",), "keys-and-values": ("to_k", "to_v")}


def projections(matrices: str) -> tuple[str, ...]:
    """Return the projections of attn2 that a value of `matrices` names."""
    return _SUFFIXES[matrices]


def _stored(values: Values, unet: Mapping[str, Sequence[int]]) -> int:
    ends = tuple(f".attn2.{projection}.weight" for projection in projections(values["matrices"]))
    return tensor_bytes(values, unet, lambda name: name.endswith(ends))


METHOD = EraserMethod(
    "speed",
    "1",
    SpeedParameters,
    "audit.erasers.speed:erase",
    "Li et al. 2025, arXiv 2503.07392",
    presets=PRESETS,
    default="official",
    words=("guide",),
    stored=_stored,
    families=("sd1", "sd2", "sdxl"),
)
