"""Parameters of relearning: few-step LoRA training on pictures of an erased concept. Imports no torch."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Annotated, ClassVar

from pydantic import AfterValidator, Field, field_validator

from audit.attacks.parameters import AttackMethod, LearningRate, TrainingParameters
from audit.spec.templates import with_phrase

# Of UNets (attn1, attn2) and of transformers, whose joint attention projects the text's tokens too.
PROJECTION = re.compile(r"(^|\.)attn\d?\.(to_q|to_k|to_v|to_out\.0|add_q_proj|add_k_proj|add_v_proj|to_add_out)$")
Template = Annotated[str, Field(min_length=1, max_length=200), AfterValidator(with_phrase)]


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

    PRESETS: ClassVar[Mapping[str, Mapping[str, object]]] = {
        "lora": {},
        "testbed": {"rank": 8, "learning_rate": 2e-3, "batch_size": 8, "images": 16},
    }

    @field_validator("checkpoints")
    @classmethod
    def _ascending(cls, steps: tuple[int, ...]) -> tuple[int, ...]:
        if list(steps) != sorted(set(steps)) or steps[-1] == 0:
            raise ValueError("training steps ascend, each named once, and the last is at least 1")
        return steps

    @property
    def trained(self) -> tuple[int, ...]:
        """Return the checkpoints at which a LoRA is kept: all but 0."""
        return tuple(step for step in self.checkpoints if step)

    def unet_calls(self, items: int) -> float:
        """Return a forward and a backward pass for each noisy picture of each step."""
        return 3.0 * self.checkpoints[-1] * self.batch_size


def stored_bytes(p: RelearningParameters, shapes: Mapping[str, Sequence[int]]) -> int:
    """Return the bytes of the LoRA at all checkpoints, given a network's shapes by diffusers names."""
    layers = [shape for name, shape in shapes.items() if PROJECTION.search(name.removesuffix(".weight"))]
    return 4 * len(p.trained) * sum(p.rank * (shape[0] + shape[1]) for shape in layers if len(shape) == 2)


def item_of(step: int) -> str:
    """Return the name of the item that a checkpoint gives."""
    return f"step-{step}"


METHOD = AttackMethod(
    "relearning", "1", RelearningParameters, "audit.attacks.relearning:run", "arXiv:2106.09685",
    presets=RelearningParameters.PRESETS,
)  # fmt: skip
