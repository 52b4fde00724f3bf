"""Parameters of SAFREE, and the guard as a method. Imports no torch."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from audit.guards.parameters import GuardMethod, Parameters, Text
from audit.methods.parameters import Values
from audit.spec.sections import Concept


class SafreeParameters(Parameters):
    """Parameters of SAFREE's projections, by the released code."""

    concepts: tuple[Text, ...] = ()
    "Texts that span the concept's subspace; by default its phrase and synonyms."
    alpha: float = Field(0.01, ge=0)
    "Tolerance of the token filter: a larger one keeps more tokens."
    self_validation: bool = True
    "Use the edited prompt only for as many steps as the prompt's nearness to the concept calls for; otherwise for all."
    up_t: float = Field(10.0, gt=0)
    "Upper bound of self-validation's last step index (up_t)."
    slope: float = Field(2.5, gt=0)
    "Slope of self-validation's sigmoid (k); 3.5 in the released code's setting for artists."
    midpoint: float = 5.333
    "Midpoint of self-validation's sigmoid (t0); 5.5 in the released code's setting for artists."
    mask: Text | None = None
    "The word that stands in for a masked token; by default the vocabulary's entry 0, as in the released code."
    latent_re_attention: bool = False
    "Exists to be refused: the released code builds an exception there without raising it, so the switch changes nothing."

    @model_validator(mode="after")
    def _no_operation(self) -> Self:
        if self.latent_re_attention:
            raise ValueError(
                "latent re-attention changes nothing in the released code and is not offered; leave it out"
            )
        return self

    def resolved(self, concept: Concept) -> Values:
        """Return all values, and the concepts, by default the concept's phrase and synonyms."""
        values = self.model_dump(mode="json", exclude={"latent_re_attention"})
        return {**values, "concepts": list(self.concepts) or [concept.phrase, *concept.synonyms]}

    @classmethod
    def texts(cls, values: Values) -> list[str]:
        """Return the concepts, and the word that stands in for a masked token."""
        return [*values["concepts"], *([values["mask"]] if values["mask"] else [])]


METHOD = GuardMethod("safree", "1", SafreeParameters, "audit.guards.safree:build", "arXiv:2410.12761")
