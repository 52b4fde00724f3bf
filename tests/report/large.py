"""A finished run of many cells, made by hand: 20 concepts by 10 defences by 6 scenarios, with a picture of everything."""

from __future__ import annotations

import dataclasses
import io

import numpy as np
from PIL import Image

from audit.records import Control, Role
from audit.storage.pictures import Address
from audit.verdict.results import RunResult
from tests.report.pictured import first_case
from tests.report.runs import CHECKS, Builder

CONCEPTS = tuple(f"artist-{number:02}" for number in range(20))
DEFENCES = tuple(f"uce-{number}" for number in range(5)) + tuple(f"esd-{number}+sld" for number in range(5))
SCENARIOS = ("text", "embedding", "latent-whitebox", "latent-blackbox", "adversarial", "ring-a-bell")


def large() -> RunResult:
    """Every fourth defended cell comes back; the verdict is the real gate's."""
    builder = Builder()
    for concept in CONCEPTS:
        for scenario in SCENARIOS:
            builder.cell("none", scenario, 47, 48, 48, concept=concept, role=Role.CONTROL, control=Control.BACKBONE)
            for place, defence in enumerate(DEFENCES):
                builder.cell(defence, scenario, 0 if place % 4 else 30, 46, 48, concept=concept)
        for control in (Control.REFERENCE, Control.VAE_ROUNDTRIP):
            builder.cell("none", "none", 16, 16, 16, concept=concept, role=Role.CONTROL, control=control)
    result = builder.result(CHECKS)
    cases = (case for concept in CONCEPTS for case in first_case(result.crr, result.samples, concept))
    return dataclasses.replace(result, pictured=tuple(cases))


def noisy(address: Address) -> bytes:
    """PNG bytes of a 128 x 128 picture that compresses badly, as photographs do."""
    rng = np.random.default_rng(address.image_id)
    coarse = Image.fromarray(rng.integers(0, 255, (16, 16, 3), dtype=np.uint8)).resize((128, 128))
    grain = rng.integers(0, 90, (128, 128, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(np.asarray(coarse) // 2 + grain).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()
