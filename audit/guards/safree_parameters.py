"""Parameters of SAFREE, and the guard as a method. Imports no torch."""

from __future__ import annotations

from typing import Any, Self

from pydantic import Field, model_validator

from audit.guards.parameters import GuardMethod, Parameters, Text, Values
from audit.spec.sections import Concept


class SafreeParameters(Parameters):
    """SAFREE's projections. `latent_re_attention` exists to be refused: the released code constructs an exception
    without raising it there, so the switch changes no picture.
    """

    concepts: tuple[Text, ...] = ()  # (): the concept's phrase and synonyms
    alpha: float = Field(0.01, ge=0)
    self_validation: bool = True
    up_t: float = Field(10.0, gt=0)  # most steps that self-validation allows, less one
    slope: float = Field(2.5, gt=0)  # k; 3.5 in the released code's setting for artists
    midpoint: float = 5.333  # t0; 5.5 for artists
    mask: Text | None = None  # the word that stands in for a masked token; None: the vocabulary's entry 0, as released
    latent_re_attention: bool = False

    @model_validator(mode="after")
    def _no_operation(self) -> Self:
        if self.latent_re_attention:
            raise ValueError(
                "latent re-attention changes nothing in the released code and is not offered; leave it out"
            )
        return self

    def resolved(self, concept: Concept) -> dict[str, Any]:
        """All values, and the concepts, by default the concept's phrase and synonyms."""
        values = self.model_dump(mode="json", exclude={"latent_re_attention"})
        return {**values, "concepts": list(self.concepts) or [concept.phrase, *concept.synonyms]}

    @classmethod
    def texts(cls, values: Values) -> list[str]:
        """The concepts, and the word that stands in for a masked token."""
        return [*values["concepts"], *([values["mask"]] if values["mask"] else [])]


METHOD = GuardMethod("safree", "1", SafreeParameters, "audit.guards.safree:build", "arXiv:2410.12761")
