"""What the tests of personalisations share: their files, specs with one, and plans."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from audit import run
from audit.checkpoints.personal import Change, read_change
from audit.checkpoints.personalisation import resolve_personalisation
from audit.checkpoints.tensors import backbone_modules
from audit.diffusion.pipeline import Pipeline
from audit.plan.document import Draft, Plan, read_plan
from audit.run import draft_plan
from audit.spec.document import load_spec
from tests.attacks.loras import State
from tests.flows.audits import plan_run, tiny_spec

SAMPLER = {"steps": 2, "guidance": 3.0}


def change_of(path: Path, pipeline: Pipeline) -> Change:
    return read_change(resolve_personalisation(str(path)), backbone_modules(pipeline.unet, pipeline.text_encoder))


def written(path: Path, state: State, metadata: dict[str, str] | None = None) -> Path:
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, path, metadata)
    return path


def scenario(path: Path | str, box: str = "blackbox", **fields: Any) -> dict[str, Any]:
    given = {"name": f"embedding-{box}", "cases": 2, "personalisation": str(path), "sampler": SAMPLER}
    return {**given, **fields}


def spec_with(folder: Path, pipeline: Path, path: Path | str, **fields: Any) -> Path:
    text = {"name": "text", "cases": 2, "sampler": SAMPLER, "templates": ["a photo of a {phrase}"]}
    return tiny_spec(folder, pipeline, scenarios=[text, scenario(path, **fields)])


def draft(path: Path) -> Draft:
    return draft_plan(load_spec(path), dt.datetime.now(dt.UTC)).draft


def planned(path: Path, root: Path) -> Plan:
    return read_plan(run.open_journal(str(root)), plan_run(path, root))
