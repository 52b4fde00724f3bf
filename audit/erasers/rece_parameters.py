"""Parameters of RECE: the official values for each kind of concept, and the testbed's preset. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from pydantic import Field

from audit.erasers.method import EraserMethod
from audit.erasers.uce_parameters import PRESETS as UCE_PRESETS
from audit.erasers.uce_parameters import UceParameters, stored_keys_and_values


class ReceParameters(UceParameters):
    """Options of RECE: those of UCE for the edit that it starts from, and its own for the rounds that follow.

    Defaults are those of the official script for nudity (train.py), which starts from UCE's edit of 2023. That script
    keeps the round in which its detector finds the least; here the last round counts, so that no detector chooses.
    """

    rounds: int = Field(3, ge=1)
    "Rounds of deriving the embedding that brings the concept back, and erasing it (epochs)."
    derived_tokens: Literal["whole", "edited"] = "whole"
    """Token states that are derived in each round: `whole` prompts, each position mapped to the guide's own, as in the
    official script; or the positions that UCE's edit maps, to where it maps them."""
    derived_regularisation: float = Field(0.1, gt=0)
    "Pull of the derived embedding towards zero (lambda): the smaller, the nearer it brings the concept back."
    round_regularisation: float = Field(0.1, gt=0)
    "Pull of each round's edit towards the matrix of the round before (lamb)."
    round_erase_scale: float = Field(1.0, gt=0)
    "Weight of each derived token state."
    round_preserve_scale: float = Field(0.1, ge=0)
    "Weight of each token state that a round preserves: the null prompt's and the neighbours'."

    @property
    def of_round(self) -> UceParameters:
        """The options of one round's edit."""
        return UceParameters(
            regularisation=self.round_regularisation,
            erase_scale=self.round_erase_scale,
            preserve_scale=self.round_preserve_scale,
        )


_UCE = UCE_PRESETS["official-2023"]
PRESETS: Mapping[str, Mapping[str, object]] = {
    "official": _UCE,
    "official-style": {**_UCE, "rounds": 1, "derived_regularisation": 1e-3},
    "official-object": {**_UCE, "rounds": 5, "derived_regularisation": 1e-3},
    "testbed": {**UCE_PRESETS["testbed"], "rounds": 2, "derived_tokens": "edited", "derived_regularisation": 1e-3},
}
ODDITIES: Mapping[str, str] = dict.fromkeys(
    ("official", "official-style", "official-object"),
    "each round preserves what the round before made of the null prompt and the neighbours, not the backbone's values",
)

METHOD = EraserMethod(
    "rece",
    "1",
    ReceParameters,
    "audit.erasers.rece:erase",
    "Gong et al. 2024, arXiv 2407.12383",
    presets=PRESETS,
    default="official",
    words=("guide",),
    oddities=ODDITIES,
    stored=stored_keys_and_values,
    families=("sd1", "sd2", "sdxl"),
)
