"""The testbed's model card says which goals its numbers meet, and the shipped one says what the code would say."""

from __future__ import annotations

import re

import pytest

from audit.testbed.card import HERE
from audit.testbed.card_tables import Accuracy, costs_table, judges_table
from audit.testbed.markers import replaced
from audit.testbed.train import TRAININGS

PAGE = (HERE / "README.md").read_text()


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


def test_the_shipped_card_is_what_its_own_numbers_make() -> None:
    """Goals, intervals and sentences are generated: whoever edits a number by hand has to edit them too, or is noticed."""
    text = section("Judges on held-out scenes")
    found = re.findall(r"^\| (\w+) \| (0\.\d+) \| \w+ \| (0\.\d+) \|", text, re.M)
    assert len(found) == 3
    assert judges_table([Accuracy(name, float(one), float(two)) for name, one, two in found]) in text


def test_the_shipped_card_names_every_training() -> None:
    text = section("Size and cost")
    assert [name for name in TRAININGS if not re.search(rf"^\| {name} \|", text, re.M)] == []


def test_a_page_part_is_replaced_between_its_markers() -> None:
    page = "a\n<!-- x -->\nold\n<!-- /x -->\nb\n"
    assert replaced(page, "x", "\nnew\nlines\n") == "a\n<!-- x -->\nnew\nlines\n<!-- /x -->\nb\n"
    with pytest.raises(ValueError, match="no part between <!-- y -->"):
        replaced(page, "y", "z")


@pytest.mark.parametrize("name", ["card", "erasers-table", "guards-table", "benchmark-table"])
def test_the_shipped_page_has_a_place_for_every_part(name: str) -> None:
    assert "x y z" in replaced(PAGE, name, "x y z")
