"""An audit whose networks are compiled: the same pictures to rounding, and its units say so."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from audit import run
from audit.machine.compilers import Mode
from audit.plan.document import Plan
from audit.spec.document import parse_spec
from audit.storage.journal import Journal
from tests.flows.audits import WAIVED
from tests.instruments.detectors.folders import write_classifier

CASES = 4


def pictures(root: Path, pipeline: Path, compile_with: Mode | None) -> tuple[dict[int, np.ndarray], Plan, Journal]:
    document = {
        "name": "compiled",
        "backbone": str(pipeline),
        "concepts": [{"name": "ring", "phrase": "ring"}],
        "defences": [{"name": "uce", "eraser": {"method": "uce"}}],
        "scenarios": [{"name": "text", "cases": CASES, "sampler": {"steps": 4, "guidance": 2.0}}],
        "controls": {"cases": CASES},
        "detectors": [
            {"name": "classifier", "kind": "classifier", "model": str(write_classifier(root / "classifier"))}
        ],
        "gate": {"version": "1", "judges": ["classifier"], "limits": [{"crr_max": 0.9}], **WAIVED},
    }
    spec, journal = parse_spec(document, "test"), run.open_journal(str(root / "root"))
    plan = run.plan(spec, journal, "r", "2026-01-01T00:00:00+00:00", run.collect(spec, journal, "r"))
    worker = run.worker(plan, journal, "cpu", CASES, compile_with)
    made = {}
    for kind in ("erase", "generate"):
        for unit in plan.pending(kind, journal):
            assert not worker.run(unit).errors
            for row in journal.read(kind, unit.key).to_pylist() if kind == "generate" else []:
                made[row["image_id"]] = np.asarray(Image.open(io.BytesIO(row["image"]["bytes"]))).astype(int)
    return made, plan, journal


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # what torch.compile says about diffusers' code while it traces it
def test_a_compiled_audit_makes_the_same_pictures_and_says_that_it_was_compiled(
    tmp_path: Path, tiny_folder: Path
) -> None:
    torch.compiler.reset()
    plain, _, before = pictures(tmp_path / "plain", tiny_folder, None)
    compiled, plan, after = pictures(tmp_path / "compiled", tiny_folder, "inductor")
    assert plain.keys() == compiled.keys()
    assert max(abs(plain[image] - compiled[image]).max() for image in plain) <= 1
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1  # the backbone's and the erased model's
    (first, *_) = plan.units_of("generate")
    assert after.header("generate", first.key)["runtime"]["device"] == "cpu, compiled with inductor"
    assert before.header("generate", first.key)["runtime"]["device"] == "cpu"
