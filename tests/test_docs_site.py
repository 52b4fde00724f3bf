"""The pages of docs/ hold together: links lead somewhere, generated pages are up to date, names and drawings fit the code."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from audit.attacks.parameters import RingABellParameters
from audit.index.lock import WAIT_SECONDS
from audit.index.sql_files import relations
from audit.index.store import STORAGE_VERSION
from audit.instruments.detectors import grounding_dino, nudenet
from audit.report.reported_numbers import TOLERANCE, WIDEST
from audit.spec.policy import Policy
from audit.statistics import upper_bound
from audit.tuning.candidates import DEFAULT_GRID
from audit.verdict import damage
from docs import reference
from tasks.slots import LEASE_SECONDS

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.glob("*.md"))]


def build(folder: Path, site: Path) -> subprocess.CompletedProcess[str]:
    """`mkdocs build` of the configuration in a folder, as `make docs` runs it; `--quiet` would switch its strictness off."""
    command = [sys.executable, "-m", "mkdocs", "build", "--config-file", folder / "mkdocs.yml", "-d", site]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)


def test_the_pages_build_without_a_dead_link_and_request_nothing(tmp_path: Path) -> None:
    done = build(ROOT, tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert {page.stem for page in DOCS.glob("*.md")} <= {page.stem for page in tmp_path.glob("*.html")}
    for page in (*tmp_path.glob("*.html"), *tmp_path.glob("css/*.css")):
        asked = r"<(script|img|iframe)[^>]+src=\"?(https?:)?//|<link[^>]+href=\"?(https?:)?//|url\([\"']?(https?:)?//|@import"
        assert not re.search(asked, page.read_text()), page.name


@pytest.mark.parametrize("link", ["[gone](gone.md)", "[no such heading](verdict.md#gone)"])
def test_a_dead_link_ends_the_build(tmp_path: Path, link: str) -> None:
    shutil.copytree(DOCS, tmp_path / "docs")
    shutil.copy(ROOT / "mkdocs.yml", tmp_path)
    with (tmp_path / "docs/index.md").open("a") as page:
        page.write(f"\n{link}\n")
    done = build(tmp_path, tmp_path / "site")
    assert done.returncode == 1
    assert "gone" in done.stdout + done.stderr


@pytest.mark.parametrize("name", ["spec.md", "parameters.md"])
def test_generated_pages_are_up_to_date(name: str) -> None:
    assert (DOCS / name).read_text() == reference.pages()[name], "write it again with: python -m docs.reference"


def test_every_field_of_a_spec_has_a_description() -> None:
    rows = [line for line in (DOCS / "spec.md").read_text().splitlines() if line.startswith("| `")]
    assert len(rows) > 100
    assert [row for row in rows if not row.rstrip("| ").endswith(".")] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_files_and_relations_that_a_page_names_exist(page: Path) -> None:
    text = page.read_text()
    paths = re.findall(r"`((?:audit|tests|sql|docs|deployments|flows|tasks)/[\w./-]*)`", text)
    assert [path for path in paths if not (ROOT / path).exists()] == []
    marts = set(re.findall(r"\bmart_\w+", text)) - {"mart_nudenet_presets"}
    assert marts <= set(relations("marts"))


def test_every_variable_of_the_tool_is_documented() -> None:
    sources = [path for folder in ("audit", "flows", "tasks") for path in (ROOT / folder).rglob("*.py")]
    variables = {name for path in sources for name in re.findall(r"\"(ERASURE_AUDIT_[A-Z_]+)\"", path.read_text())}
    assert len(variables) >= 4
    assert variables == set(re.findall(r"\| `(ERASURE_AUDIT_[A-Z_]+)`", (DOCS / "operations.md").read_text()))


def test_the_page_and_the_drawing_of_the_architecture_show_the_layers_of_the_contract() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    (layers,) = [contract["layers"] for contract in contracts if contract.get("containers") == ["audit"]]
    numbers = [*map(str, range(len(layers) - 2, -1, -1)), "-"]
    expected = {number: set(re.findall(r"\w+", layer)) for number, layer in zip(numbers, layers, strict=True)}
    listed: dict[str, set[str]] = {}
    for number, names in re.findall(r"^\| (\d+|-) \| (`.+?) \|", (DOCS / "architecture.md").read_text(), re.M):
        listed.setdefault(number, set()).update(re.findall(r"`(\w+)`", names))
    assert listed == expected
    drawn = re.findall(r"class=\"(number|name)\"[^>]*>([^<]+)<", (DOCS / "architecture.svg").read_text())
    shown: dict[str, set[str]] = {}
    number = ""
    for kind, text in drawn:
        number = text if kind == "number" else number
        if kind == "name" and number:
            shown.setdefault(number, set()).update(text.split())
    assert shown.pop("0") == expected["0"] | expected.pop("-")
    assert shown == {number: names for number, names in expected.items() if number != "0"}


def test_the_glossary_is_in_order() -> None:
    words = re.findall(r"^\| ([\w ]+) \| [A-Z].* \|$", (DOCS / "concepts.md").read_text().split("## Glossary")[1], re.M)
    assert len(words) > 40
    assert words == sorted(set(words), key=str.lower)


def test_the_map_of_the_tests_names_what_is_there() -> None:
    page = (ROOT / "tests/README.md").read_text()
    named = set(re.findall(r"`([\w/]+(?:\.py|/))`", page))
    there = {f"{path.parent.name}/" for path in (ROOT / "tests").glob("*/__init__.py")}
    there |= {f"{path.parent.name}/" for path in (ROOT / "tests").glob("*/test_*.py")}
    there |= {path.name for path in (ROOT / "tests").glob("*.py")} - {"__init__.py"}
    assert there - named == set()
    assert [name for name in named if not (ROOT / "tests" / name).exists() and not (ROOT / name).exists()] == []


def test_numbers_that_pages_repeat_are_those_of_the_code() -> None:
    default = {name: field.default for name, field in Policy.model_fields.items()}
    search, (steps, thresholds) = RingABellParameters(), DEFAULT_GRID.values()
    proven = upper_bound(0, 24, default["confidence"])
    assert (TOLERANCE, LEASE_SECONDS, len(steps), len(thresholds)) == (
        0.05,
        120,
        6,
        3,
    )  # those that are written in words
    facts = {
        "verdict.md": [
            f"`retention_min` (default {default['retention_min']:g})",
            f"`damage_level` (default {default['damage_level']:g})",
            f"the first {damage.PICTURES} pairs of the cell and {damage.SPLITS} splits",
            "widened by five points",
            f"wider than {100 * WIDEST:.0f} points",
        ],
        "storage.md": [
            f"`ERASURE_AUDIT_INDEX_WAIT` seconds ({WAIT_SECONDS:g})",
            f"storage version {STORAGE_VERSION.removeprefix('v').removesuffix('.0')}",
        ],
        "operations.md": ["within two minutes"],
        "attacks.md": [
            f"population {search.population}, {search.generations} generations, {search.tokens} tokens",
        ],
        "guards.md": ["six steps and three thresholds"],
        "instruments.md": [
            f"drops boxes below a score of {nudenet.SCORE_FLOOR:g}",
            f"from a score of {grounding_dino.SCORE_FLOOR:g} upwards",
        ],
        "first-audit.md": [f"that is about {100 * proven:.0f} %"],
    }
    for page, sentences in facts.items():
        text = " ".join((DOCS / page).read_text().split())
        assert [sentence for sentence in sentences if sentence not in text] == []
