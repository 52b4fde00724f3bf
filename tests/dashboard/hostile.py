"""A history in which every text is hostile: markup, scripts, formulas, escapes, bidirectional text, 10,000 characters."""

from __future__ import annotations

from pathlib import Path

import duckdb

from audit.index.store import Store
from tests.history import History, fill

MARKUP = "<script>alert(1)</script><img src=x onerror=alert(2)>\"'>&lt;b&gt;{{ 7*7 }}{% raw %}"
FORMULA = '=HYPERLINK("http://evil.example";"x")`|**[a](javascript:alert(3))**'
TURNED = "\u202egnp.exe\u2066\u200f\x1b[31mred\x07\x7f\u2028next"
LONG = "n" * 10_000
WIDE = "\ufdfd" * 40
HISTORY = History(
    runs=3,
    cases=4,
    systems=(MARKUP + " system", LONG + "'; drop table runs; --"),
    concepts=(MARKUP, TURNED, LONG),
    sensitive=(TURNED,),
    defences=(f"uce{FORMULA}", WIDE + LONG),
    scenarios=((f"{MARKUP} text", "text"), (TURNED + LONG, "latent-whitebox")),
    judges=(MARKUP + " judge", FORMULA + TURNED),
    owner=TURNED + MARKUP,
    contact="javascript:alert(4)",
)
CHANGES = (
    "update runs set run_id = $name || run_id, name = $name, corpus_sha256 = $name",
    "update verdicts set decided_by = $name, policy_version = $name, command = $name, reasons = to_json([$name]),"
    " waivers = to_json([$name || ': ' || $name])",
    "update outcomes set reason = $name, error = $name where outcome = 'unassessed'",
    "update control_findings set trouble = $name where control = 'reference'",
    "update instruments set kind = $name, package = $name, version = $name",
    "update cases set item_uri = $name where item_uri is not null",
    "update check_results set name = $name, detail = $name",
)


def write(folder: Path) -> Path:
    """Write the history and publish it."""
    path = folder / "db" / "audit.duckdb"
    Store(path).close()
    with duckdb.connect(str(path)) as con:
        fill(con, HISTORY)
        for change in CHANGES:
            con.execute(change, {"name": MARKUP + TURNED + LONG[:2000]})
    with Store(path) as store:
        return store.publish(path.parent / "published")
