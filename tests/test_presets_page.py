"""docs/presets.md names every preset of every method, what it reproduces and its oddity, and nothing that is not there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from audit import erasers
from audit.attacks.registry import ATTACKS
from audit.guards import GUARDS
from audit.guards.sld_parameters import SLD_PRESETS, SldParameters
from audit.instruments.quality import QUALITY
from audit.spec.quality import BORDERS

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs/presets.md").read_text()
NONE = "-"


def rows() -> list[tuple[str, str, str, str, str]]:
    """(section, method, preset, the row's first words after it, its tests), one for each method that a row names."""
    found, section = [], ""
    for line in PAGE.splitlines():
        section = line.removeprefix("## ").lower() if line.startswith("## ") else section
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) == 5 and line.startswith("| `"):
            preset = re.sub(r"`([^`]*)`.*", r"\1", cells[1])
            default = " (*default*)" in cells[1]
            for method in re.findall(r"`([^`]+)`", cells[0]):
                found.append((section, method, preset + ("*" if default else ""), f"{cells[2]} {cells[3]}", cells[4]))
    return found


def expected() -> set[tuple[str, str, str]]:
    """(section, method, preset) of everything that the code has; the default one with a star."""
    found: set[tuple[str, str, str]] = set()
    for method in erasers.ERASERS.names():
        default = erasers.default_preset(method, "elsewhere")
        found |= {("erasers", method, p + "*" * (p == default)) for p in erasers.presets(method)}
    found -= {("erasers", "esd-x-strict", preset) for preset in ("official-2023", "paper")}  # refused there
    for name in ATTACKS.names():
        names = ATTACKS.find(name, "scenarios").presets
        found |= {("attacks", name, p + "*" * (not values)) for p, values in names.items()} or {("attacks", name, NONE)}
    found |= {("guards", name, NONE) for name in GUARDS.names() if name != "sld"}
    medium = SldParameters().preset
    found |= {("guards", "sld", preset + "*" * (preset == medium)) for preset in SLD_PRESETS}
    for kind in QUALITY.names():
        borders = BORDERS.get(kind, ())
        found |= {("quality", kind, f"border: {b}" + "*" * (b == borders[0])) for b in borders} or {
            ("quality", kind, NONE)
        }
    return found


def test_every_preset_of_every_method_stands_on_the_page_once() -> None:
    listed = [row[:3] for row in rows()]
    assert len(listed) == len(set(listed))
    assert set(listed) == expected()


@pytest.mark.parametrize("row", [pytest.param(row, id="-".join(row[1:3])) for row in rows()])
def test_a_row_names_a_commit_or_says_that_there_is_none(row: tuple[str, str, str, str, str]) -> None:
    section, method, preset, text, held = row
    assert re.search(r"\b[0-9a-f]{7}\b|nothing official|brought by the user|arXiv \d{4}\.\d{5}|the same|code of|package|"
                     r"scikit-image|diffusers'|Frechet|mean over", text), text  # fmt: skip
    if preset.startswith("official"):
        assert re.search(r"\b[0-9a-f]{7}\b|the same", text)
    if section == "erasers":
        odd = erasers.oddity(method, preset.rstrip("*"))
        assert odd is None or odd in text
    for path in re.findall(r"[\w/]+\.(?:py|md)", held):
        folder = ROOT if "/" in path else ROOT / "tests/erasers"
        assert (folder / path).is_file(), path
