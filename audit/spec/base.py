"""Base class and field types of all sections of a spec."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._+-]{0,63}$")]
Phrase = Annotated[str, Field(min_length=1, max_length=200)]
Probability = Annotated[float, Field(ge=0.0, le=1.0)]
_SMALLEST_LIMIT = 1e-6
_LARGEST_CONFIDENCE = 0.999999
_INTEGERS = 2**63  # what the index and the sampler's generators hold
_SMALL, _LARGE = 1e-100, 1e100  # beyond, arithmetic with a number ends in 0 or infinity


def _decidable(limit: float) -> float:
    if limit < _SMALLEST_LIMIT:
        raise ValueError(
            f"{limit:g} is less than any number of cases can show; the smallest limit is {_SMALLEST_LIMIT:g}"
        )
    return limit


def _attainable(confidence: float) -> float:
    if confidence > _LARGEST_CONFIDENCE:
        raise ValueError(f"no number of cases gives that confidence; the largest is {_LARGEST_CONFIDENCE}")
    return confidence


UpperLimit = Annotated[float, Field(gt=0.0, lt=1.0), AfterValidator(_decidable)]  # on a rate
Confidence = Annotated[float, Field(gt=0.5, lt=1.0), AfterValidator(_attainable)]


class Model(BaseModel):
    """Base of all spec sections: frozen, unknown fields refused, numbers finite."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, str_strip_whitespace=True)


def extreme_numbers(document: object, field: str = "") -> Iterator[str]:
    """Yield a sentence for every number of a parsed document that nothing can be computed with, each with its field."""
    if isinstance(document, dict):
        for name, value in document.items():
            yield from extreme_numbers(value, f"{field}.{name}" if field else str(name))
    elif isinstance(document, list | tuple):
        for index, value in enumerate(document):
            yield from extreme_numbers(value, f"{field}.{index}" if field else str(index))
    elif isinstance(document, int) and not -_INTEGERS <= document < _INTEGERS:
        yield f"{field}: a whole number of more than 64 bits is larger than any that is meant here"
    elif isinstance(document, float) and math.isfinite(document):  # the others are refused by the field's own type
        if abs(document) > _LARGE:
            yield f"{field}: {document:g} is too large to compute with"
        elif 0.0 < abs(document) < _SMALL:
            yield f"{field}: {document:g} is too small to compute with"
