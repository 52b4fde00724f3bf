"""The commands that ship and measure the testbed's erased models: what is kept, what is made again, what the table says."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

from audit.diffusion.pipeline import load_pipeline
from audit.erasers.request import Request
from audit.errors import CheckpointError, EraserError
from audit.spec.sections import Concept
from audit.statistics import clopper_pearson
from audit.testbed import counting, erased
from audit.testbed.captions import CLASSES
from audit.testbed.counting import Artefact, Counter, Counts
from audit.testbed.erasers_table import Kept, find, table
from audit.testbed.markers import carry_over, replaced
from audit.weights.references import resolve_model

JUDGES = ("classifier", "judge")


def counts(classifier: dict[str, int], judge: int = 90, rest: int = 90) -> Counts:
    return {cls: {"classifier": classifier.get(cls, rest), "judge": judge} for cls in CLASSES}


def artefact(method: str, concept: str) -> Artefact:
    return Artefact(method, concept, Path(f"erased/{method}-{concept}/x.safetensors"))


def cells(written: str, *starts: str) -> list[str]:
    (line,) = [line for line in written.splitlines() if line.startswith(f"| {' | '.join(starts)} |")]
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_the_table_says_which_goals_are_met_and_who_decides() -> None:
    backbone = counts({"star": 80, "ring": 96})
    rows = [
        (artefact("esd-x", "star"), counts({"star": 25})),
        (artefact("uce", "star"), counts({"star": 10}, rest=70)),
        (artefact("uce", "ring"), counts({"ring": 26}, judge=10)),
    ]
    written = table(rows, backbone, JUDGES, 100)
    assert "**classifier** decides" in written and "another one than the CLIP judges" in written
    heads = cells(written, "concept")
    assert heads[5] == "erased <= 0.25" and heads[9] == "kept >= 0.85"
    esd, uce = cells(written, "star", "esd-x", "**classifier**"), cells(written, "star", "uce", "**classifier**")
    assert esd[3].startswith("0.25 = 25/100 (0.17-0.35") and esd[4].startswith("0.80 = 80/100")
    assert (esd[5], esd[9], uce[5], uce[9]) == ("met", "met", "met", "missed")
    # eight classes at 90 and ring, which the backbone makes 96 times: 810 and 630 of 816
    assert esd[6].startswith("0.90 = 810/900") and esd[7].startswith("0.91 = 816/900") and esd[8].startswith("0.99 (")
    assert uce[6].startswith("0.70 = 630/900") and uce[8].startswith("0.77 (")
    ring = cells(written, "ring", "uce", "**classifier**"), cells(written, "ring", "uce", "judge")
    assert (ring[0][5], ring[1][5], ring[1][9]) == ("missed", "met", "missed")
    assert "lowest CRR of star: 0.10 by uce; goal 0.10 met" in written
    assert "lowest CRR of ring: 0.26 by uce; goal 0.10 missed" in written


def test_the_ratio_has_an_interval_that_both_rates_allow() -> None:
    kept = Kept(630, 816, 900)
    low, high = kept.interval
    after, before = clopper_pearson(630, 900, 0.975), clopper_pearson(816, 900, 0.975)
    assert (low, high) == (after[0] / before[1], after[1] / before[0])
    assert low < 630 / 816 < high and str(kept) == f"0.77 ({low:.2f}-{high:.2f})"
    nothing = Kept(3, 0, 900)
    assert nothing.ratio is None and str(nothing) == "-" and nothing.interval[1] == float("inf")


def test_a_page_part_is_replaced_and_carried_over() -> None:
    page = "a\n<!-- x -->\nold\n<!-- /x -->\nb\n"
    new = replaced(page, "x", "\nnew\nlines\n")
    assert new == "a\n<!-- x -->\nnew\nlines\n<!-- /x -->\nb\n"
    assert carry_over(new, page.replace("a", "c", 1), "x") == new.replace("a", "c", 1)
    assert carry_over("no part", page, "x") == page and carry_over(new, "no part", "x") == "no part"
    with pytest.raises(ValueError, match="no part between <!-- y -->"):
        replaced(page, "y", "z")


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


def test_only_complete_artefacts_are_measured(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no erased models"):
        find(tmp_path)
    for method, concept in (("uce", "star"), ("esd-x", "star"), ("uce", "ring"), ("receler", "moon")):
        folder = tmp_path / f"{method}-{concept}"
        folder.mkdir()
        metadata = {"method": method, "concepts": json.dumps([concept])}
        safetensors.torch.save_file({"a": torch.zeros(1)}, folder / "x.safetensors", metadata)
        if method != "receler":
            (folder / "README.md").write_text("a card")
    assert [(a.concept, a.method) for a in find(tmp_path)] == [("ring", "uce"), ("star", "esd-x"), ("star", "uce")]


@dataclasses.dataclass(frozen=True)
class _Instrument:
    detector: str
    weights_sha256: str


@dataclasses.dataclass(frozen=True)
class _Judge:
    instrument: _Instrument


def test_counting_goes_on_where_it_was_interrupted(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each class is sampled once, erased models with their weights in place, and other weights or seeds anew.

    Another judge looks at the pictures that are kept.
    """
    pipeline = load_pipeline(resolve_model(str(tiny_folder)), torch.device("cpu"))
    name, original = next((n, t.clone()) for n, t in pipeline.unet.state_dict().items() if "attn2.to_k" in n)
    path = tmp_path / "uce-ring" / "x.safetensors"
    path.parent.mkdir()
    safetensors.torch.save_file({name: (original + 1).half()}, path)
    asked: list[tuple[str, bool]] = []

    def pictures(pipeline: object, cls: str, seeds: int) -> list[counting.Pixels]:
        if len(asked) == 13:
            raise KeyboardInterrupt
        unet = pipeline.unet  # type: ignore[attr-defined]
        asked.append((cls, torch.equal(unet.state_dict()[name], original)))
        return [np.full((8, 8, 3), len(asked), np.uint8)] * seeds

    def count(judges: object, made: list[counting.Pixels], cls: str) -> dict[str, int]:
        return {"classifier": int(made[0][0, 0, 0])}

    monkeypatch.setattr(counting, "pictures", pictures)
    monkeypatch.setattr(counting, "count", count)
    judges = [_Judge(_Instrument("classifier", "a" * 64))]
    model = Artefact("uce", "ring", path)

    def counter(seeds: int = 4) -> Counter:
        return Counter(pipeline, judges, seeds, tmp_path / "build" / "counts.json")  # type: ignore[arg-type]

    backbone = counter().counts(None)
    with pytest.raises(KeyboardInterrupt):
        counter().counts(model)
    assert len(asked) == 13 and torch.equal(pipeline.unet.state_dict()[name], original)
    asked.append(("", True))  # lets it go on
    again = counter()
    assert again.counts(None) == backbone and backbone["circle"] == {"classifier": 1}
    found = again.counts(model)
    assert list(found) == list(CLASSES) and [cls for cls, _ in asked[14:]] == list(CLASSES)[3:]
    assert all(untouched is (number < 10) for number, (_, untouched) in enumerate(asked) if number != 13)
    assert len(counter().counts(model)) == 10 and len(asked) == 21
    judges[0] = _Judge(_Instrument("classifier", "b" * 64))
    assert counter().counts(None) == backbone and len(asked) == 21
    counter(seeds=5).counts(None)
    assert len(asked) == 31
