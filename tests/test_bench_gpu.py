"""The GPU benchmark's whole path on the CPU with the cut-down architecture, and its one message without CUDA."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch

from audit.diffusion.pipeline import Pipeline
from audit.plan.rate_files import read_rates
from tests.bench import bench_gpu
from tests.bench.bench_gpu import Row, Settings, count, line, measure, single_rates, write_rates
from tests.bench.gpu_models import make_clip, make_energy, make_pipeline
from tests.bench.gpu_work import PASSES, STEPS, Work
from tests.sd14 import CUT

CPU = torch.device("cpu")
COMPILED = ("guided sampling", "inversion")
SMALL = Settings(batches=(1, 2), some=2, product=64, modes=(), seconds=600, repeats=1)


@pytest.fixture(scope="module")
def pipeline() -> Pipeline:
    return make_pipeline(CUT, CPU, torch.bfloat16)


@pytest.fixture(scope="module")
def rows(pipeline: Pipeline) -> list[Row]:
    return measure(pipeline, CPU, SMALL)


def test_every_piece_is_measured_at_every_batch(rows: list[Row]) -> None:
    assert len({row.piece for row in rows}) == 6 and len(rows) == 12 and not any(row.compiled for row in rows)
    for row in rows:
        assert row.rate is not None and row.rate > 0 and row.note == ""
        assert row.utilisation is not None and row.utilisation > 0
        assert row.peak is None and line(row).count("|") == 8
    assert {row.dtype for row in rows if row.piece == "guided sampling"} == {"bfloat16"}
    assert {row.dtype for row in rows if row.piece.startswith("scoring")} == {"float32"}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # what torch.compile says about diffusers' code while it traces it
def test_sampling_and_inversion_are_compiled_as_an_audit_does(pipeline: Pipeline) -> None:
    settings = dataclasses.replace(SMALL, batches=(1, 2), modes=("inductor", "cuda-graphs"), backend="eager")
    compiled = [row for row in measure(pipeline, CPU, settings) if row.compiled]
    wanted = {"inductor": 2, "cuda-graphs": 1}  # the largest batch that ran, and the smallest
    assert {(row.piece, row.compiled, row.batch) for row in compiled} == {
        (name, mode, batch) for name in COMPILED for mode, batch in wanted.items()
    }
    assert all(row.rate and row.utilisation for row in compiled)


def test_what_cannot_be_compiled_is_not_called_compiled(pipeline: Pipeline) -> None:
    def broken(*graph: object) -> None:
        raise RuntimeError("no compiler")

    settings = dataclasses.replace(SMALL, batches=(1,), modes=("inductor",), backend=broken)
    compiled = [row for row in measure(pipeline, CPU, settings) if row.compiled]
    assert [row.note for row in compiled] == ["could not be compiled"] * 2 and not any(row.rate for row in compiled)


def test_flops_are_those_of_the_networks(pipeline: Pipeline) -> None:
    network = make_clip(pipeline, full=False)
    flops = {p.name: count(p) for p in Work(pipeline, network, make_energy(pipeline, network), 2).pieces()}
    # two steps of two branches; two steps of PASSES evaluations, and the one that starts
    assert flops["guided sampling"] / 4 == pytest.approx(flops["inversion"] / (2 * PASSES + 1), rel=0.01)
    egloce = flops[
        "EGLOCE, all inner iterations"
    ]  # both branches of the UNet and the VAE, there and nearly all the way back
    assert egloce > 1.8 * (flops["VAE decoding"] + flops["guided sampling"] / 2)
    pieces = {p.name: p for p in Work(pipeline, network, make_energy(pipeline, network), 2).pieces()}
    again = dataclasses.replace(pieces["EGLOCE, all inner iterations"], counted=None)
    assert count(again) > egloce  # checkpointing computes some of it twice, which is no work of the model


def test_what_does_not_fit_into_the_time_is_skipped_and_says_so(pipeline: Pipeline) -> None:
    found = measure(pipeline, CPU, dataclasses.replace(SMALL, seconds=-1.0))
    assert found and all(row.rate is None and row.note.startswith("skipped") for row in found)
    assert "skipped: no time left" in line(found[0])


def test_the_rates_can_be_read_by_plan(tmp_path: Path, pipeline: Pipeline, rows: list[Row]) -> None:
    single = single_rates(pipeline, CPU, dataclasses.replace(SMALL, batches=(1,)))
    assert pipeline.unet.dtype is torch.float32 and {row.dtype for row in single} == {"float32"}
    path = tmp_path / "rates.json"
    write_rates(path, single, rows, "a device", SMALL.some)
    found = read_rates(path)
    assert found.seconds_per_call == pytest.approx(1 / (single[0].rate * STEPS * (PASSES + 1 / SMALL.some)))  # type: ignore[operator]
    assert set(found.seconds_per_detection) == {"clip-zero-shot"}
    assert found.basis.startswith("a device, SD v1.4's architecture")
    assert json.loads(path.read_text())["origin"] in found.basis


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_without_cuda_one_message_and_status_2(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["bench_gpu"])
    with pytest.raises(SystemExit) as ended:
        bench_gpu.main()
    shown = capsys.readouterr()
    assert ended.value.code == 2 and shown.out == ""
    assert shown.err.count("error: ") == 1 and "  next:  " in shown.err
