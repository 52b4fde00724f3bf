"""Results and pictures as files for other tools: marts as CSV or Parquet, a run as a folder for Hugging Face `datasets`."""

from __future__ import annotations

from enum import StrEnum


class MartFormat(StrEnum):
    """The form of an exported mart."""

    CSV = "csv"
    PARQUET = "parquet"
