"""Defences around one model share the steps that their guards leave alone, and their pictures stay what they were."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from audit import guards
from audit.compute.models import Models
from audit.compute.prefixes import Prefixes, Trajectory
from audit.compute.stages.generate import run_generate
from audit.plan.identities import GenerateIdentity
from audit.records import ResolvedGuard
from audit.spec.document import parse_spec
from audit.spec.sections import Concept
from audit.spec.sections import Guard as GuardSpec
from audit.storage.journal import Journal
from audit.weights.references import ModelRef, resolve_model
from tests.synthetic import case, unit

RING = Concept(name="ring", phrase="ring")
IRECE: dict[str, Any] = {"name": "irece", "parameters": {"t_star": 501}}
EGLOCE: dict[str, Any] = {
    "name": "egloce", "parameters": {"energy": "testbed/energy", "window": [701, 601], "iterations": 1, "rho": 0.1}
}  # fmt: skip


class TestbedEnergy(Models):
    """The models of a run whose guards name the testbed's energy."""

    __test__ = False

    def guard_model(self, sha256: str) -> ModelRef:
        return resolve_model("testbed/energy")


def spec_of(folder: Path) -> Any:
    document = {
        "name": "shared",
        "backbone": str(folder),
        "concepts": [{"name": "ring", "phrase": "ring"}],
        "defences": [{"name": "late", "guards": [IRECE]}, {"name": "early", "guards": [EGLOCE]}],
        "scenarios": [{"name": "text", "cases": 2}],
        "detectors": [{"name": "judge", "kind": "classifier", "model": "testbed/classifier"}],
        "gate": {"version": "1", "judges": ["judge"], "limits": [{"crr_max": 0.3}]},
    }
    return parse_spec(document, "test")


def pictures(models: Models, guidance: float, *listed: dict[str, Any], reuse: bool = True) -> tuple[pa.Table, int]:
    """Return the rows of two cases under some guards at 10 steps, and the rows that the UNet evaluated for them."""
    resolved = tuple(ResolvedGuard(**guards.resolve(GuardSpec(**guard), RING)) for guard in listed)
    sampler = {"steps": 10, "guidance": guidance}
    described = unit("generate", source="prompt", sampler=sampler).identity
    assert isinstance(described, GenerateIdentity)
    counted: list[int] = []
    handle = models.pipeline.unet.register_forward_pre_hook(lambda module, inputs: counted.append(len(inputs[0])))
    try:
        table, _ = run_generate(
            dataclasses.replace(described, guards=resolved), [case(1), case(2)], models, models.journal,
            lambda item: np.zeros((8, 8, 3), np.uint8), 2, reuse=reuse,
        )  # fmt: skip
    finally:
        handle.remove()
    return table, sum(counted)


@pytest.mark.parametrize("guidance", [pytest.param(1.0, marks=pytest.mark.slow), 3.0])
def test_a_guard_takes_the_trajectory_on_from_where_it_begins(
    tiny_folder: Path, tmp_path: Path, guidance: float
) -> None:
    ref, journal = resolve_model(str(tiny_folder)), Journal(str(tmp_path))
    models = TestbedEnergy(ref, journal, torch.device("cpu"))
    models.prefixes = Prefixes(spec_of(tiny_folder))
    plain, first = pictures(models, guidance)
    late, shared = pictures(models, guidance, IRECE)
    early, window = pictures(models, guidance, EGLOCE)
    branches = 1 if guidance == 1.0 else 2
    assert first == 2 * 10 * branches
    assert shared == 2 * (6 * branches + 1)  # from t = 501 on, and IRECE's own look
    assert window < 2 * (10 + 2) * branches  # from t = 701 on, and two updates in the window
    for table, listed in ((plain, ()), (late, (IRECE,)), (early, (EGLOCE,))):
        alone, evaluated = pictures(TestbedEnergy(ref, journal, torch.device("cpu")), guidance, *listed)
        again, anew = pictures(models, guidance, *listed, reuse=False)
        assert table.equals(alone) and again.equals(alone)  # bytes, reports and counts
        assert anew == evaluated >= 2 * 10 * branches


def test_what_is_kept_is_bounded_and_never_of_another_case() -> None:
    prefixes = Prefixes(None, limit=3 * 4 * 4)
    ways = [Trajectory(None, "float32", 10, 1.0, "ring", ("noise", seed)) for seed in range(4)]
    for seed, way in enumerate(ways):
        prefixes.keep([way], {4: torch.full((1, 4), float(seed))})
    assert prefixes.latest(ways[:1], 10) is None  # the oldest of four latents of 16 bytes
    assert prefixes.latest([ways[0], ways[1]], 10) is None
    found = prefixes.latest(ways[1:], 4)
    assert found is not None and found[0] == 4 and found[1][:, 0].tolist() == [1.0, 2.0, 3.0]
    assert prefixes.latest(ways[1:], 3) is None
    assert prefixes.latest([dataclasses.replace(ways[1], text="star")], 10) is None
    assert prefixes.steps((901, 1)) == frozenset()
