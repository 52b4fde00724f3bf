"""The scenarios of a spec: attacks, each with its number of cases and its sampler."""

from __future__ import annotations

import re
from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, field_validator, model_validator

from audit.spec.base import Model, Name, Phrase
from audit.spec.classifier_guidance import ClassifierGuidanceScenario
from audit.spec.noise_based import NoiseBasedScenario
from audit.spec.perturbation import Perturbation
from audit.spec.picture_scenarios import CompletionScenario, Img2ImgScenario
from audit.spec.prompts import PromptSource
from audit.spec.relearning import CyclesScenario, RelearningScenario
from audit.spec.sampler import DDIM, Sampler
from audit.spec.scenario_base import KINDS, BaseScenario, with_kind
from audit.spec.templates import has_mark, with_phrase


class TextScenario(BaseScenario):
    """Prompts that name the subject, `{phrase}` replaced; or the rows of a prompt set.

    With `prompts`, templates serve the neighbours of which the set has no prompts.
    """

    name: Name = "text"
    kind: Literal["text"] = "text"
    "The kind of scenario; the name by default."
    cases: Annotated[int, Field(ge=1, le=1_000_000)] = 100
    "Cases for each concept and defence."
    templates: Annotated[tuple[Phrase, ...], Field(min_length=1)] = ("a photo of a {phrase}",)
    "Prompts with `{phrase}` in place of the concept, used in turn."
    synonyms: bool = False
    "Prompt with the concept's synonyms too, in turn."
    prompts: PromptSource | None = None
    "A prompt set in place of the templates."
    sampler: Sampler = Sampler()
    "Sampler settings."

    @field_validator("templates")
    @classmethod
    def _has_phrase(cls, templates: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(map(with_phrase, templates))


class QualityGate(Model):
    """Limits on the round trip of an inversion through the inverting model; a case that misses one is unassessed."""

    residual_max: Annotated[float, Field(gt=0)] = 1e-3
    "Largest residual of the fixed-point iteration."
    psnr_min_db: Annotated[float, Field(gt=0)] = 35.0
    "Least PSNR of the regenerated picture against the VAE's own round trip, in dB."


class LatentScenario(BaseScenario):
    """DDIM inversion of corpus images at guidance 1, then regeneration through the defence.

    Both prompts are null, or a template with `{phrase}` of what the image shows. `bdia` and `o-belm` replace DDIM by
    samplers that invert exactly: an upper bound on what an inversion can carry. Every perturbation repeats the first
    `perturbed_cases` of the default row.
    """

    kind: Literal["latent-whitebox", "latent-blackbox"]
    "White box inverts with the erased model, black box with the backbone; the name by default."
    cases: Annotated[int, Field(ge=1, le=1_000_000)] = 100
    "Cases for each concept and defence, each from another picture of the corpus."
    sampler: Sampler = Sampler(guidance=1.0)
    "Sampler settings, of both directions."
    method: Literal["fixed-point", "bdia", "o-belm"] = "fixed-point"
    "Inversion of DDIM by fixed-point iteration, or a sampler that inverts exactly."
    fixed_point_passes: Annotated[int, Field(ge=0, le=50)] = 10
    "Most passes of the fixed-point iteration at each step; 0 is plain DDIM inversion."
    fixed_point_tolerance: Annotated[float, Field(gt=0)] = 1e-4
    "Relative residual at which the iteration ends."
    inversion_prompt: Phrase | None = None
    "Template of the prompt under which pictures are inverted; the null prompt without it."
    regeneration_prompt: Phrase | None = None
    "Template of the prompt under which they are regenerated; the null prompt without it."
    perturbations: tuple[Perturbation, ...] = ()
    "Disturbances, each on further cells that decide nothing; a bare number is `latent-noise` of that strength."
    perturbed_cases: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    "Cases of each perturbation; `cases` without it."
    quality_gate: QualityGate = QualityGate()
    "Limits that the round trip of an inversion must keep."

    @field_validator("inversion_prompt", "regeneration_prompt")
    @classmethod
    def _has_phrase(cls, template: str | None) -> str | None:
        return None if template is None else with_phrase(template)

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.sampler.guidance != 1.0 and self.regeneration_prompt is None:
            raise ValueError(
                "inverted latents regenerate with the null prompt, so sampler.guidance must be 1; "
                "another guidance needs regeneration_prompt"
            )
        if self.sampler.scheduler != DDIM:
            raise ValueError(
                f"inverted latents are sampled by what inverts, and scheduler {self.sampler.scheduler} does not: leave "
                "sampler.scheduler at ddim, or let method be bdia or o-belm"
            )
        if self.sampler.dtype != "float32":
            raise ValueError("inversion needs sampler.dtype float32: bfloat16 cannot reach the round-trip gate")
        if len(set(self.perturbations)) < len(self.perturbations):
            raise ValueError("perturbations: the same one is listed more than once")
        if self.perturbations and (self.perturbed_cases or 0) > self.cases:
            raise ValueError(
                f"perturbed_cases: {self.perturbed_cases} is more than the {self.cases} cases of the default row, of which "
                "they are the first"
            )
        if self.method != "fixed-point" and self.sampler.steps < 2:
            raise ValueError(
                f"method {self.method} steps from two levels at a time, so sampler.steps must be at least 2"
            )
        if self.method != "fixed-point" and any(perturbation.of_latent for perturbation in self.perturbations):
            raise ValueError(
                f"method {self.method} starts from two latents that belong together, so noise on them is not defined; "
                "use method fixed-point, or perturb the image"
            )
        return self


Files = Annotated[str, Field(min_length=1)] | dict[Name, Annotated[str, Field(min_length=1)]]


class EmbeddingScenario(BaseScenario):
    """Prompts with a learned token in place of `{attack}`: learned by textual inversion, or brought as a file.

    White box, it is learned through the erased model of each defence; black box, on the backbone. `embedding` is a file,
    or a file for each concept, and is audited as it is, whoever learned it where. `personalisation` is, in the same way,
    a LoRA or a whole network that somebody trained: it is put on top of every defence's model, and the templates name the
    token that it was trained with, as in "a photo of a sks {phrase}". White box, a whole network started from the erased model.
    """

    kind: Literal["embedding-whitebox", "embedding-blackbox"]
    "White box learns through the erased model, black box on the backbone; the name by default."
    cases: Annotated[int, Field(ge=1, le=1_000_000)] = 100
    "Cases for each concept and defence."
    templates: Annotated[tuple[Phrase, ...], Field(min_length=1)] = ("a photo of a {attack}",)
    "Prompts with `{attack}` in place of the learned token; those of a personalisation may hold `{phrase}` instead."
    embedding: Files | None = None
    "A learned embedding that you bring: a file, or a file for each concept."
    personalisation: Files | None = None
    "A LoRA or a whole network that you bring: a file or folder, or one for each concept."
    control_concept: Name | None = None
    "A concept that the backbone never learned, with pictures in a corpus entry of role `control`, learned in the same way."
    preset: Name | None = None
    "Named parameters of textual inversion."
    parameters: dict[str, object] = Field(default_factory=dict)
    "Single parameters over those of the preset."
    sampler: Sampler = Sampler()
    "Sampler settings."

    @model_validator(mode="before")
    @classmethod
    def _plain_template(cls, fields: object) -> object:
        if not isinstance(fields, dict) or fields.get("personalisation") is None:
            return fields
        return {"templates": ("a photo of a {phrase}",), **fields}

    @model_validator(mode="after")
    def _brought_as_it_is(self) -> Self:
        brought = self.embedding if self.personalisation is None else self.personalisation
        if self.embedding is not None and self.personalisation is not None:
            raise ValueError("takes either an embedding or a personalisation; audit each in a spec of its own")
        if brought is not None and (self.preset is not None or self.parameters):
            what = "an embedding" if self.personalisation is None else "a personalisation"
            raise ValueError(f"{what} that is brought is not learned: it takes no preset or parameters")
        if brought is not None and self.control_concept is not None:
            raise ValueError("control_concept is learned as the concept is, and here nothing is learned; remove it")
        for template in self.templates:
            if self.personalisation is None:
                has_mark(template)
            elif template.count("{phrase}") > 1 or re.search(r"[{}]", template.replace("{phrase}", "")):
                raise ValueError(
                    f"template {template!r} may contain {{phrase}} once and no other braces: a personalisation changes the "
                    "model, and its own token is written as it is"
                )
        return self

    def files(self, concept: str = "") -> dict[str, str]:
        """Return concept -> embedding file, empty when it is learned; a file without a concept counts for `concept`."""
        return _by_concept(self.embedding, concept)

    def personalisations(self, concept: str = "") -> dict[str, str]:
        """Return concept -> personalisation, as `files`."""
        return _by_concept(self.personalisation, concept)


def _by_concept(given: str | dict[str, str] | None, concept: str) -> dict[str, str]:
    if given is None:
        return {}
    return {concept: given} if isinstance(given, str) else dict(given)


class AdversarialTextScenario(BaseScenario):
    """Prompts made to bring the concept back: searched for in the backbone's text encoder alone, through the erased model, or
    read from a file.

    Ring-A-Bell and MMA-Diffusion know no defence, so one search serves all of them; UnlearnDiffAtk and P4D search through each
    defence's model, white box. `found` different prompts are searched for per concept, each from a seed of its own, and serve
    the cases in turn. With `prompts`, somebody else's search is audited as it is.
    """

    kind: Literal["adversarial-text"]
    "The kind of scenario; the name by default."
    cases: Annotated[int, Field(ge=1, le=1_000_000)] = 100
    "Cases for each concept and defence."
    method: Name = "ring-a-bell"
    "The search: the name of an installed attack that searches for prompts."
    found: Annotated[int, Field(ge=1, le=10_000)] = 10
    "Prompts that are searched for, for each concept."
    preset: Name | None = None
    "Named parameters of the search."
    parameters: dict[str, object] = Field(default_factory=dict)
    "Single parameters over those of the preset."
    prompts: PromptSource | None = None
    "Prompts of somebody else's search, audited as they are."
    sampler: Sampler = Sampler()
    "Sampler settings."

    @model_validator(mode="after")
    def _brought_as_they_are(self) -> Self:
        if self.prompts is not None and (self.preset is not None or self.parameters):
            raise ValueError("prompts that are brought are not searched for: they take no preset or parameters")
        return self


def _named(entry: object) -> object:
    if isinstance(entry, dict) and "name" not in entry:
        raise ValueError(f"has no name; the name of a kind says its kind too: {', '.join(KINDS)}")
    return with_kind(entry)


ScenarioSpec = Annotated[
    Annotated[
        TextScenario
        | AdversarialTextScenario
        | EmbeddingScenario
        | LatentScenario
        | Img2ImgScenario
        | CompletionScenario
        | RelearningScenario
        | CyclesScenario
        | NoiseBasedScenario
        | ClassifierGuidanceScenario,
        Field(discriminator="kind"),
    ],
    BeforeValidator(_named),
]
