"""Whole audits of the published architectures at full width, with random weights: plan, invert, generate, score.

Flux (12 billion parameters) does not fit into a small machine; its shapes are checked by `tests/diffusion/test_full_size.py`.
"""

from __future__ import annotations

import gc
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from audit.run import open_journal
from audit.spec.document import load_spec
from audit.storage.journal import Journal
from tests.flows.audits import finish_run, tiny_spec
from tests.full_size import write_sd21, write_sd35_medium, write_sdxl

GIB = 2**30
SCENARIOS = [
    {"name": "text", "cases": 1, "sampler": {"steps": 2, "guidance": 3.0}},
    {"name": "latent-whitebox", "cases": 1, "sampler": {"steps": 2, "guidance": 1.0}, "fixed_point_passes": 1},
]
# Writer, memory that the run takes, and disk that the folder takes.
MODELS: dict[str, tuple[Callable[[Path], Path], int, int]] = {
    "sd-2.1": (write_sd21, 8 * GIB, 4 * GIB),
    "sdxl": (write_sdxl, 18 * GIB, 9 * GIB),
    "sd-3.5-medium": (write_sd35_medium, 16 * GIB, 9 * GIB),
}


def _available() -> int:
    """Bytes of memory that a new process may use."""
    facts = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    return int(facts["MemAvailable"].split()[0]) * 1024


@pytest.fixture(params=MODELS)
def backbone(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    write, memory, disk = MODELS[request.param]
    if not Path("/proc/meminfo").exists() or _available() < memory or shutil.disk_usage(tmp_path).free < disk:
        pytest.skip(f"needs {memory // GIB} GiB of free memory and {disk // GIB} GiB of free disk")
    folder = write(tmp_path / request.param)
    gc.collect()
    yield folder
    shutil.rmtree(folder)


def statuses(journal: Journal, kind: str) -> set[str]:
    return {status for key in journal.keys(kind) for status in journal.read(kind, key)["status"].to_pylist()}


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_full_size_model_is_audited(backbone: Path, tmp_path: Path) -> None:
    guard = {"name": "irece", "parameters": {"t_star": 501}}
    spec = tiny_spec(
        tmp_path,
        backbone,
        scenarios=SCENARIOS,
        controls={"cases": 1},
        defences=[{"name": "guarded", "guards": [guard]}],
    )
    run_id = finish_run(spec, tmp_path / "root")
    journal = open_journal(str(tmp_path / "root"))
    assert run_id.startswith(load_spec(spec).name)
    assert statuses(journal, "generate") == {"ok", "degenerate"}  # the control of black pictures
    assert statuses(journal, "invert") == {"ok"}
    assert statuses(journal, "detect") <= {"ok", "degenerate"}
