"""Specs of white-box searches for tokens, at the smallest size."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Any

from audit.plan.document import Draft
from audit.run import draft_plan
from audit.spec.document import load_spec
from tests.flows.audits import tiny_spec

SAMPLER = {"steps": 2, "guidance": 3.0}


def search_spec(folder: Path, pipeline: Path, **scenario: Any) -> Path:
    """The path of a spec with one white-box search: three cases of two prompts."""
    given = {"name": "adversarial-text", "cases": 3, "found": 2, "sampler": SAMPLER}
    return tiny_spec(folder, pipeline, scenarios=[{**given, **scenario}])


def drafted(path: Path) -> Draft:
    """The draft of a spec's plan."""
    return draft_plan(load_spec(path), dt.datetime.now(dt.UTC)).draft
