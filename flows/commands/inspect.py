"""inspect: what an erased checkpoint is and what it changes, without generating anything."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from flows.commands import options
from flows.console import emit_json, table

if TYPE_CHECKING:
    from audit.checkpoints.inspection import Inspection
    from audit.files import Document

Checkpoint = Annotated[str, typer.Argument(help="A file, a folder, or org/name@<40-hex commit>[/path inside].")]
Backbone = Annotated[
    str | None,
    typer.Option(
        "--backbone", help="What was erased from: testbed (default), a diffusers folder, or org/name@<commit>."
    ),
]
Claim = Annotated[
    str | None, typer.Option("--claim", help="The method that is said to have made it, such as esd-x or uce.")
]


def register(app: typer.Typer) -> None:
    """Add the command of this file."""
    app.command("inspect")(inspect)


def inspect(
    checkpoint: Checkpoint, backbone: Backbone = None, claim: Claim = None, as_json: options.Json = False
) -> int:
    """Say what CHECKPOINT is, what it changes in the backbone, and what does not fit. Generates nothing."""
    from audit.errors import CheckpointError
    from audit.weights.checkpoints import resolve_checkpoint
    from audit.weights.references import pipeline_family, resolve_model
    from audit.weights.schedulers import AS_PIPELINE

    ref = resolve_checkpoint(checkpoint)
    model = resolve_model(backbone or "testbed")
    pipeline_family(model, (AS_PIPELINE,))  # whatever it would be sampled with
    from audit.checkpoints import inspection

    try:
        inspected = inspection.inspect(ref, model, claim)
    except CheckpointError:
        outline = None if backbone else inspection.outline(ref, claim)
        if outline is None:
            raise
        inspected = outline
    if as_json:
        emit_json(inspected)
    else:
        _print(inspected)
    return 0


def _print(inspected: Inspection) -> None:
    facts = inspected["facts"]
    known = f", key set {facts['file_key_set']}" if facts["file_key_set"] else ""
    print(f"file       {facts['says']} ({facts['layout']}), {facts['file_tensors']} tensors{known}")
    print(f"sha256     {facts['sha256']}")
    print(f"names      {facts['names_sha256']}")
    for name, value in facts["settings"].items():
        print(f"{name:<10} {value}")
    if "backbone" in facts:
        _print_footprint(facts)
    else:
        print(f"family     {inspected['family']}")
    print(f"\nclaim      {inspected['claim'] or 'none'}")
    for warning in inspected["warnings"]:
        print(f"WARNING    {warning}")


def _print_footprint(facts: Document) -> None:
    print(f"backbone   {facts['backbone']['name']}, sha256 {facts['backbone']['sha256']}")
    changed = f" = {facts['changed_key_set']}" if facts["changed_key_set"] else ""
    norm = "" if facts["relative_norm"] is None else f", relative norm {facts['relative_norm']:.3g}"
    print(
        f"changes    {facts['tensors']} tensors{changed}, {facts['parameters']:,} parameters "
        f"({facts['parameter_share']:.3%}){norm}\n"
    )
    table(
        [
            {
                "group": name,
                "tensors": group["tensors"],
                "parameters": group["parameters"],
                "relative norm": "added" if group["relative_norm"] is None else f"{group['relative_norm']:.3g}",
            }
            for name, group in facts["groups"].items()
        ]
    )
