"""The per-image script makes the same cases as the audit, so that their times can be compared."""

from __future__ import annotations

import pytest

from tests.bench.audit_sides import Means
from tests.bench.bench_audit import figures


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of the script's pipeline, which is not under test
def test_both_sides_decide_the_same_cases_alike() -> None:
    found = {figure.name: figure for figure in figures(3, 10, 1, Means(compile_with="inductor"))}
    assert found["readings decided alike"].value >= 0.9
    assert found["- readings decided as by the script, in float32"].value >= 0.9
    assert (
        found["- shared inversions: UNet evaluations to invert"].value > 0.5
    )  # 10 steps are coarse: more passes a step
    assert found["- shared pictures: UNet evaluations to sample"].value > 0.5
    assert all(figure.limit is None for figure in found.values())  # too few cases for a promise
