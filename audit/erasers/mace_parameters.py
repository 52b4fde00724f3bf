"""Parameters of MACE: the official values for each kind of concept, and the testbed's preset. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from pydantic import Field

from audit.erasers.costs import BACKWARD, picture_calls, pictures_made
from audit.erasers.method import Calls, EraserMethod
from audit.erasers.parameters import PictureParameters, Template
from audit.erasers.uce_parameters import stored_keys_and_values
from audit.methods.parameters import Values

MASK_TIMESTEPS = (200, 300, 400)  # noise at which the maps of a picture are read


class MaceParameters(PictureParameters):
    """Options of MACE. Values are those of the official configuration for an object (configs/object/erase_ship.yaml).

    Two things that the official code takes from elsewhere are made here: it masks pictures with Grounded-SAM, whose weights
    this tool does not bring, and here `masks` says where the concept is; it preserves statistics of COCO's captions, and
    here the null prompt's and the neighbours' prompts are preserved.
    """

    mapping: str = Field("", max_length=200)
    """What the words around the concept are mapped to: those of the same prompt with these words, such as `sky` for `bird`.
    None leaves the concept's place in the prompt empty."""
    masks: Literal["attention", "whole"] = "attention"
    """Where the concept's attention is pressed down: in the region that the backbone's own attention shows, or everywhere, as
    the official code does for styles."""
    mask_threshold: float = Field(0.3, gt=0, lt=1)
    "Least value of the min-max normalised attention map inside the concept's region."
    mask_side: int = Field(16, ge=1)
    "Rows and columns of the attention maps that locate the concept."
    rank: int = Field(1, ge=1)
    "Width of each concept's low-rank pairs on keys and values."
    regularisation: float = Field(1e3, ge=0)
    "Pull of both closed forms towards the matrix that they start from (lamb)."
    preserve_scale: float = Field(0.0, ge=0)
    "Weight of each preserved token state in the refinement (train_preserve_scale)."
    fuse_preserve_scale: float = Field(0.0, ge=0)
    "Weight of each preserved token state where the pairs are fused."
    preserve_neighbours: bool = True
    "Preserve the neighbours' prompts too."
    importance_sampling: bool = True
    "Draw timesteps between 200 and 400 more often, where the picture's relations form."
    clip: float = Field(1.0, gt=0)
    "Largest norm of the gradient."
    weight_decay: float = Field(0.01, ge=0)
    "Weight decay of AdamW."
    iterations: int = Field(50, ge=1)
    learning_rate: float = Field(1e-5, gt=0)
    templates: tuple[Template, ...] = Field(
        (
            "a photo of {phrase}", "{phrase} in a photo", "{phrase} in a snapshot", "a snapshot of {phrase}",
            "an illustration of {phrase}", "a graphic of {phrase}", "a shot of {phrase}", "an image of {phrase}",
            "a drawing of {phrase}", "a painting of {phrase}", "{phrase} in a sketch", "a portrait of {phrase}",
        ),
        min_length=1,
    )  # fmt: skip
    guidance: float = Field(7.5, ge=1)
    pixels: int | None = Field(512, ge=8)
    pictures: int = Field(8, ge=1)


PRESETS: Mapping[str, Mapping[str, object]] = {
    "official": {},
    "official-celebrity": {
        "mapping": "a person",
        "regularisation": 0.0,
        "preserve_scale": 1e-4,
        "fuse_preserve_scale": 1e-4,
        "learning_rate": 1e-4,
    },
    "official-style": {
        "mapping": "art",
        "masks": "whole",
        "regularisation": 0.0,
        "preserve_scale": 1e-4,
        "fuse_preserve_scale": 1e-4,
        "learning_rate": 1e-4,
    },
    "official-explicit": {
        "mapping": "a person wearing clothes",
        "regularisation": 0.0,
        "preserve_scale": 7e-7,
        "fuse_preserve_scale": 7e-7,
        "importance_sampling": False,
        "iterations": 120,
    },
    "testbed": {
        "mapping": "shape",
        "mask_side": 8,
        "rank": 4,
        "regularisation": 0.1,
        "preserve_scale": 1.0,
        "fuse_preserve_scale": 1.0,
        "iterations": 60,
        "learning_rate": 1e-2,
        "batch_size": 4,
        "templates": ("a photo of a {phrase}", "a {phrase}", "{phrase}"),
        "steps": 20,
        "guidance": 3.0,
        "pixels": None,
        "pictures": 12,
    },
}


def _calls(values: Values, concept: Values) -> Calls:
    """Return the cost of the pictures, of their masks, and of a forward and a backward pass for each row."""
    total, _, _ = picture_calls(values, concept, 1 + BACKWARD)
    masks = pictures_made(values, concept) * len(MASK_TIMESTEPS) if values["masks"] == "attention" else 0
    return total + masks, total + masks, total + masks


METHOD = EraserMethod(
    "mace",
    "1",
    MaceParameters,
    "audit.erasers.mace:erase",
    "Lu et al. 2024, arXiv 2403.06135",
    presets=PRESETS,
    default="official",
    words=("mapping",),
    calls=_calls,
    stored=stored_keys_and_values,
    families=("sd1", "sd2", "sdxl"),
)
