"""What a run does before it computes: its spec is parsed once, whoever asks for it afterwards."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from audit.progress import Silent
from audit.spec.document import Spec, load_spec
from tasks import context
from tasks.collect import collect
from tasks.opening import open_run
from tasks.plan import plan
from tasks.progress import reporting_to
from tests.flows.audits import tiny_spec


@pytest.fixture
def parsed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the specs that are parsed from now on, one for each time."""
    validate, names = Spec.model_validate, list[str]()

    def counted(document: Any, **options: Any) -> Spec:
        names.append(document["name"])
        return validate(document, **options)

    monkeypatch.setattr(Spec, "model_validate", counted)
    return names


@pytest.mark.parametrize("given", [False, True], ids=["by a flow", "by the command line"])
def test_the_spec_is_parsed_once_in_a_run(tmp_path: Path, tiny_folder: Path, parsed: list[str], given: bool) -> None:
    path, root = str(tiny_spec(tmp_path, tiny_folder)), str(tmp_path / "runs")
    if given:  # the command line has parsed it before Prefect starts
        context.keep_spec(root, "tiny-1", load_spec(path))
    with reporting_to(Silent()):
        run = open_run(path, root, "tiny-1", context.Settings(device="cpu"))
        stored = plan.fn(run, collect.fn(run))
        assert run.plan is stored
    assert parsed == ["tiny"]


def test_a_resumed_run_reads_what_is_stored(tmp_path: Path, tiny_folder: Path) -> None:
    path, root = str(tiny_spec(tmp_path, tiny_folder)), str(tmp_path / "runs")
    with reporting_to(Silent()):
        run = open_run(path, root, "tiny-1", context.Settings(device="cpu"))
        stored = plan.fn(run, collect.fn(run))
        again = open_run(None, root, "tiny-1", context.Settings(device="cpu"))
    assert again.plan is not stored and again.plan.units.equals(stored.units) and again.plan.spec == stored.spec
