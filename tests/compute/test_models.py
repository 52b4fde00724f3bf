"""Models of one process: encoded texts are kept, but never more than fit in memory."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from audit.compute import models
from audit.compute.models import Models
from audit.storage.journal import Journal
from audit.weights.references import resolve_model


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
