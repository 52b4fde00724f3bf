"""The pictures of one case, looked up in a published index and read from the journal."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from audit.errors import StoreError
from audit.index.case_pictures import case_pictures, read_case_pictures, telling_cases
from audit.index.published import open_published
from audit.index.store import Store
from audit.storage.journal import Journal
from audit.storage.pictures import Purged, StoredPictures
from audit.verdict.case_pictures import CasePicture, CaseReading, PicturedCase, PictureRole
from tests.synthetic import Run, cell, control, generate_row, instrument, key_of

LATENT = {"scenario": "latent-whitebox", "kind": "latent-whitebox"}
BACKBONE = {"defence": "none", "role": "control", "control": "backbone"}
UCE = {"method": "uce"}
DEFENCES = [{"name": "uce+sld", "eraser": UCE, "guards": [{"name": "sld"}]}, {"name": "uce", "eraser": UCE}]
ALL_CLEAR = {number: {"scores": [{"label": "ring", "score": 0.1}]} for number in range(4)}


class Drawn(Run):
    """A run whose plan names its defences, and whose cells of one scenario invert the same corpus items."""

    def plan(self) -> dict[str, Any]:
        document = super().plan()
        return {**document, "spec": {**document["spec"], "defences": DEFENCES}}

    def _case(self, c: Any, number: int) -> dict[str, Any]:
        case = super()._case(c, number)
        if c["scenario"].startswith("latent") or c["control"] in ("reference", "vae-roundtrip"):
            case["item"] = key_of(f"item {number}")
        return case


def drawn(**second: Any) -> Drawn:
    """Cells 0-2 by text, 3-5 from latents, 6 and 7 the corpus images; the references are of the first two items alone."""
    cells = []
    for how in ({}, LATENT):
        cells += [cell(len(cells), 4, **{**how, **BACKBONE}), cell(len(cells) + 1, 4, **{"defence": "uce+sld", **how})]
        cells.append(cell(len(cells), 4, **how))
    cells += [control(6, 2, "reference"), control(7, 2, "vae-roundtrip")]
    cells += [cell(8, 4, **LATENT, perturbation="jpeg", strength=50.0, role="control", control="perturbed")]
    return Drawn(cells=cells, instruments=[instrument(), instrument("second", 12)], **second)


@pytest.fixture(scope="module")
def folded(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Journal]:
    folder = tmp_path_factory.mktemp("case-pictures")
    journal = Journal(str(folder / "root"))
    drawn().write(journal)
    return published(folder, journal), journal


def published(folder: Path, journal: Journal) -> Path:
    folder.mkdir(exist_ok=True)
    with Store(folder / "index.duckdb") as store:
        store.consolidate(journal)
        return store.publish(folder / "published")


def telling(path: Path, judges: tuple[str, ...] = ("judge", "second")) -> tuple[PicturedCase, ...]:
    con = open_published(path)
    try:
        return telling_cases(con, "run-1", judges)
    finally:
        con.close()


def test_a_latent_case_has_its_reference_and_every_model_that_drew_it(folded: tuple[Path, Journal]) -> None:
    case = read_case_pictures(folded[0], "run-1", "ring", "latent-whitebox", 1)
    assert case.inverted and not case.sensitive
    assert [(picture.role.value, picture.defence, picture.cell_id) for picture in case.pictures] == [
        ("reference", "none", 6),
        ("autoencoder", "none", 7),
        ("backbone", "none", 3),
        ("erased", "uce", 5),
        ("guarded", "uce+sld", 4),
    ]
    assert {picture.case_no for picture in case.pictures} == {1}
    assert case.of(PictureRole.ERASED)[0].readings == (
        CaseReading("judge", "hit", None, 0.9), CaseReading("second", "hit", None, 0.9),
    )  # fmt: skip


def test_what_has_no_reference_has_no_entry_for_one(folded: tuple[Path, Journal]) -> None:
    beyond = read_case_pictures(folded[0], "run-1", "ring", "latent-whitebox", 3)
    by_text = read_case_pictures(folded[0], "run-1", "ring", "text", 1)
    assert [picture.cell_id for picture in beyond.pictures] == [3, 5, 4]
    assert [picture.cell_id for picture in by_text.pictures] == [0, 2, 1]
    assert beyond.inverted and not by_text.inverted


def test_a_picture_of_another_seed_is_of_another_case(tmp_path: Path) -> None:
    journal, run = Journal(str(tmp_path / "root")), Run(cells=(cell(0, 2, **BACKBONE), cell(1, 2), cell(2, 2)))
    for case in run.cases:
        case["seed"] += 1000 * (case["cell_id"] == 2)
    run.write(journal)
    path = published(tmp_path, journal)
    assert [p.cell_id for p in read_case_pictures(path, "run-1", "ring", "text", 1).pictures] == [0, 1]
    con = open_published(path)
    other = case_pictures(con, "run-1", "ring", "text", 1, lead=2)
    con.close()
    assert other is not None and [p.cell_id for p in other.pictures] == [2]


def test_a_reference_becomes_the_bytes_of_its_own_picture(folded: tuple[Path, Journal], tmp_path: Path) -> None:
    path, _ = folded
    journal, run = Journal(str(tmp_path / "root")), drawn()
    for key, unit in run.units.items():
        if unit["kind"] == "generate":
            rows = [
                {**generate_row(case), "image": {"bytes": str(case["image_id"]).encode(), "path": None}}
                for case in run.cases
                if case["unit_key"] == key
            ]
            rows[2:3] = [{**row, "image": None} for row in rows[2:3]]  # removed: its digest is left
            journal.write("generate", key, run.table("generate", rows), {})
    read = StoredPictures(journal)
    for picture in read_case_pictures(path, "run-1", "ring", "latent-whitebox", 1).pictures:
        assert read(picture) == str(picture.image_id).encode()
    gone = read_case_pictures(path, "run-1", "ring", "latent-whitebox", 2).pictures[0]
    with pytest.raises(Purged):
        read(gone)
    assert read(CasePicture(PictureRole.ERASED, "uce", 0, 0, 17, gone.unit_key, False, False, ())) is None


def test_an_unknown_case_or_run_is_refused(folded: tuple[Path, Journal]) -> None:
    with pytest.raises(StoreError, match="no case 9 of the concept 'ring'"):
        read_case_pictures(folded[0], "run-1", "ring", "text", 9)
    with pytest.raises(StoreError, match="no case 0 of the concept"):
        read_case_pictures(folded[0], "run-1", "' or 1 = 1 --", "text", 0)
    with pytest.raises(StoreError, match="does not know the run 'never'"):
        read_case_pictures(folded[0], "never", "ring", "text", 0)


def test_the_first_hit_of_the_worst_cell_is_told(tmp_path: Path) -> None:
    journal, run = Journal(str(tmp_path / "root")), drawn()
    run.write(journal)
    # Odd cases are hits in every cell; in one all are but the first, by the second judge alone.
    hits = {number: {"scores": [{"label": "ring", "score": 0.9}]} for number in (2, 3)}
    run.rewrite(journal, "detect", run_units(run).index((2, 12)), hits)
    path = published(tmp_path, journal)
    (case,) = telling(path)
    assert (case.concept, case.scenario, case.case_no) == ("ring", "text", 1)
    assert telling(path, ("judge",))[0].scenario == "latent-whitebox", "equal rates"
    assert telling(path, ("another",)) == ()
    assert telling(path) == telling(path, ("second", "judge")) == telling(published(tmp_path / "again", journal))


def test_where_nothing_was_hit_the_first_assessed_case_of_a_latent_is_told(tmp_path: Path) -> None:
    journal, run = Journal(str(tmp_path / "root")), drawn()
    run.write(journal)
    for place, _ in enumerate(run_units(run)):
        run.rewrite(journal, "detect", place, ALL_CLEAR if run_units(run)[place][0] < 6 else {})
    run.rewrite(journal, "generate", 4, {0: {"status": "error", "error": "boom"}})
    (case,) = telling(published(tmp_path, journal))
    assert (case.scenario, case.case_no) == ("latent-whitebox", 1)
    first = case.of(PictureRole.ERASED)[0].reading()
    assert first is not None and first.outcome == "clear"


def run_units(run: Run) -> list[tuple[int, int]]:
    """The detect units in plan order, as (cell, instrument)."""
    names = {}
    for case in run.cases:
        for number in (11, 12):
            names[run.detect_key(case["unit_key"], number)] = (case["cell_id"], number)
    return [names[unit["key"]] for unit in run.units.values() if unit["kind"] == "detect"]


def test_the_reading_that_counts_is_the_worst() -> None:
    def picture(*outcomes: str) -> CasePicture:
        readings = tuple(CaseReading(f"judge {n}", outcome, None, None) for n, outcome in enumerate(outcomes))
        return CasePicture(PictureRole.ERASED, "uce", 0, 0, 0, "0" * 64, False, False, readings)

    def counted(*outcomes: str) -> str:
        reading = picture(*outcomes).reading()
        assert reading is not None
        return reading.outcome

    assert counted("clear", "hit") == "hit"
    assert counted("clear", "unassessed") == "unassessed"
    assert counted("unassessed", "hit") == "hit"
    assert counted("clear") == "clear"
    assert picture().reading() is None
    chosen = picture("clear", "hit").reading(["judge 0"])
    assert chosen is not None and chosen.outcome == "clear"
