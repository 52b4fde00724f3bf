"""Parameters of relearning: few steps of training on pictures of an erased concept. Imports no torch."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Annotated, ClassVar, Literal, Self

from pydantic import (
    Field,
    JsonValue,
    SerializerFunctionWrapHandler,
    field_validator,
    model_serializer,
    model_validator,
)

from audit.attacks.parameters import AttackMethod, LearningRate, TrainingParameters
from audit.spec.templates import Template

# Of UNets (attn1, attn2) and of transformers, whose joint attention projects the text's tokens too.
PROJECTION = re.compile(r"(^|\.)attn\d?\.(to_q|to_k|to_v|to_out\.0|add_q_proj|add_k_proj|add_v_proj|to_add_out)$")

_PRIOR = ("prior_pictures", "prior_prompts", "prior_steps", "prior_guidance")
_LATER = ("trains", "prior_weight", "max_norm", *_PRIOR)  # than the first trainings


class RelearningParameters(TrainingParameters):
    """Settings of the training; see `audit/attacks/relearning.py`."""

    checkpoints: Annotated[tuple[Annotated[int, Field(ge=0, le=1_000_000)], ...], Field(min_length=1, max_length=50)] = (
        0, 5, 10, 20, 50, 100,
    )  # fmt: skip
    "Training steps after which pictures are drawn, ascending; 0 is the model as it is. The last ends the training."
    rank: Annotated[int, Field(ge=1, le=1024)] = 4
    "Rank of the LoRA."
    alpha: Annotated[float, Field(gt=0, le=1e6)] | None = None
    "Alpha of the LoRA, whose product is scaled by alpha / rank; the rank by default."
    learning_rate: LearningRate = 1e-4
    "Learning rate of AdamW."
    images: Annotated[int, Field(ge=1, le=10_000)] = 8
    "Reference pictures of the corpus to train on (k), none of which is a case of a latent scenario."
    templates: Annotated[tuple[Template, ...], Field(min_length=1)] = ("a photo of a {phrase}",)
    "Captions of the pictures, drawn at random; `{phrase}` stands for the concept."
    trains: Literal["lora", "network"] = "lora"
    "What is trained: a LoRA on the attention projections, or every weight of the network, as DreamBooth does."
    prior_weight: Annotated[float, Field(ge=0, le=100)] = 0.0
    "Weight of the prior-preservation loss on the model's own pictures of other things; 0 does without them."
    prior_pictures: Annotated[int, Field(ge=1, le=10_000)] = 100
    "Pictures that the model itself draws before it is trained, for the prior-preservation loss."
    prior_prompts: Annotated[tuple[Annotated[str, Field(min_length=1, max_length=200)], ...], Field(min_length=1)] = (
        "a photo of an object",
    )
    "Prompts of these pictures, in turn: DreamBooth's class prompt."
    prior_steps: Annotated[int, Field(ge=1, le=1000)] = 50
    "Sampler steps of these pictures."
    prior_guidance: Annotated[float, Field(ge=1, le=100)] = 7.5
    "Classifier-free guidance of these pictures."
    max_norm: Annotated[float, Field(gt=0, le=1e6)] | None = None
    "Largest norm of a step's gradient, to which longer ones are scaled down; no limit without it."

    # `dreambooth`: diffusers' examples/dreambooth, README with prior preservation and the defaults of train_dreambooth.py.
    _DREAMBOOTH: ClassVar[Mapping[str, object]] = {
        "trains": "network", "learning_rate": 5e-6, "batch_size": 1, "flip": 0.0, "images": 5, "max_norm": 1.0,
        "prior_weight": 1.0, "prior_pictures": 200, "checkpoints": (0, 100, 200, 400, 800),
    }  # fmt: skip
    PRESETS: ClassVar[Mapping[str, Mapping[str, object]]] = {
        "lora": {},
        "testbed": {"rank": 8, "learning_rate": 2e-3, "batch_size": 8, "images": 16},
        "dreambooth": _DREAMBOOTH,
        "testbed-dreambooth": {
            **_DREAMBOOTH, "learning_rate": 1e-4, "batch_size": 8, "images": 16, "checkpoints": (0, 5, 10, 20, 50, 100),
            "prior_pictures": 32, "prior_steps": 20, "prior_guidance": 3.0,
            "prior_prompts": ("a photo of a circle", "a photo of a cross", "a photo of a moon", "a photo of a heart"),
        },
    }  # fmt: skip

    @model_serializer(mode="wrap")
    def _without_later_defaults(self, handler: SerializerFunctionWrapHandler) -> dict[str, JsonValue]:
        """Leave out what does not act, and what trainings before DreamBooth do not say, so that their units keep their keys."""
        fields = RelearningParameters.model_fields
        unset = {name for name in _LATER if getattr(self, name) == fields[name].default}
        unset |= {"rank", "alpha"} if self.trains == "network" else set()
        unset |= set() if self.prior_weight else set(_PRIOR)
        return {name: value for name, value in handler(self).items() if name not in unset}

    @model_validator(mode="after")
    def _acts(self) -> Self:
        given = self.model_fields_set
        if self.trains == "network" and (idle := sorted({"rank", "alpha"} & given)):
            raise ValueError(
                f"{' and '.join(idle)}: only a LoRA takes this, and trains: network trains the weights themselves; leave it out, "
                "or start from preset dreambooth"
            )
        if "prior_weight" not in given and (idle := [name for name in _PRIOR if name in given]):
            raise ValueError(
                f"{' and '.join(idle)}: only the prior's loss takes this, and prior_weight is 0; set that, as to 1"
            )
        return self

    @field_validator("checkpoints")
    @classmethod
    def _ascending(cls, steps: tuple[int, ...]) -> tuple[int, ...]:
        if list(steps) != sorted(set(steps)) or steps[-1] == 0:
            raise ValueError("training steps ascend, each named once, and the last is at least 1")
        return steps

    @property
    def trained(self) -> tuple[int, ...]:
        """Return the checkpoints at which what was trained is kept: all but 0."""
        return tuple(step for step in self.checkpoints if step)

    def unet_calls(self, items: int) -> float:
        """Return a forward and a backward pass for each noisy picture of each step, and the sampling of the prior's pictures."""
        return float(self.prior_calls + self.training_calls(self.checkpoints[-1]))

    @property
    def prior_calls(self) -> int:
        """Return the UNet evaluations that the prior's pictures take."""
        if not self.prior_weight:
            return 0
        return self.prior_pictures * self.prior_steps * (1 if self.prior_guidance == 1.0 else 2)

    def training_calls(self, steps: int) -> int:
        """Return the UNet evaluations of so many steps, a backward pass counted as two."""
        return 3 * steps * self.batch_size * (2 if self.prior_weight else 1)


def stored_bytes(p: RelearningParameters, shapes: Mapping[str, Sequence[int]]) -> int:
    """Return the bytes of what was trained at all checkpoints, given a network's shapes by diffusers names."""
    if p.trains == "network":
        return 4 * len(p.trained) * sum(map(math.prod, shapes.values()))
    layers = [shape for name, shape in shapes.items() if PROJECTION.search(name.removesuffix(".weight"))]
    return 4 * len(p.trained) * sum(p.rank * (shape[0] + shape[1]) for shape in layers if len(shape) == 2)


def item_of(step: int) -> str:
    """Return the name of the item that a checkpoint gives."""
    return f"step-{step}"


METHOD = AttackMethod(
    "relearning", "1", RelearningParameters, "audit.attacks.relearning:run", "arXiv:2106.09685",
    presets=RelearningParameters.PRESETS,
)  # fmt: skip
