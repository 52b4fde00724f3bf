"""testbed: scenes to audit with, the model card, and training."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer

from audit.errors import AuditError
from audit.testbed.train import STAGES  # loads no torch
from flows.commands import options
from flows.console import emit_json, say

BUILD = Path("build/testbed")

app = typer.Typer(help="The miniature that ships with the tool: scenes, model card, training.", no_args_is_help=True)


@app.command("scenes")
def scenes(
    url: Annotated[str, typer.Argument(help="Folder or s3:// prefix to write PNG pictures to.")],
    cls: Annotated[str, typer.Option("--class", help="Shape that every scene contains, such as ring.")],
    count: Annotated[int, typer.Option("--count", "-n", min=1, max=1_000_000, help="How many pictures.")] = 100,
    split: Annotated[str, typer.Option("--split", help="train, calibration or audit; splits never overlap.")] = "audit",
    objects: Annotated[int, typer.Option("--objects", min=1, max=2, help="Objects in each scene.")] = 1,
    start: Annotated[int, typer.Option("--start", min=0, help="Index of the first scene.")] = 0,
    without: Annotated[
        list[str] | None, typer.Option("--without", help="Shape that no scene contains; may be given several times.")
    ] = None,
    regions: Annotated[
        str | None, typer.Option("--regions", help="Folder or s3:// prefix for masks of the shape's region.")
    ] = None,
    attributes: Annotated[
        str | None,
        typer.Option("--attributes", help="CSV file for each shape's size, place, colour, fill and background."),
    ] = None,
    fill: Annotated[
        str | None, typer.Option("--fill", help="plain, striped or dotted: how the shape is filled in every scene.")
    ] = None,
    ink: Annotated[
        bool, typer.Option("--ink", help="Outlines in ink on paper: a domain that no model was trained on.")
    ] = False,
    as_json: options.Json = False,
) -> None:
    """Write a corpus of rendered scenes; the same arguments give the same pictures."""
    from audit.locations import has_credentials, redact
    from audit.storage.errors import explain_source
    from audit.testbed.drawings import in_ink
    from audit.testbed.scenes import write_corpus

    for address in filter(has_credentials, filter(None, (url, regions, attributes))):
        raise AuditError(
            "the address carries credentials",
            where=redact(address),
            next_step="set AWS_ACCESS_KEY_ID and the like instead",
        )
    try:
        written = write_corpus(
            url, cls, count, split, n_objects=objects, start=start, without=without or (), regions=regions,
            attributes=attributes, fill=fill, **({"render": in_ink} if ink else {}),
        )  # fmt: skip
    except (ValueError, ImportError) as error:
        raise AuditError(str(error), where="testbed scenes", next_step="erasure-audit testbed scenes --help") from None
    except Exception as error:  # boto's packages are told by name, so that a local folder need not import them
        if isinstance(error, OSError) or type(error).__module__.startswith(("botocore", "aiobotocore")):
            raise explain_source(error, redact(url)) from error
        raise
    if as_json:
        emit_json({"url": url, "class": cls, "written": len(written)})
    else:
        say(f"{len(written)} scenes with a {cls} written to {url}")


@app.command("train")
def train(
    stage: Annotated[str, typer.Option("--stage", help=f"{', '.join(STAGES)} or all.")] = "all",
    build: Annotated[Path, typer.Option("--build", help="Folder for checkpoints and rendered scenes.")] = BUILD,
    scale: Annotated[float, typer.Option("--scale", min=0.0, help="Multiplies every number of steps.")] = 1.0,
) -> None:
    """Train the testbed from scratch; every stage resumes where it stopped."""
    from audit.testbed.train import run_stage

    if stage not in (*STAGES, "all"):
        raise AuditError(f"there is no stage {stage!r}", where="--stage", next_step=f"use {', '.join(STAGES)} or all")
    for name in STAGES if stage == "all" else (stage,):
        run_stage(name, build, scale)


@app.command("card")
def card(
    scenes: Annotated[int, typer.Option("--scenes", min=1, help="Held-out scenes for each accuracy.")] = 600,
) -> int:
    """Measure the shipped testbed's parts and write their model card and contact sheet; minutes on a CPU."""
    command = [sys.executable, "-m", "audit.testbed.card", "--scenes", str(scenes)]
    return subprocess.run(command, check=False).returncode
