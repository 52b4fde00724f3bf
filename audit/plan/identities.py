"""Identities of units: one record for each kind, whose canonical JSON is stored in the plan and hashed into the unit's key.

A value that is not in the record cannot change the unit's result. The JSON is written and read in this module only;
changing it changes keys, and everything is computed anew.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import Annotated, Literal, TypeAlias

from pydantic import (
    JsonValue,
    PlainSerializer,
    SerializerFunctionWrapHandler,
    TypeAdapter,
    ValidationError,
    model_serializer,
)

from audit.files import ForeignError
from audit.identity import canonical_json, int_key
from audit.plan.personalisations import Edited, Personalisation, Record, Relearned
from audit.records import Instrument, Plugin, QualityInstrument, ResolvedGuard, without_own_plugin
from audit.spec.classifier_guidance import ClassifierGuidance
from audit.spec.perturbation import Perturbation
from audit.spec.sampler import DDIM, Sampler
from audit.spec.sections import Concept

Json: TypeAlias = dict[str, JsonValue]
Source = Literal["prompt", "latent", "picture", "noise", "image", "vae", "black", "noise-latent", "noise-pixels"]
Pair = tuple[int, str, int | None]  # picture, baseline, the baseline's picture


def _stored_concept(concept: Concept) -> Json:
    """Return the fields of a concept that a result can depend on: how its pictures are shown is none of them."""
    return concept.model_dump(mode="json", exclude={"sensitive"})


UnitConcept = Annotated[Concept, PlainSerializer(_stored_concept)]


class PictureSampler(Sampler):
    """A scenario's sampler, with the size in pixels where a prompt set names one; None is the backbone's own side.

    The scheduler is stored unless it is DDIM. What a spec says of the UNet changes no picture, so it is never stored.
    """

    width: int | None = None
    height: int | None = None

    @model_serializer(mode="wrap")
    def _without_defaults(self, handler: SerializerFunctionWrapHandler) -> Json:
        fields: Json = handler(self)
        absent = {"distilled"} | ({"scheduler"} if self.scheduler == DDIM else set[str]())
        return {name: value for name, value in fields.items() if value is not None and name not in absent}


@dataclasses.dataclass(frozen=True)
class FromPicture(Record):
    """A start from a reference picture: noised to the level before the grid's last `steps`, which denoise it.

    With `known`, the start is noise alone, and that part of the picture is put back at each step.
    """

    steps: int
    known: Literal["half", "centre"] | None = None


@dataclasses.dataclass(frozen=True)
class StepNoise(Record):
    """Noise after each step of the deterministic sampler; see `audit/diffusion/noisy_steps.py`."""

    eta: float
    form: Literal["ddim", "added"]
    noise_scale: float


@dataclasses.dataclass(frozen=True)
class EraseIdentity(Record):
    """The identity of weights that a method makes of the backbone, or of an `edited` model; others name them by its key."""

    backbone: str
    method: str
    parameters: Mapping[str, JsonValue]
    concept: UnitConcept
    code: str
    plugin: Plugin | None = None
    edited: Edited | None = None
    kind: Literal["erase"] = "erase"

    @model_serializer(mode="wrap")
    def _without_what_others_have(self, handler: SerializerFunctionWrapHandler) -> Json:
        fields = without_own_plugin(handler(self))
        return {name: value for name, value in fields.items() if name != "edited" or value is not None}


@dataclasses.dataclass(frozen=True)
class CheckpointIdentity(Record):
    """The identity of weights from outside: their content and the method claimed of them, but not their path."""

    backbone: str
    checkpoint: str
    claim: str
    code: str
    kind: Literal["erase"] = "erase"


@dataclasses.dataclass(frozen=True)
class AttackIdentity(Record):
    """The identity of a search for `items` in the model of an erase unit (None is the backbone), which learns from `images`."""

    backbone: str
    method: str
    version: str
    parameters: Mapping[str, JsonValue]
    concept: UnitConcept
    seed: int
    model: str | None
    images: tuple[str, ...]
    code: str
    items: tuple[str, ...] = ()
    plugin: Plugin | None = None
    kind: Literal["attack"] = "attack"

    @model_serializer(mode="wrap")
    def _without_own(self, handler: SerializerFunctionWrapHandler) -> Json:
        return without_own_plugin(handler(self))


@dataclasses.dataclass(frozen=True)
class InvertIdentity(Record):
    """The identity of the latents of corpus `items`. `passes` and `tolerance` belong to the fixed-point method alone."""

    backbone: str
    model: str | None
    method: str
    steps: int
    passes: int | None
    tolerance: float | None
    prompt: str
    perturbation: Perturbation | None
    code: str
    items: tuple[str, ...] = ()
    kind: Literal["invert"] = "invert"


@dataclasses.dataclass(frozen=True)
class GenerateIdentity(Record):
    """The inputs that all `images` of a unit share.

    Only the source `latent` has a solver, and perhaps a perturbation; only `picture` says how it starts from one; only
    `prompt` may have noise after each step, or be guided by a classifier.
    """

    source: Source
    backbone: str
    model: str | None
    guards: tuple[ResolvedGuard, ...]
    sampler: PictureSampler | None  # None where nothing is sampled
    code: str
    solver: str | None = None
    perturbation: Perturbation | None = None
    personalisation: Personalisation | Relearned | None = None
    picture: FromPicture | None = None
    step_noise: StepNoise | None = None
    guidance: ClassifierGuidance | None = None
    images: tuple[int, ...] = ()
    kind: Literal["generate"] = "generate"

    @model_serializer(mode="wrap")
    def _without_what_others_have(self, handler: SerializerFunctionWrapHandler) -> Json:
        fields: Json = handler(self)
        absent = {"solver", "perturbation"} if self.solver is None else set[str]()
        absent |= {
            name for name in ("personalisation", "picture", "step_noise", "guidance") if getattr(self, name) is None
        }
        return {name: value for name, value in fields.items() if name not in absent}


@dataclasses.dataclass(frozen=True)
class FilterIdentity(Record):
    """The identity of one filter's rulings on the cases of one generate unit."""

    generate: str
    filter: ResolvedGuard
    code: str
    kind: Literal["filter"] = "filter"


@dataclasses.dataclass(frozen=True)
class DetectIdentity(Record):
    """The identity of one detector's scores for one generate unit. `instrument` is without the detector's name and
    threshold.
    """

    generate: str
    instrument: Instrument
    code: str
    kind: Literal["detect"] = "detect"


@dataclasses.dataclass(frozen=True)
class QualityIdentity(Record):
    """The identity of a quality instrument's numbers for pictures of one generate unit.

    Each is compared with a picture of another generate unit or of the corpus.
    """

    generate: str
    baselines: tuple[str, ...]  # further generate units
    instrument: QualityInstrument  # without its name
    pairs: tuple[Pair, ...]
    code: str
    regions: Mapping[int, str] = dataclasses.field(default_factory=dict)  # picture -> mask of its concept's region
    kind: Literal["quality"] = "quality"

    @model_serializer(mode="wrap")
    def _without_regions(self, handler: SerializerFunctionWrapHandler) -> Json:
        fields: Json = handler(self)
        return {name: value for name, value in fields.items() if name != "regions" or value}


Identity: TypeAlias = (
    EraseIdentity
    | CheckpointIdentity
    | AttackIdentity
    | InvertIdentity
    | GenerateIdentity
    | FilterIdentity
    | DetectIdentity
    | QualityIdentity
)
_FILTER = TypeAdapter(ResolvedGuard)
_RECORDS: Mapping[str, type[Identity]] = {
    "erase": EraseIdentity,
    "checkpoint": CheckpointIdentity,  # of kind `erase` too
    "attack": AttackIdentity,
    "invert": InvertIdentity,
    "generate": GenerateIdentity,
    "filter": FilterIdentity,
    "detect": DetectIdentity,
    "quality": QualityIdentity,
}


@dataclasses.dataclass(frozen=True)
class Unit:
    """A batch of work that one worker runs and journals as one file named by `key`."""

    key: str  # hex SHA-256 of the identity's canonical JSON
    depends: tuple[str, ...]  # keys of units that must be journalled first
    identity: Identity
    rows: int

    @property
    def kind(self) -> str:
        """Return the stage that runs the unit: erase, attack, invert, generate, filter, detect or quality."""
        return self.identity.kind

    @property
    def model(self) -> str | None:
        """Return the erase unit whose model is used. None for the backbone, or where no model is used."""
        identity = self.identity
        return identity.model if isinstance(identity, AttackIdentity | InvertIdentity | GenerateIdentity) else None


def filter_id_of(resolved: ResolvedGuard) -> int:
    """Return the number that stands for a filter with these parameters wherever its rulings are stored."""
    return int_key(_FILTER.dump_python(resolved, mode="json"))


def as_json(identity: Identity) -> Json:
    """Return an identity as it is stored; `audit.identity.key` of it is the unit's key."""
    name = "checkpoint" if isinstance(identity, CheckpointIdentity) else identity.kind
    fields: Json = _codec(name).dump_python(identity, mode="json")
    return fields


def from_json(kind: str, stored: object) -> Identity:
    """Return the identity of a stored unit of `kind`. Raises `ForeignError` for anything that `as_json` does not return."""
    if not isinstance(stored, dict):
        raise ForeignError("a unit's identity is no JSON object")
    try:
        return _codec("checkpoint" if kind == "erase" and "checkpoint" in stored else kind).validate_python(stored)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"]) or "its fields"
        raise ForeignError(f"the identity of a unit of kind {kind!r}: {place}: {first['msg']}") from None


def is_round_trip(pictures: GenerateIdentity, inversion: InvertIdentity) -> bool:
    """Return whether `pictures` denoises the latents of `inversion` exactly as that unit's own round trip did.

    The model, the sampler and its steps are the same, and nothing intervenes. Prompts belong to cases and are not compared.
    """
    sampler = pictures.sampler
    return (
        pictures.source == "latent"
        and (pictures.backbone, pictures.model) == (inversion.backbone, inversion.model)
        and not (pictures.guards or pictures.perturbation or pictures.personalisation)
        and pictures.solver == ("ddim" if inversion.method == "fixed-point" else inversion.method)
        and sampler == PictureSampler(steps=inversion.steps, guidance=1.0, dtype="float32")
    )


def text_of(identity: Identity) -> str:
    """Return the canonical JSON of an identity, as the plan stores it. Its SHA-256 is the unit's key."""
    return canonical_json(as_json(identity))


@functools.cache
def _codec(name: str) -> TypeAdapter[Identity]:
    return TypeAdapter(_RECORDS[name])
