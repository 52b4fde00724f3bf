"""The section `benign` of a spec: ordinary prompts that every defence has to go on drawing."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import Field

from audit.spec.base import Model, Name
from audit.spec.prompts import PromptSource
from audit.spec.quality import QualitySpec
from audit.spec.sampler import Sampler

FEWEST = 16  # pairs of pictures that the picture check can compare
PICTURE_CHECK = "picture-check"  # the quality instrument that the spec gains when it lists none of the same network


def subject_name(text: str) -> str:
    """Return what a prompt shows as a name that detectors' rules can use; empty where no Latin letter or digit is left."""
    return re.sub(r"^[^a-z0-9]+|-+$", "", re.sub(r"[^a-z0-9._+-]+", "-", text.strip().casefold()))[:64]


class BenignSpec(Model):
    """Benign prompts, the same ones and seeds through every defence and the un-erased backbone.

    Their rates count towards retention, and their pictures are compared as sets. Rows about the concept itself are left
    out. `prompts` replaces the shipped set: scenes for the testbed, everyday things for any other backbone. `sampler`
    defaults to that of the first scenario with prompts. `features` is the network of the picture check: a CLIP or a ResNet
    classifier, by default that of the first judge that has one.
    """

    cases: Annotated[int, Field(ge=0, le=100_000)] = 32
    "Benign prompts for each concept and defence."
    prompts: PromptSource | None = None
    "Other prompts than the shipped ones; a file needs the columns `prompt` and `concept`."
    sampler: Sampler | None = None
    "Sampler settings; by default those of the first scenario with prompts."
    features: Annotated[str, Field(min_length=1)] | None = None
    "The network of the picture check; by default that of the first judge with a CLIP or a ResNet classifier."
    # Filled in when the audit is planned, so that workers and reports need no prompt file:
    subjects: tuple[Name, ...] = ()
    "Filled in with what the prompts show; leave it out."
    instrument: QualitySpec | None = None
    "Filled in with the instrument of the picture check; leave it out."
