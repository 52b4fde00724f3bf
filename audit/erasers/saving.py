"""Writes an artefact as its method's official code does, with a model card; nothing appears half-written."""

from __future__ import annotations

import dataclasses
import io
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch

from audit.erasers.base import Artefact, Erased, Record
from audit.erasers.receler_adapter import nested
from audit.erasers.training import write_atomically

UNFINISHED = ".unfinished"  # folder of checkpoints below the output folder, gone when the artefact is complete


def save(erased: Erased, folder: Path, *, official: bool = True) -> Path:
    """Write tensors, companions and README.md into `folder` and remove its checkpoints; the path of the tensors.

    The card comes last, so a folder with a card is complete. `official` adds `eraser_weights.pt` to a Receler folder,
    the only file that its official code reads; its tensors are those of the safetensors file.
    Raises `EnvironmentProblem` when the folder cannot be written.
    """
    path = folder / erased.artefact.filename
    tensors, metadata = dict(erased.artefact.tensors), dict(erased.artefact.metadata)
    write_atomically(path, lambda partial: safetensors.torch.save_file(tensors, partial, metadata))
    companions = dict(erased.artefact.companions)
    if official and erased.artefact.layout == "receler":
        companions["eraser_weights.pt"] = _official(erased.artefact)
    for name, content in companions.items():
        write_atomically(folder / name, lambda partial, content=content: partial.write_bytes(content))  # type: ignore[misc]
    text = card(erased)
    write_atomically(folder / "README.md", lambda partial: partial.write_text(text, encoding="utf-8"))
    shutil.rmtree(folder / UNFINISHED, ignore_errors=True)
    return path


def finished(folder: Path) -> tuple[Path, str] | None:
    """The tensors' path and the request's key of a complete artefact in `folder`; None when there is none."""
    files = sorted(folder.glob("*.safetensors"))
    if not (folder / "README.md").is_file() or not files:
        return None
    try:
        with safetensors.safe_open(files[0], "pt") as opened:
            return files[0], (opened.metadata() or {}).get("request", "")
    except (OSError, safetensors.SafetensorError):
        return files[0], ""


def _official(artefact: Artefact) -> bytes:
    stream = io.BytesIO()
    torch.save(nested(artefact.tensors), stream)
    return stream.getvalue()


def facts(record: Record) -> dict[str, Any]:
    """The record as plain JSON values."""
    return dataclasses.asdict(record)


def card(erased: Erased) -> str:
    """The model card as Markdown: what was erased how, from what, and what measurably changed."""
    record, change = erased.record, erased.record.change
    norm = "not defined: modules were added" if change.relative_norm is None else f"{change.relative_norm:.4f}"
    rows = {
        "method": f"{record.method} ({record.paper}), version {record.version} of this implementation",
        "concepts": ", ".join(record.concepts),
        "prompts erased": "; ".join(f"`{prompt}`" for prompt in record.prompts),
        "neighbours preserved": ", ".join(record.preserved) or "none: not asked for, or not part of the method",
        "backbone": f"`{record.backbone}`",
        "backbone SHA-256": f"`{record.backbone_sha256}`",
        "seed": str(record.parameters.get("seed", "none: the method is deterministic")),
        "file": f"`{erased.artefact.filename}`, layout {erased.artefact.layout}, {record.parameters['stored']}",
        "computed in": f"{record.seconds:.1f} s",
    }
    footprint = {
        "tensors changed" if erased.artefact.layout == "unet-partial" else "tensors added": f"{change.tensors:,}",
        "parameters in them": f"{change.parameters:,}",
        "share of the UNet's parameters": f"{change.parameter_share:.3%}",
        "relative norm of the change": norm,
    }
    effect = {f"`{text}`" if text else "the null prompt": f"{value:.4f}" for text, value in change.effect.items()}
    curve = {str(point.iteration): f"{point.loss:.6f}" for point in record.curve}
    parameters = json.dumps(dict(record.parameters), indent=2, sort_keys=True)
    parts = [
        f"# {', '.join(record.concepts)} erased by {record.method}",
        _table("fact", "value", rows),
        "## Measured footprint",
        "Measured on the tensors as they are stored.",
        _table("weights", "", footprint),
        "Relative change of the noise prediction, on seeded latents in the middle of the noise:",
        _table("prompt", "change", effect),
        "## Training curve",
        _table("iteration", "mean loss since the last row", curve) if curve else "None: the method is a closed form.",
        "## Parameters",
        f"```json\n{parameters}\n```",
        "That a concept was erased says nothing about whether it comes back. Audit this artefact before you rely on it.",
    ]
    return "\n\n".join(parts) + "\n"


def _table(left: str, right: str, rows: Mapping[str, str]) -> str:
    lines = [f"| {left} | {right} |", "|---|---|"]
    escaped = ((name, value.replace("|", "\\|")) for name, value in rows.items())
    return "\n".join([*lines, *(f"| {name} | {value} |" for name, value in escaped)])
