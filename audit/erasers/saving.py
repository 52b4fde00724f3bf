"""Write an artefact as its method's official code does, with a model card; nothing appears half-written."""

from __future__ import annotations

import dataclasses
import io
import json
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

import safetensors
import safetensors.torch
import torch

from audit.checkpoints.receler_adapter import nested
from audit.erasers.base import Artefact, Erased, Record
from audit.errors import EnvironmentProblem, EraserError
from audit.files import write_atomically

UNFINISHED = ".unfinished"  # folder of checkpoints below the output folder, gone when the artefact is complete
_OUR_NAMES = ("README.md", "eraser_config.json", "eraser_weights.pt")  # besides the safetensors file


def save(erased: Erased, folder: Path, *, official: bool = True) -> Path:
    """Write tensors, companions and README.md into `folder` and remove its checkpoints; return the path of the tensors.

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


@dataclasses.dataclass(frozen=True)
class Held:
    """An artefact of ours in a folder: its tensors' path, the key of the request it answers, whether it has its card."""

    path: Path
    key: str
    complete: bool


def held(folder: Path) -> Held | None:
    """Return the artefact that `folder` holds; None when there is none.

    Raises `EraserError` when the folder holds files under an artefact's names that no eraser of ours wrote: saving one
    would overwrite them, or leave two models in one folder.
    """
    keys = {path: _request(path) for path in sorted(folder.glob("*.safetensors"))}
    ours = {path: key for path, key in keys.items() if key}
    named = [path for path in (folder / name for name in _OUR_NAMES) if path.exists()]
    foreign = [path for path in keys if path not in ours] + ([] if ours or (folder / UNFINISHED).is_dir() else named)
    if foreign:
        raise EraserError(
            f"the output folder holds {foreign[0].name}, which is no erased model of this tool",
            where=str(foreign[0]),
            next_step="name an empty or a new folder with --out",
        )
    if not ours:
        return None
    path, key = next(iter(ours.items()))
    return Held(path, key, (folder / "README.md").is_file())


def _request(path: Path) -> str:
    """Return the key in the header of a file that an eraser of ours wrote; "" for any other file."""
    try:
        with safetensors.safe_open(path, "pt") as opened:
            return (opened.metadata() or {}).get("request", "")
    except (OSError, safetensors.SafetensorError):
        return ""


def prepare(folder: Path) -> None:
    """Make the output folder and prove that it can be written; raises `EnvironmentProblem` when it cannot."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".probe-") as probe:
            probe.write(b"0")
    except OSError as error:
        raise EnvironmentProblem(
            f"the output folder cannot be written: {error.strerror or error}",
            where=str(folder),
            next_step="name a folder that can be written with --out",
        ) from None


def _official(artefact: Artefact) -> bytes:
    stream = io.BytesIO()
    torch.save(nested(artefact.tensors), stream)
    return stream.getvalue()


def facts(record: Record) -> dict[str, object]:
    """Return the record as plain JSON values, the package only where another distribution brings the eraser."""
    values = dataclasses.asdict(record)
    return values if record.package else {name: value for name, value in values.items() if name != "package"}


def card(erased: Erased) -> str:
    """Return the model card as Markdown: concepts, method, backbone and the measured change."""
    record, change = erased.record, erased.record.change
    norm = "not defined: modules were added" if change.relative_norm is None else f"{change.relative_norm:.4f}"
    rows = {
        "method": f"{record.method} ({record.paper or 'no paper'}), version {record.version} of "
        + (record.package or "this implementation"),
        "concepts": ", ".join(record.concepts),
        "prompts erased": "; ".join(f"`{prompt}`" for prompt in record.prompts),
        "neighbours preserved": ", ".join(record.preserved) or "none: not asked for, or not part of the method",
        "backbone": f"`{record.backbone}`",
        "backbone SHA-256": f"`{record.backbone_sha256}`",
        "seed": str(record.parameters.get("seed", "none: the method is deterministic")),
        "file": f"`{erased.artefact.filename}`, layout {erased.artefact.layout}, {record.parameters['stored']}",
        "computed in": f"{record.seconds:.1f} s",
    }
    part = "text encoder" if erased.artefact.layout == "text-encoder" else "denoising network"
    footprint = {
        "tensors changed"
        if erased.artefact.layout in ("unet-partial", "text-encoder")
        else "tensors added": f"{change.tensors:,}",
        "parameters in them": f"{change.parameters:,}",
        f"share of the {part}'s parameters": f"{change.parameter_share:.3%}",
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
