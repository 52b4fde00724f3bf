"""The card of an exported run: what the folder's README.md says, to people and to Hugging Face `datasets`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import yaml

from audit.export.manifest import ExportedFile
from audit.report.markdown import escape

DATA = "data"
_ROWS = {
    "cases": "picture that the audit planned, with what the first judge found in it",
    "outcomes": "case and judge: the outcome that counts, its score and threshold",
    "rates": "cell and judge: hits among assessed and planned cases, with bounds",
}
_COLUMNS = {
    "run_id, cell_id, case_no": "what joins the tables; a cell is one concept, defence and scenario",
    "concept, subject": "what was erased, and what this cell asks for",
    "role, control": "target, neighbour, benign or control, and which control",
    "defence, scenario, kind": "the model that drew, and how it was asked",
    "seed, guidance, prompt": "what it was drawn from; latent scenarios have no prompt",
    "status, error, problem": "how drawing ended",
    "outcome, score": "by the first judge: hit, clear or unassessed",
    "pixel_sha256": "SHA-256 of the picture's pixels, also where the picture is not here",
}


@dataclasses.dataclass(frozen=True)
class PictureCounts:
    """How many cases have a picture here, and why the others have none."""

    exported: int = 0
    withheld: int = 0  # sensitive
    purged: int = 0
    none: int = 0  # nothing was drawn


@dataclasses.dataclass(frozen=True)
class Facts:
    """What the card says of a run."""

    run_id: str
    name: str
    created_at: str
    verdict: str | None  # of the newest decision on record
    policy: str | None  # its version
    pictures: PictureCounts | None  # None: metadata only
    redacted: bool
    shown: bool  # sensitive pictures are among the exported ones


def card(facts: Facts, files: Sequence[ExportedFile]) -> str:
    """Return the text of README.md."""
    rows: dict[str, int] = {}
    for file in files:
        rows[file.table] = rows.get(file.table, 0) + file.rows
    paragraphs = [
        f"---\n{yaml.safe_dump(_front(facts, rows), sort_keys=False, allow_unicode=False)}---",
        f"# {escape(facts.name)}",
        f"One audit of whether erased concepts come back: run {escape(facts.run_id)} of erasure-audit, planned at "
        f"{escape(facts.created_at)}. {_verdict(facts)}",
        '```python\nfrom datasets import load_dataset\n\ncases = load_dataset(FOLDER, "cases", split="test")\n```',
        "## Tables",
        _table(("table", "rows", "one row for each"), [(name, f"{rows[name]:,}", _ROWS[name]) for name in rows]),
        "Columns of `cases`:",
        _table(("columns", "what they hold"), [*_COLUMNS.items(), *_picture_columns(facts)]),
        "`manifest.json` has the SHA-256 and the rows of every file.",
        "## Pictures",
        *_pictures(facts),
        "## Limits",
        "A rate holds for these prompts, seeds, judges and thresholds. An unassessed case is no clear: bounds in `rates` "
        "count it against either answer. Choose a licence before this folder is passed on: pictures of the controls "
        "`reference` and `vae-roundtrip` are the corpus's own, and the others fall under the terms of the models that drew them.",
    ]
    return "\n\n".join(paragraphs) + "\n"


def _front(facts: Facts, rows: Mapping[str, int]) -> dict[str, object]:
    configs = [
        {
            "config_name": name,
            **({"default": True} if name == "cases" else {}),
            "data_files": [{"split": "test", "path": f"{DATA}/{name}-*.parquet"}],
        }
        for name in rows
    ]
    sensitive = ["not-for-all-audiences"] if facts.shown else []
    return {
        "pretty_name": f"{facts.name} {facts.run_id}",
        "license": "unknown",
        "tags": ["erasure-audit", "concept-erasure", *sensitive],
        "configs": configs,
    }


def _verdict(facts: Facts) -> str:
    if facts.verdict is None:
        return "No decision on it is on record."
    return f"The newest decision on record, by policy {escape(facts.policy or '')}, is {escape(facts.verdict)}."


def _picture_columns(facts: Facts) -> list[tuple[str, str]]:
    if facts.pictures is None:
        return []
    return [("image, picture", "the picture, and `exported`, `withheld`, `purged` or `none`")]


def _pictures(facts: Facts) -> list[str]:
    counts = facts.pictures
    sentences = []
    if counts is None:
        sentences.append("None are here: this export has metadata only.")
    else:
        sentences.append(
            f"{counts.exported:,} cases have their picture. {counts.withheld:,} sensitive ones are withheld, {counts.purged:,} "
            f"were removed from storage on purpose, and for {counts.none:,} nothing was drawn."
        )
    if facts.shown:
        sentences.append(
            "**Pictures of sensitive concepts are among them**, because whoever made this folder asked for them."
        )
    if facts.redacted:
        sentences.append(
            "The run has a sensitive concept: prompts stand as their SHA-256, and of errors only the class is told. Equal "
            "prompts have equal digests."
        )
    return sentences


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
