"""Two erased models never meet under one key: what pictures were made with is recorded, and another one is refused."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest
import safetensors.torch

from audit import run
from audit.compute.worker import Worker
from audit.errors import CheckpointError
from audit.plan.document import Plan, read_plan
from audit.plan.identities import Unit
from audit.storage.journal import Journal
from tests.flows.audits import plan_run, tiny_spec


def other_weights(blob: bytes) -> bytes:
    """The same tensors as another machine may compute them: a little different."""
    return safetensors.torch.save({name: t * 1.0001 for name, t in safetensors.torch.load(blob).items()})


def begin(folder: Path, pipeline: Path) -> tuple[Plan, Journal, Worker, Unit, list[Unit]]:
    """A planned run after its erasure, with the units that need the erased model: inversions, then prompts."""
    root = str(folder / "root")
    plan = read_plan(Journal(root), plan_run(tiny_spec(folder, pipeline), folder / "root"))
    journal = run.open_journal(root)
    worker = run.worker(plan, journal, device="cpu")
    (erase,) = plan.units_of("erase")
    worker.run(erase)
    needing = [u for kind in ("invert", "generate") for u in plan.units_of(kind) if u.identity.model == erase.key]
    return plan, journal, worker, erase, [u for u in needing if getattr(u.identity, "source", "prompt") == "prompt"]


def replace_erasure(journal: Journal, erase: Unit) -> None:
    """What deleting a damaged erase unit and computing it again on a GPU does."""
    table: pa.Table = journal.read("erase", erase.key)
    header, blob = journal.header("erase", erase.key), journal.blob("erase", erase.key)
    journal.store.delete(f"units/erase/{erase.key[:2]}/{erase.key}.parquet")
    assert journal.write("erase", erase.key, table, header, other_weights(blob))


def test_another_erased_model_is_refused_once_a_unit_was_made_with_the_first(tmp_path: Path, tiny_folder: Path) -> None:
    plan, journal, worker, erase, (first, *others) = begin(tmp_path, tiny_folder)
    used = journal.header("erase", erase.key)["blob_sha256"]
    worker.run(first)
    assert journal.header(first.kind, first.key)["erased_sha256"] == used
    backbone = next(u for u in plan.units_of("generate") if u.identity.source == "prompt" and not u.identity.model)
    worker.run(backbone)
    assert journal.header("generate", backbone.key)["erased_sha256"] is None
    replace_erasure(journal, erase)
    worker.run(others[0])  # this process still holds the first model, and says so
    assert journal.header(others[0].kind, others[0].key)["erased_sha256"] == used
    with pytest.raises(CheckpointError, match="not those that other units of this run were made with"):
        run.worker(plan, journal, device="cpu").run(others[-1])


def test_a_worker_that_lost_the_race_uses_the_winners_model(tmp_path: Path, tiny_folder: Path) -> None:
    _, journal, worker, erase, (first, *_) = begin(tmp_path, tiny_folder)
    before = journal.header("erase", erase.key)
    replace_erasure(journal, erase)  # another machine's erasure came first
    worker.run(erase)
    won = journal.header("erase", erase.key)["blob_sha256"]
    assert won != before["blob_sha256"]
    worker.run(first)
    assert journal.header(first.kind, first.key)["erased_sha256"] == won
