"""Tables of what single pictures of a corpus show: read strictly, planned with the cases, part of no key."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from audit.errors import AuditError, CorpusError, SpecError
from audit.plan.attributes import read_attributes
from audit.plan.pictures import forecast_pictures, listed_pictures
from audit.spec.document import Spec, parse_spec
from audit.spec.sections import CorpusEntry
from audit.testbed.scenes import attributes_of, sample_scene, write_corpus
from tests import corpora
from tests.plan.resolved import resolved_of, stated_plan
from tests.plan.test_latent_planning import BACKBONE, INSTRUMENT

HEADER = "image,attribute,value\n"


@pytest.fixture
def entry(tmp_path: Path) -> CorpusEntry:
    """Three scenes with a ring, and the table of what is true of it."""
    write_corpus(str(tmp_path / "ring"), "ring", 3, "audit", attributes=str(tmp_path / "tables" / "ring.csv"))
    return CorpusEntry(url=str(tmp_path / "ring"), concept="ring", attributes=str(tmp_path / "tables" / "ring.csv"))


def uris(entry: CorpusEntry) -> list[str]:
    return [path.as_uri() for path in sorted(Path(entry.url).iterdir())]


def test_the_renderer_s_table_says_what_is_true_of_its_scenes(entry: CorpusEntry) -> None:
    found = read_attributes(entry, uris(entry))
    assert [json.loads(found[uri]) for uri in uris(entry)] == [
        attributes_of(sample_scene("audit", n, n_objects=1, required_class="ring"), "ring") for n in range(3)
    ]


def test_a_parquet_file_says_the_same_and_need_not_say_everything(entry: CorpusEntry, tmp_path: Path) -> None:
    rows = {
        "value": [1, 2],
        "Image ": ["ring-00000.png", "ring-00002.png"],
        "attribute": ["size", "size"],
        "more": [0, 0],
    }
    pq.write_table(pa.table(rows), tmp_path / "table.parquet")
    other = entry.model_copy(update={"attributes": str(tmp_path / "table.parquet")})
    assert list(read_attributes(other, uris(entry)).values()) == ['{"size":"1"}', '{"size":"2"}']


@pytest.mark.parametrize(
    ("text", "what"),
    [
        (
            HEADER + "ring-00000.png,size,large\nring-9.png,size,large\n",
            "line 3 names 'ring-9.png', and there is no such",
        ),
        (HEADER + "../ring/ring-00000.png,size,large\n", "there is no such picture"),
        (HEADER + "ring-00000.png,size,large\n" * 2, "line 3 says 'size' of 'ring-00000.png' a second time"),
        (HEADER + "ring-00000.png,size,\n", "line 2 has nothing in the column 'value'"),
        (HEADER + "ring-00000.png,size\n", "line 2 has 2 fields and the header 3"),
        (HEADER + f"ring-00000.png,{'x' * 101},large\n", "more than 100 characters in the column 'attribute'"),
        ('image,attribute,value\nring-00000.png,size,"large\n', "line 2 cannot be read: it opens a quote"),
        ("image,value\nring-00000.png,large\n", "no column 'attribute'"),
        ("image,attribute,value,value\n", "more than one column 'value'"),
        (HEADER, "it has no rows"),
        ("", "no column 'image'"),
        (b"\xff\xfe", "it cannot be read"),
    ],
)
def test_a_table_with_a_mistake_is_refused_by_its_line(entry: CorpusEntry, text: str | bytes, what: str) -> None:
    Path(str(entry.attributes)).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(SpecError, match=what) as caught:
        read_attributes(entry, uris(entry))
    assert str(caught.value.where).endswith("ring.csv") and caught.value.next_step


def test_a_damaged_parquet_file_is_refused(entry: CorpusEntry, tmp_path: Path) -> None:
    (tmp_path / "table.parquet").write_bytes(b"no table")
    with pytest.raises(SpecError, match="it cannot be read"):
        read_attributes(entry.model_copy(update={"attributes": str(tmp_path / "table.parquet")}), uris(entry))


def spec_of(entry: CorpusEntry, **changes: Any) -> Spec:
    document = {
        "name": "attributes",
        "backbone": "testbed",
        "concepts": [{"name": "ring", "phrase": "ring"}],
        "corpus": [{**entry.model_dump(), **changes}],
        "defences": [{"name": "uce", "eraser": {"method": "uce"}}],
        "scenarios": [{"name": "latent-whitebox", "cases": 3, "sampler": {"steps": 5, "guidance": 1.0}}],
        "neighbour_cases": 0,
        "controls": {"cases": 2},
        "detectors": [{"name": "judge", "kind": "classifier", "model": "testbed/classifier"}],
        "gate": {"version": "1", "limits": [{"crr_max": 0.1}], "judges": ["judge"]},
    }
    return parse_spec(document, "test")


def test_cases_carry_the_attributes_and_keys_do_not(entry: CorpusEntry) -> None:
    plans = []
    for changes in ({}, {"attributes": None}):
        spec = spec_of(entry, **changes)
        pictures = listed_pictures(spec, corpora.table(*spec.corpus))
        assert pictures.problems == ()
        plans.append(stated_plan(resolved_of(spec, BACKBONE, items=pictures.items, instrument=INSTRUMENT)))
    with_them, without = plans
    assert with_them.units.equals(without.units)
    rows = [row for row in with_them.cases.to_pylist() if row["item_uri"]]
    assert rows and all(json.loads(str(row["attributes"]))["colour"] for row in rows)
    assert {row["attributes"] for row in without.cases.to_pylist()} == {None}
    unit = next(with_them.units_of("generate"))
    assert all(case.attributes for case in with_them.cases_of(unit.key) if case.item)


def test_a_mistake_and_a_missing_table_are_told_apart(entry: CorpusEntry, tmp_path: Path) -> None:
    Path(str(entry.attributes)).write_text(HEADER + "other.png,size,large\n")
    (mistake,) = forecast_pictures(spec_of(entry)).problems
    assert mistake.mistake and "other.png" in mistake.what
    (missing,) = forecast_pictures(spec_of(entry, attributes=str(tmp_path / "nowhere.csv"))).problems
    assert isinstance(missing.error, CorpusError) and not missing.mistake


def test_a_corpus_that_cannot_be_listed_has_no_unknown_pictures(entry: CorpusEntry, tmp_path: Path) -> None:
    problems = forecast_pictures(spec_of(entry, url=str(tmp_path / "elsewhere"))).problems
    assert problems and not any("attributes" in problem.what for problem in problems)


def test_a_table_among_the_pictures_would_be_one_of_them(entry: CorpusEntry) -> None:
    with pytest.raises(AuditError, match=r"attributes .* lie in .* whose pictures they would be"):
        spec_of(entry, attributes=f"{entry.url}/table.csv")
    with pytest.raises(AuditError, match="carries credentials"):
        spec_of(entry, attributes="s3://key:secret@bucket/table.csv")
