"""The protocol of filters: what they read, and the ruling on each case."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from audit.weights.references import ModelRef

Pixels = npt.NDArray[np.uint8]  # height x width x 3, RGB


@dataclasses.dataclass(frozen=True)
class Parts:
    """What a filter may use: the device, and the model with a digest among those that it names (`Parameters.models`)."""

    device: str
    model: Callable[[str], ModelRef]


@dataclasses.dataclass(frozen=True)
class Ruling:
    """A filter's decision on one case, with the numbers and texts that led to it."""

    blocked: bool
    measures: Mapping[str, float] = dataclasses.field(default_factory=dict)
    facts: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def as_json(self, name: str, version: str) -> str:
        """Return the ruling as one JSON object. Raises ValueError for a number that is not finite: such a ruling is none."""
        document = {
            "filter": name,
            "version": version,
            "blocked": self.blocked,
            "measures": dict(self.measures),
            "facts": dict(self.facts),
        }
        return json.dumps(document, sort_keys=True, allow_nan=False)


class PromptFilter:
    """A filter that reads prompts, before anything is sampled."""

    name = ""
    version = ""

    def rule(self, prompts: Sequence[str]) -> list[Ruling]:
        """Return one ruling per prompt, in order; no ruling depends on the other prompts."""
        raise NotImplementedError


class PictureFilter:
    """A filter that reads decoded pictures."""

    name = ""
    version = ""

    def rule(self, pictures: Sequence[Pixels]) -> list[Ruling]:
        """Return one ruling per picture, in order; no ruling depends on the other pictures."""
        raise NotImplementedError


Filter = PromptFilter | PictureFilter
