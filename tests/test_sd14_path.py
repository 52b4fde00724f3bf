"""The path that real weights take: SD v1.4's architecture through erasure, inversion, regeneration and scoring."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from audit import run
from audit.compute.worker import UnitReport
from audit.plan.document import Plan
from audit.spec.document import parse_spec
from audit.storage.journal import Journal
from audit.testbed.scenes import write_corpus
from tests.flows.audits import WAIVED
from tests.instruments.detectors.folders import write_classifier
from tests.sd14 import CUT, FULL, Widths, make_unet, write_sd14


def document(backbone: Path, classifier: Path, corpus: Path, cases: int) -> dict[str, Any]:
    return {
        "name": "sd14-path",
        "backbone": str(backbone),
        "concepts": [{"name": "ring", "phrase": "ring"}],
        "corpus": [{"url": str(corpus), "concept": "ring"}],
        "defences": [{"name": "uce", "eraser": {"method": "uce"}}],
        "scenarios": [
            {"name": "text", "cases": cases, "templates": ["{phrase}"], "sampler": {"steps": 2, "guidance": 7.5}},
            {
                "name": "latent-whitebox",
                "cases": cases,
                "sampler": {"steps": 2, "guidance": 1.0},
                "fixed_point_passes": 2,
            },
        ],
        "controls": {"cases": 1, "random_latent": False},
        "detectors": [{"name": "classifier", "kind": "classifier", "model": str(classifier)}],
        "gate": {
            "version": "1",
            "judges": ["classifier"],
            "limits": [{"crr_max": 0.1}],
            "controls": {"random_latent_max": 1.0},
            **WAIVED,
        },
    }


def audit(folder: Path, widths: Widths, cases: int) -> tuple[Plan, Journal, list[UnitReport]]:
    backbone = write_sd14(folder / "sd14", widths)
    classifier = write_classifier(folder / "classifier")
    write_corpus(str(folder / "corpus"), "ring", cases, "audit")
    spec = parse_spec(document(backbone, classifier, folder / "corpus", cases), "test")
    journal = run.open_journal(str(folder / "root"))
    manifest = run.collect(spec, journal, "sd14")
    plan = run.plan(spec, journal, "sd14", "2026-01-01T00:00:00+00:00", manifest)
    worker = run.worker(plan, journal, "cpu", 2)
    reports = [
        worker.run(unit) for kind in ("erase", "invert", "generate", "detect") for unit in plan.pending(kind, journal)
    ]
    return plan, journal, reports


def check(plan: Plan, journal: Journal, reports: list[UnitReport], side: int) -> None:
    assert not [report for report in reports if report.errors]
    assert {report.kind for report in reports} == {"erase", "invert", "generate", "detect"}
    assert not plan.pending("detect", journal)
    erased = journal.read("erase", next(iter(journal.keys("erase")))).to_pylist()[0]
    assert '"tensors": 32' in erased["facts"]
    for key in journal.keys("invert"):
        for row in journal.read("invert", key).to_pylist():
            assert row["status"] == "ok"
            assert row["residual_max"] is not None
    made = [
        row for key in journal.keys("generate") for row in journal.read("generate", key).to_pylist() if row["image"]
    ]
    assert made
    assert {Image.open(io.BytesIO(row["image"]["bytes"])).size for row in made} == {(side, side)}


def test_the_cut_down_architecture_goes_through_every_stage(tmp_path: Path) -> None:
    check(*audit(tmp_path, CUT, 2), side=64)


def test_the_full_unet_has_the_published_size() -> None:
    with torch.device("meta"):
        unet = make_unet(FULL)
    assert sum(p.numel() for p in unet.parameters()) == 859_520_964
    assert sum(name.endswith(("attn2.to_k.weight", "attn2.to_v.weight")) for name in unet.state_dict()) == 32


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_the_full_architecture_goes_through_every_stage(tmp_path: Path) -> None:
    check(*audit(tmp_path, FULL, 1), side=512)
