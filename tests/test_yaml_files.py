"""YAML from strangers: whatever it holds, a value or one short reason, at once."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
import yaml

from audit.errors import SpecError
from audit.plan.rate_files import read_rates
from audit.spec.document import load_spec
from audit.yaml_files import load_yaml, read_yaml
from flows.commands.results import load_policy

DEEP = 5_000
LAUGHS = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{new}: &{new} [{', '.join([f'*{old}'] * 9)}]\n" for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)
REFUSED = {
    "blocks": ("\n".join(" " * i + "a:" for i in range(1_000)), "nested deeper than 64 levels"),
    "lists in one line": ("- " * DEEP + "x", "nested deeper than 64 levels"),
    "flow lists": ("[" * DEEP + "]" * DEEP, "nested deeper than 64 levels"),
    "flow lists that never close": ("[" * DEEP, "nested deeper than 64 levels"),
    "flow mappings": ("{a: " * DEEP + "1" + "}" * DEEP, "nested deeper than 64 levels"),
    "flow mappings that never close": ("{a: " * DEEP, "nested deeper than 64 levels"),
    "complex keys": ("? " * DEEP, "nested deeper than 64 levels"),
    "billion laughs": (LAUGHS, "aliases multiply into more than 200000 values"),
    "merged billion laughs": (LAUGHS.replace("x", "{k: 1}") + "z: {<<: *i}\n", "aliases multiply"),
    "an alias inside itself": ("a: &a [1, *a]", "an alias stands inside what it repeats"),
    "a key inside itself": ("&a {*a : 1}", "an alias stands inside what it repeats|unhashable|expected"),
    "a huge scalar": ("a: " + "x" * 1_000_001, "it has 1000004 characters, and at most 1000000 are read"),
    "a huge number": ("a: " + "1" * 4_201, "a number of 4201 digits"),
    "a day that is none": ("a: 2001-99-99", "a value cannot be read: month must be in 1..12"),
    "a tagged number that is none": ("a: !!int x", "a value cannot be read: invalid literal"),
    "a tagged truth that is none": ("a: !!bool x", "a value cannot be read: 'x'"),
    "a tagged time that is none": ("a: !!timestamp x", "a value cannot be read"),
    "half a surrogate pair": ('a: "\\ud800"', "holds the character '.ud800'"),
    "a NUL": ('a: "x\\0y"', "holds the character '.x00'"),
    "an object": ("a: !!python/object/apply:os.getcwd []", "could not determine a constructor"),
    "two documents": ("a: 1\n---\nb: 2", "expected a single document"),
}


@pytest.mark.parametrize(("text", "reason"), REFUSED.values(), ids=REFUSED)
def test_hostile_yaml_is_one_error_at_once(text: str, reason: str, tmp_path: Path) -> None:
    began = time.perf_counter()
    with pytest.raises(yaml.YAMLError, match=reason):
        load_yaml(text)
    path = tmp_path / "hostile.yaml"
    path.write_text(text, encoding="utf-8")
    for read, message in (
        (load_spec, "the spec is not valid YAML"),
        (read_rates, "the rates cannot be read"),
        (load_policy, "the policy cannot be read"),
    ):
        with pytest.raises(SpecError, match=message) as raised:
            read(path)
        assert raised.value.where == str(path) and raised.value.next_step
    assert time.perf_counter() - began < 10


def test_what_people_write_is_read() -> None:
    text = 'a: &a {x: 1, y: [2, 3.5, 1.0e-3]}\nb: {<<: *a, x: 4}\nc: |\n  two\n  lines\nd: 2026-01-02\ne: "tab\\t"\n'
    found = load_yaml(text)
    assert found["b"] == {"x": 4, "y": [2, 3.5, 0.001]} and found["c"] == "two\nlines\n" and found["e"] == "tab\t"
    assert load_yaml("") is None and load_yaml("[]") == []
    with pytest.raises(yaml.YAMLError, match="the key 'a' appears twice"):
        load_yaml("a: 1\na: 2")


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "spec.yaml")
    with pytest.raises(SpecError, match="the spec cannot be read: it is a named pipe, not a file"):
        load_spec(tmp_path / "spec.yaml")
    with pytest.raises(SpecError, match="the rates cannot be read: it is a named pipe"):
        read_rates(tmp_path / "spec.yaml")
    with pytest.raises(IsADirectoryError):
        read_yaml(tmp_path)
