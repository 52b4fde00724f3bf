"""Rates of another machine for a forecast, given on the command line or read from a file that states its origin."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import yaml
from pydantic import AfterValidator, Field, ValidationError, field_validator
from pydantic_core import PydanticCustomError

from audit.errors import SpecError
from audit.files import ForeignError
from audit.instruments.detectors.method import DETECTORS
from audit.methods.registry import one_of
from audit.plan.rates import Rates
from audit.spec.base import Model, extreme_numbers
from audit.yaml_files import read_yaml, reason


def _installed(kind: str) -> str:
    if kind not in DETECTORS.names():
        raise PydanticCustomError(
            "literal_error", "Input should be {expected}", {"expected": one_of(DETECTORS.names())}
        )
    return kind


Kind = Annotated[str, AfterValidator(_installed)]  # of a detector
Positive = Annotated[float, Field(gt=0, le=1e9, allow_inf_nan=False)]


class RatesFile(Model):
    """The file that `make bench-gpu` writes: seconds per picture on one device, and how they were measured."""

    origin: Annotated[str, Field(min_length=1, max_length=300)]  # machine, model, dtype, batch size
    seconds_per_call: Positive  # of one UNet evaluation of one picture
    # Of one picture, by kind of detector. One number is CLIP's: files were written so while nothing else was measured.
    seconds_per_detection: dict[Kind, Positive] = Field(default_factory=dict)
    evaluations_per_step: Positive | None = None  # of the fixed-point inversion

    @field_validator("seconds_per_detection", mode="before")
    @classmethod
    def _of_clip(cls, value: object) -> object:
        return {"clip-zero-shot": value} if isinstance(value, int | float) else value or {}


def stated(seconds_per_call: float) -> Rates:
    """Return the rate given on the command line."""
    return Rates(seconds_per_call=seconds_per_call, basis=f"{seconds_per_call:g} s a call, as stated by --rate")


def read_rates(path: Path) -> Rates:
    """Return the rates of a file, with its origin. Raises `SpecError` when the file cannot be read or holds no rates."""
    try:
        document = read_yaml(path)
        if extreme := list(extreme_numbers(document)):
            raise _unusable(path, extreme[0])
        rates = RatesFile.model_validate(document)
    except (OSError, ForeignError) as error:
        raise _unusable(path, reason(error)) from None
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise _unusable(path, f"not YAML or JSON: {reason(error)}") from None
    except ValidationError as error:
        detail = error.errors(include_url=False)[0]
        field = ".".join(str(part) for part in detail["loc"]) or "the document"
        raise _unusable(path, f"{field}: {detail['msg']}") from None
    return Rates(
        seconds_per_call=rates.seconds_per_call,
        seconds_per_detection={str(kind): value for kind, value in rates.seconds_per_detection.items()},
        evaluations_per_step=rates.evaluations_per_step,
        basis=f"{rates.origin} ({path})",
    )


def _unusable(path: Path, why: str) -> SpecError:
    return SpecError(
        f"the rates cannot be read: {why}",
        where=str(path),
        next_step="write 'origin' and 'seconds_per_call', or let make bench-gpu write the file",
    )
