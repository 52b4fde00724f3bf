"""Parameters of the CLIP filter, and the filter as a guard. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Self

from pydantic import Field, model_validator

from audit.diffusion.text import load_tokenizer
from audit.filters.parameters import FilterParameters, mistake
from audit.guards.parameters import GuardMethod, Template, Text
from audit.methods.parameters import Values
from audit.spec.sections import Concept
from audit.weights.files import read_json
from audit.weights.references import ModelRef


class ClipFilterParameters(FilterParameters):
    """What a picture is blocked for: it fits phrases better than a background, or more than by a cosine."""

    model: str = Field(min_length=1)
    "The CLIP model: `testbed/judge`, a folder, or org/name@<40-hex commit>."
    phrases: tuple[Text, ...] = ()
    "What is blocked; by default the concept's phrase and synonyms."
    templates: tuple[Template, ...] = Field(("a photo of a {phrase}",), min_length=1)
    "Prompts of each phrase, whose embeddings are averaged."
    background: tuple[Text, ...] = ()
    "Prompts of everything else: a picture is blocked where the phrases' share of the softmax reaches `threshold`."
    threshold: Annotated[float, Field(gt=0, le=1)] | None = None
    "Least share of the phrases against the background; 0.5 without it."
    cosine: Annotated[float, Field(ge=-1, le=1)] | None = None
    "Least cosine to any phrase that blocks, in place of a background."

    @model_validator(mode="after")
    def _one_rule(self) -> Self:
        if bool(self.background) == (self.cosine is not None):
            raise ValueError("give either background prompts to compare the phrases with, or a cosine that blocks")
        if self.cosine is not None and self.threshold is not None:
            raise ValueError("threshold is a share against the background; with a cosine leave it out")
        return self

    def resolved(self, concept: Concept) -> Values:
        """Return all values but the model, which counts by its digest, with the phrases filled in."""
        values = self.model_dump(mode="json", exclude={"model"})
        phrases = list(self.phrases) or [concept.phrase, *concept.synonyms]
        threshold = (0.5 if self.threshold is None else self.threshold) if self.background else None
        return {**values, "phrases": phrases, "threshold": threshold}

    def models(self) -> dict[str, str]:
        """Return the CLIP model by its role."""
        return {"model": self.model}

    def check(self, models: Mapping[str, ModelRef], concepts: Sequence[Concept], where: str) -> None:
        """Check that the model is a CLIP whose text encoder reads every prompt whole."""
        ref = models.get("model")
        if ref is None:
            return
        config = read_json(ref.path / "config.json")
        if config.get("model_type") != "clip":
            raise mistake(
                METHOD.name, f"the model {self.model} is not a CLIPModel", where, "name a folder of a CLIPModel"
            )
        tokenizer = load_tokenizer(ref.path)
        longest = config.get("text_config", {}).get("max_position_embeddings", 77)
        for concept in concepts:
            for text in prompts_of(self.resolved(concept)):
                ids = tokenizer(text)["input_ids"]
                if len(ids) > longest or tokenizer.unk_token_id in ids[1:-1]:
                    problem = (
                        f"has {len(ids)} tokens, and it reads {longest}"
                        if len(ids) > longest
                        else "has a word outside its vocabulary"
                    )
                    raise mistake(
                        METHOD.name,
                        f"the text encoder of {self.model} cannot read {text[:80]!r}: it {problem}",
                        where,
                        "use words that this model was trained on, or another model",
                    )


def prompts_of(values: Values) -> list[str]:
    """Return every prompt that the model reads: those of the phrases, then the background."""
    phrased = [template.replace("{phrase}", phrase) for phrase in values["phrases"] for template in values["templates"]]
    return [*phrased, *values["background"]]


METHOD = GuardMethod("clip-filter", "1", ClipFilterParameters, "audit.filters.clip_filter:build", reads="picture")
