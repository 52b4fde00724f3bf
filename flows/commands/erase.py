"""erase: make an erased model to audit."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import typer

from audit.errors import Interrupted
from flows import environment
from flows.commands import options
from flows.console import emit_json, progress_bars, say


def register(app: typer.Typer) -> None:
    """Add the command of this file."""
    app.command("erase")(erase)


def erase(
    method: Annotated[
        str, typer.Option("--method", help="An eraser, such as esd-x, uce or mace; erasure-audit methods lists them.")
    ],
    concept: Annotated[list[str], typer.Option("--concept", help="Phrase to erase; repeat it for several.")],
    out: Annotated[Path, typer.Option("--out", help="Folder for the artefact and its model card.")],
    backbone: Annotated[
        str, typer.Option("--backbone", help="testbed, a local folder, or org/name@commit.")
    ] = "testbed",
    synonym: Annotated[
        list[str] | None, typer.Option("--synonym", help="Another phrase for the concept, erased with it; repeatable.")
    ] = None,
    neighbour: Annotated[
        list[str] | None, typer.Option("--neighbour", help="Phrase to hold in place, where the method can; repeatable.")
    ] = None,
    preset: Annotated[str | None, typer.Option("--preset", help="Named parameters, such as official.")] = None,
    settings: Annotated[list[str] | None, typer.Option("--set", help="One parameter as key=value; repeatable.")] = None,
    device: options.Device = None,
    as_json: options.Json = False,
) -> None:
    """Erase concepts from a backbone. The same command again goes on where an interrupted one stopped."""
    from audit.erasers.request import fulfil, make_request, summary

    request = make_request(
        backbone,
        method,
        concept,
        synonyms=synonym or (),
        neighbours=neighbour or (),
        preset=preset,
        settings=settings or (),
    )
    environment.quiet()
    try:
        with progress_bars("iterations") as reporter:
            path, record = fulfil(request, out, device=device, listener=reporter)
    except KeyboardInterrupt:
        raise Interrupted("interrupted; run the same command again to go on from the last checkpoint") from None
    if record is None:
        say("this artefact was made before; nothing to do")
    if as_json:
        emit_json({"path": str(path), "record": dataclasses.asdict(record) if record else None})
        return
    print(f"artefact   {path}")
    for label, value in (summary(record) if record else {}).items():
        print(f"{label:<10} {value}")
    print(f"card       {path.parent / 'README.md'}")
