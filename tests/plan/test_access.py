"""What a plan says of the access that each scenario takes."""

from __future__ import annotations

from pathlib import Path

import pytest

from audit.plan.access import access_of
from audit.spec.access import ACCESS, PERSONALISED, access_words
from audit.spec.document import load_spec
from audit.spec.scenario_base import KINDS
from tests.flows.audits import tiny_spec

SAMPLER = {"steps": 2, "guidance": 3.0}


def test_every_kind_of_scenario_says_what_it_takes() -> None:
    assert ACCESS.keys() == set(KINDS)
    assert all("box)" in words for kind, words in ACCESS.items() if kind != "adversarial-text")


@pytest.mark.parametrize(
    ("search", "words"),
    [
        ({}, "prompts that ring-a-bell finds (black box)"),
        ({"method": "p4d"}, "prompts that p4d finds (white box)"),
        ({"prompts": {"file": "prompts.csv", "columns": {"prompt": "prompt"}}}, "prompts of a file (black box)"),
    ],
)
def test_a_search_is_white_box_where_it_goes_through_the_model(
    tmp_path: Path, tiny_folder: Path, search: dict[str, object], words: str
) -> None:
    scenarios = [{"name": "adversarial-text", "cases": 2, "sampler": SAMPLER, **search}]
    spec = load_spec(tiny_spec(tmp_path, tiny_folder, scenarios=scenarios))
    assert access_of(spec) == {"adversarial-text": words}


def test_a_stored_scenario_says_it_without_what_this_version_knows() -> None:
    assert access_words({"name": "latent-whitebox"}) == "start noise (white box)"
    assert access_words({"name": "a", "kind": "embedding-blackbox", "personalisation": {"file": "a"}}) == PERSONALISED
    assert access_words({"name": "a", "kind": "of-tomorrow"}) is None
    assert access_words({"kind": "adversarial-text", "method": "p4d"}) == "prompts found by search"
