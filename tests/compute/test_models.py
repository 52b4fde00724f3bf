"""Models of one process: encoded texts are kept, but never more than fit in memory."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest
import safetensors.torch
import torch

from audit.compute import models
from audit.compute.models import Models
from audit.plan.identities import as_json
from audit.storage.journal import SCHEMAS, Journal
from audit.weights.references import resolve_model
from tests.plan.test_forecast import make_plan


def test_the_texts_used_last_are_kept_and_no_more(
    tmp_path: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(models, "_TEXTS_KEPT", 3)
    made = Models(resolve_model(str(tiny_folder)), Journal(str(tmp_path)), torch.device("cpu"))
    first = made.states(["a", "b", "a"])
    assert first.shape[0] == 3 and torch.equal(first[0], first[2]) and not torch.equal(first[0], first[1])
    more = made.states(["c", "d", "e", "a"])  # more at once than are kept
    assert torch.equal(more[3], first[0])
    assert [text for _, text in made._states] == ["d", "e", "a"]
    assert torch.equal(made.states(["b"])[0], first[1])


@pytest.mark.parametrize(("method", "changes"), [("advunlearn", True), ("esd-x", False)])
def test_a_method_that_trains_the_text_encoder_reads_the_prompts_itself(
    tmp_path: Path, method: str, changes: bool
) -> None:
    """The journal holds what the erase unit made: a whole text encoder, or weights of the UNet alone."""
    plan = make_plan(tmp_path, method)
    (unit,) = plan.units_of("erase")
    journal = Journal(str(tmp_path / "journal"))
    made = Models(resolve_model("testbed"), journal, torch.device("cpu"), plan)
    encoder = made.pipeline.text_encoder.state_dict()
    unet = {n: t + 0.01 for n, t in made.pipeline.unet.state_dict().items() if ".attn2." in n}
    tensors = {f"text_model.{name}": tensor + 0.01 for name, tensor in encoder.items()} if changes else unet
    row = {"artefact": "a", "status": "ok", "error": None, "facts": "{}"}
    blob = safetensors.torch.save({n: t.contiguous() for n, t in tensors.items()}, {"layout": "any"})
    header = {"identity": as_json(unit.identity)}
    journal.write("erase", unit.key, pa.Table.from_pylist([row], schema=SCHEMAS["erase"]), header, blob)
    before, after = made.states(["a ring"]), made.states(["a ring"], unit.key)
    assert torch.equal(before, after) != changes
    assert torch.equal(made.reader(unit.key).encode_text(["a ring"]), after)
