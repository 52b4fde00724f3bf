"""The prompt set of a scenario: one that ships with the tool, or the user's own file."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from audit.spec.base import Model

ShippedSet = Literal[
    "cifar10-simple", "cifar10-paraphrase", "testbed-simple", "testbed-paraphrase", "everyday-benign", "testbed-benign"
]
PromptField = Literal["prompt", "seed", "guidance", "key", "concept", "width", "height"]


class PromptSource(Model):
    """A prompt set: one that ships with the tool, or the user's CSV or Parquet file, which is never copied.

    The columns of I2P and of the files derived from ESD's are found by their names (`audit/corpus/prompt_files.py`);
    `columns` names others, and `{guidance: null}` leaves one unread, so that the sampler's own setting holds.
    """

    set: ShippedSet | None = None
    "A prompt set that ships with the tool."
    file: Annotated[str, Field(min_length=1)] | None = None
    "A CSV or Parquet file, relative to the current directory."
    columns: dict[PromptField, str | None] = Field(default_factory=dict)
    "Field -> name of the file's column; null leaves the field unread."
    where: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    "Column -> values; a row needs one of each to be used."

    @field_validator("where", mode="before")
    @classmethod
    def _single_values(cls, where: object) -> object:
        return {k: (v,) if isinstance(v, str) else v for k, v in where.items()} if isinstance(where, dict) else where

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.set is None) == (self.file is None):
            raise ValueError("takes either a set or a file")
        return self
