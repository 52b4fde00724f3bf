"""init: write a new spec."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from flows.commands import options
from flows.console import emit_json, runnable, say

Text = str | None
Texts = list[str] | None
File = Annotated[Path, typer.Argument(help="The YAML file to write.")]
Preset = Annotated[Text, typer.Option("--preset", help="nudity, object, artist-style, person or trademark.")]
Concept = Annotated[
    Text, typer.Option("--concept", help="What was erased, as prompts name it; else the preset's example.")
]
Synonym = Annotated[Texts, typer.Option("--synonym", help="Another phrase for the concept; repeatable.")]
Neighbour = Annotated[Texts, typer.Option("--neighbour", help="Something close to it that must survive; repeatable.")]
Backbone = Annotated[
    Text, typer.Option("--backbone", help="testbed, a folder, or org/name@<commit>; else Stable Diffusion v1.4.")
]
ErasedWith = Annotated[
    Text, typer.Option("--erased-with", help="The eraser's method, such as uce; none for guards alone.")
]
Checkpoint = Annotated[
    Text, typer.Option("--checkpoint", help="Erased weights: a file, a folder, or org/name@<commit>[/path].")
]
Guard = Annotated[Texts, typer.Option("--guard", help="A guard, such as irece; repeatable, in order.")]
Scenario = Annotated[Texts, typer.Option("--scenario", help="An attack, such as text or latent-whitebox; repeatable.")]
Judge = Annotated[
    Texts, typer.Option("--judge", help="A detector of the preset that decides; repeatable, all must agree.")
]
Corpus = Annotated[Text, typer.Option("--corpus", help="Folder or s3:// prefix with pictures of the concept.")]
Name = Annotated[Text, typer.Option("--name", help="The audit's name; else the concept's.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Ask nothing: the default stands where no flag does.")]
Force = Annotated[bool, typer.Option("--force", help="Overwrite FILE.")]


def register(app: typer.Typer) -> None:
    """Add the command of this file."""
    app.command("init")(init)


def init(
    file: File = Path("audit.yaml"),
    preset: Preset = None,
    concept: Concept = None,
    synonym: Synonym = None,
    neighbour: Neighbour = None,
    backbone: Backbone = None,
    erased_with: ErasedWith = None,
    checkpoint: Checkpoint = None,
    guard: Guard = None,
    scenario: Scenario = None,
    judge: Judge = None,
    corpus: Corpus = None,
    name: Name = None,
    yes: Yes = False,
    force: Force = False,
    as_json: options.Json = False,
) -> None:
    """Write a commented spec that is valid as it is, from flags and, on a terminal, a few questions about the rest.

    Beside it stands erasure-audit.schema.json, by which editors check and complete specs.
    """
    from audit.spec.starter import SCHEMA
    from flows import answers
    from flows.commands.schema import schema_text

    answers.require_writable(file, force)
    given = answers.Flags(
        preset=preset,
        concept=concept,
        synonyms=tuple(synonym or ()),
        neighbours=tuple(neighbour or ()),
        backbone=backbone,
        erased_with=erased_with,
        checkpoint=checkpoint,
        guards=tuple(guard or ()),
        scenarios=tuple(scenario or ()),
        judges=tuple(judge or ()),
        corpus=corpus,
        name=name,
    )
    text = answers.spec_text(answers.asked(given, interactive=answers.on_terminal() and not yes), file)
    schema = file.with_name(SCHEMA)
    _write(schema, schema_text())
    _write(file, text)
    if as_json:
        emit_json({"spec": str(file), "schema": str(schema)})
        return
    say(f"spec written to {file}, and its schema for editors to {schema}")
    print(runnable(f"next  erasure-audit plan {shlex.quote(str(file))}"))


def _write(path: Path, text: str) -> None:
    from audit.files import write_atomically

    write_atomically(path, lambda place: place.write_text(text, encoding="utf-8"))
