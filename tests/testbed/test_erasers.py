"""The commands that ship and measure the testbed's erased models: what is kept, what is made again, what the table says."""

from __future__ import annotations

from pathlib import Path

import pytest

from audit.erasers.request import Request
from audit.errors import EraserError
from audit.spec.sections import Concept
from audit.testbed import erased


@pytest.fixture
def tiny_request(tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, object]:
    """Makes `erased` erase from the tiny pipeline; what is put in here becomes a parameter."""
    parameters: dict[str, object] = {}

    def request(method: str, concept: str) -> Request:
        concepts = (Concept(name=concept, phrase=concept),)
        return Request(backbone=str(tiny_folder), method=method, concepts=concepts, parameters=dict(parameters))

    monkeypatch.setattr(erased, "request", request)
    return parameters


def test_what_is_shipped_is_kept_until_its_request_changes(
    tiny_request: dict[str, object], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = erased.make("uce", "ring", tmp_path, "cpu")
    first = path.read_bytes()
    assert (path.parent.name, "uce-ring: {" in capsys.readouterr().out) == ("uce-ring", True)
    assert erased.make("uce", "ring", tmp_path, "cpu") == path and "uce-ring: kept" in capsys.readouterr().out
    tiny_request["regularisation"] = 0.9
    (path.parent / "stale").write_text("of the old model")
    assert erased.make("uce", "ring", tmp_path, "cpu") == path
    assert path.read_bytes() != first and not (path.parent / "stale").exists()


@pytest.mark.usefixtures("tiny_request")
def test_files_of_somebody_else_are_not_removed_to_make_room(tmp_path: Path) -> None:
    (tmp_path / "uce-ring").mkdir()
    (tmp_path / "uce-ring" / "README.md").write_text("somebody's")
    with pytest.raises(EraserError, match="no erased model of this tool"):
        erased.make("uce", "ring", tmp_path, "cpu")
    assert (tmp_path / "uce-ring" / "README.md").read_text() == "somebody's"
