"""Hits drawn again by the run's own code: the same pixels on the same machine, and a reason where not."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from audit import identity, run
from audit.corpus.images import decode_stored, encode_png, pixel_sha256
from audit.evidence import keys
from audit.evidence.replay import Hit, hits_on_record, sampled
from audit.locations import database_path
from audit.plan.document import read_plan
from audit.storage.journal import Journal
from flows.cli import main
from tests.flows.audits import finish_run, tiny_spec
from tests.synthetic import discard

# At a threshold of zero every picture is a hit, so that random weights give hits to draw again.
RING = {"name": "clip", "kind": "clip-zero-shot", "model": "testbed/judge", "threshold": 0.0,
        "background": ["a picture"]}  # fmt: skip


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path) -> tuple[Path, str]:
    """The root and the id of a run whose judge takes every picture for a hit."""
    folder = tmp_path_factory.mktemp("replay")
    gate = {"version": "1", "judges": ["clip"], "limits": [{"crr_max": 0.3}], "retention_waived": "random weights only",
            "damage_waived": "random weights only"}  # fmt: skip
    scenarios = [
        {"name": "text", "cases": 3, "sampler": {"steps": 2, "guidance": 3.0}},
        {"name": "latent-whitebox", "cases": 3, "sampler": {"steps": 2, "guidance": 1.0}, "fixed_point_passes": 1,
         "quality_gate": {"residual_max": 10.0, "psnr_min_db": 1.0}},
    ]  # fmt: skip
    spec = tiny_spec(folder, tiny_folder, detectors=[RING], gate=gate, scenarios=scenarios)
    return folder / "runs", finish_run(spec, folder / "runs")


@pytest.fixture
def root(finished: tuple[Path, str], tmp_path: Path) -> Path:
    """A copy of the run's root, for a test to change."""
    return Path(shutil.copytree(finished[0], tmp_path / "runs"))


def replayed(root: Path, run_id: str, capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, dict[str, Any]]:
    capsys.readouterr()
    code = main(["evidence", "replay", run_id, "--root", str(root), "--device", "cpu", "--json", *words])
    return code, json.loads(capsys.readouterr().out)


def files(root: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in (root / "units").rglob("*") if path.is_file()}


@pytest.mark.slow
def test_hits_on_the_same_machine_are_exact_and_nothing_is_written(
    finished: tuple[Path, str], capsys: pytest.CaptureFixture[str]
) -> None:
    root, run_id = finished
    before = files(root)
    code, document = replayed(root, run_id, capsys, "--hits", "100")
    assert code == 0 and document["counts"] == {"exact": 6}
    assert {(row["scenario"], row["detail"]) for row in document["hits"]} == {
        ("text", "the same pixels"), ("latent-whitebox", "the same pixels")
    }  # fmt: skip
    assert all(row["outcomes"] == row["outcomes_again"] == {"clip": "hit"} for row in document["hits"])
    assert files(root) == before


def forget(root: Path, run_id: str) -> None:
    """Remove the index and what is on record of the files, as if another machine had written them."""
    shutil.rmtree(root / "db", ignore_errors=True)
    shutil.rmtree(root / "runs" / run_id / "folded", ignore_errors=True)


def changed_pictures(root: Path, run_id: str, by: int) -> int:
    """Move the pixels of every journalled picture by some grey levels, as if they came from another machine; how many."""
    journal, count = Journal(str(root)), 0
    plan = read_plan(journal, run_id)
    for unit in plan.units_of("generate"):
        table = journal.read("generate", unit.key)
        rows = table.to_pylist()
        for row in rows:
            pixels = decode_stored(row["image"]["bytes"])
            moved = np.where(pixels > 127, pixels - by, pixels + by).astype(np.uint8)
            row |= {"image": {"bytes": encode_png(moved), "path": None}, "pixel_sha256": pixel_sha256(moved)}
            count += 1
        discard(journal, "generate", unit.key)
        journal.write("generate", unit.key, pa.Table.from_pylist(rows, table.schema), {"identity": {}})
    return count


@pytest.mark.slow
@pytest.mark.parametrize(("by", "result"), [(1, "near"), (90, "differs")])
def test_other_pixels_are_near_or_differ(
    by: int, result: str, root: Path, finished: tuple[Path, str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert changed_pictures(root, finished[1], by)
    forget(root, finished[1])
    code, document = replayed(root, finished[1], capsys, "--hits", "2")
    assert document["counts"] == {result: 2}
    assert code == (0 if result == "near" else 5)
    assert all("every judge says the same" in row["detail"] for row in document["hits"])


@pytest.mark.slow
def test_hits_of_a_bundle_are_compared_as_they_were_sealed(
    root: Path, finished: tuple[Path, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Pictures that were moved after sealing are not those that the bundle knows, and the replayed ones are."""
    keys.generate(tmp_path / "seal.pem")
    where = ["--root", str(root)]
    assert main(["gate", finished[1], *where]) in (3, 4)
    bundle = str(tmp_path / "bundle")
    assert main(["evidence", "seal", finished[1], "--key", str(tmp_path / "seal.pem"), "--to", bundle, *where]) == 0
    changed_pictures(root, finished[1], 90)
    assert main(["evidence", "replay", bundle, "--hits", "2", *where]) == 2
    assert "no key is trusted" in capsys.readouterr().err
    code, document = replayed(root, bundle, capsys, "--hits", "2", "--key", str(tmp_path / "seal.pub"))
    assert (code, document["counts"], document["run"]) == (0, {"exact": 2}, finished[1])


@pytest.mark.slow
def test_other_code_and_a_changed_backbone_make_hits_not_replayable(
    root: Path,
    finished: tuple[Path, str],
    tiny_folder: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    original = identity.code_digest
    with monkeypatch.context() as patch:
        patch.setattr(identity, "code_digest", lambda kind: "0" * 64 if kind == "generate" else original(kind))
        code, document = replayed(root, finished[1], capsys, "--hits", "1")
    assert code == 5 and document["counts"] == {"not replayable": 1}
    assert "the code that computes generate units has changed" in document["hits"][0]["detail"]
    with monkeypatch.context() as patch:  # units that are not computed again may have other code
        patch.setattr(identity, "code_digest", lambda kind: "0" * 64 if kind == "erase" else original(kind))
        assert replayed(root, finished[1], capsys, "--hits", "1")[0] == 0
    journal = Journal(str(root))
    erased = next(read_plan(journal, finished[1]).units_of("erase"))
    discard(journal, "erase", erased.key)
    forget(root, finished[1])
    code, document = replayed(root, finished[1], capsys, "--hits", "1")
    assert code == 5 and document["counts"] == {"not replayable": 1}
    assert "the journal lacks a file" in document["hits"][0]["detail"]


def test_a_seed_draws_the_same_sample_and_another_seed_another() -> None:
    hits = [Hit(0, number, number, "k", "ring", "uce", "text", None, {}) for number in range(100)]
    first = sampled(hits, 10, 7)
    assert first == sampled(hits, 10, 7) and len({hit.case_no for hit in first}) == 10
    assert first != sampled(hits, 10, 8)
    assert sampled(hits, 1000, 7) == hits


@pytest.mark.slow
def test_a_run_without_hits_has_none_to_draw_again(
    finished: tuple[Path, str],
) -> None:
    journal = Journal(str(finished[0]))
    published = run.consolidate(journal, finished[1], database_path(str(finished[0])))
    assert hits_on_record(published, read_plan(journal, finished[1]), ["nobody"]) == []
    assert len(hits_on_record(published, read_plan(journal, finished[1]), ["clip"])) == 6
