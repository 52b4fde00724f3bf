"""The testbed's model card says which goals its numbers meet, and the shipped one says what the code would say."""

from __future__ import annotations

import re
from pathlib import Path

from audit.testbed.card_tables import Accuracy, costs_table, counts_table, judges_table
from audit.testbed.counting import HERE, JUDGES, Counts
from audit.testbed.train import TRAININGS

PAGE = (HERE / "README.md").read_text()


def test_a_rate_at_its_goal_meets_it_and_one_hit_fewer_misses_it() -> None:
    table = counts_table({"ring": {"classifier": 95, "judge": 94}, "star": {"classifier": 100, "judge": 0}}, 100)
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines() if "/100" in line]
    assert [[row[0], row[2], row[4]] for row in rows] == [["ring", "met", "missed"], ["star", "met", "missed"]]
    assert table.endswith("Goal met by classifier for 2, by judge for 0 of 2 classes.")


def test_each_accuracy_has_a_goal_of_its_own() -> None:
    table = judges_table([Accuracy("one", 0.97, 0.949), Accuracy("other", 0.969, 0.95)])
    assert "| one | 0.970 | met | 0.949 | missed |" in table
    assert "| other | 0.969 | missed | 0.950 | met |" in table
    assert "one object by 1 (one) of 2 instruments, for both of two by 1 (other)." in table


def test_what_no_checkpoint_records_is_not_counted_as_nothing() -> None:
    whole = costs_table({"vae": (2000, 3600.0), "judge": (13_000, 3600.0)})
    assert "| judge | 13,000 | 3,600 |" in whole and "2.0 hours (goal 2 met)" in whole
    assert "(goal 2 missed)" in costs_table({"vae": (2000, 7300.0)})
    part = costs_table({"vae": (2000, 10.0), "judge": None})
    assert "| judge | not recorded | not recorded |" in part
    assert "met)" not in part and "together: not recorded" in part


def section(title: str) -> str:
    found = re.search(rf"^## {re.escape(title)}\n(.*?)(?=^## )", PAGE, re.S | re.M)
    assert found, title
    return found[1]


def cells(text: str, first: Path | str) -> list[str]:
    return [cell.strip() for cell in next(line for line in text.splitlines() if f"| {first} |" in line).split("|")]


def test_the_shipped_card_is_what_its_own_numbers_make() -> None:
    """Goals, intervals and sentences are generated: whoever edits a number by hand has to edit them too, or is noticed."""
    text = section("Text prompts on the backbone")
    counts: Counts = {}
    for name, *hits in re.findall(r"^\| (\w+) \| (\d+)/100 \([^|]*\| \w+ \| (\d+)/100 ", text, re.M):
        counts[name] = dict(zip(JUDGES, map(int, hits), strict=True))
    assert len(counts) == 10
    assert counts_table(counts, 100) in text
    text = section("Judges on held-out scenes")
    found = re.findall(r"^\| (\w+) \| (0\.\d+) \| \w+ \| (0\.\d+) \|", text, re.M)
    assert len(found) == 3
    assert judges_table([Accuracy(name, float(one), float(two)) for name, one, two in found]) in text


def test_the_shipped_card_names_every_training() -> None:
    text = section("Size and cost")
    assert [name for name in TRAININGS if not re.search(rf"^\| {name} \|", text, re.M)] == []
