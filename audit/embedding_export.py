"""Export learned embeddings from a run's journal, as the file that diffusers' `load_textual_inversion` reads."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import safetensors.torch
import torch

from audit.attacks.embedding_files import write_embedding
from audit.errors import JournalError, SpecError
from audit.files import Document
from audit.plan.document import Plan
from audit.plan.identities import AttackIdentity
from audit.storage.journal import Journal

METHODS = ("textual-inversion", "embedding-file")
_TOKEN = re.compile(r"<[^\s<>]{1,60}>")  # no word of a CLIP vocabulary looks like this but its two special ones
_TAKEN = ("<|startoftext|>", "<|endoftext|>")


@dataclasses.dataclass(frozen=True)
class Exported:
    """One embedding file: its path and token, the number and width of its vectors, and the attack unit that it comes from."""

    file: str
    token: str
    vectors: int
    width: int
    unit: str
    concept: str
    attacked_model: str | None  # erase unit that it was learned through; None: the backbone


@dataclasses.dataclass(frozen=True)
class EmbeddingChoice:
    """The choice of one of a run's embeddings. None leaves a field open."""

    concept: str | None = None
    scenario: str | None = None
    defence: str | None = None


def export_embedding(
    journal: Journal, plan: Plan, which: EmbeddingChoice, out: Path, *, token: str | None = None, item: str = "best"
) -> Exported:
    """Write one embedding of a run to `out`, a new `.safetensors` file; `token` is `<concept>` where it is None.

    `item` is `best`, or `lr-...` for one learning rate. Raises `SpecError` when no embedding or several are meant, for a
    token that prompts could confuse and a file that exists, and `JournalError` for one that is not learned yet.
    """
    key, concept = _unit(plan, which)
    name = token or f"<{concept}>"
    if not _TOKEN.fullmatch(name) or name in _TAKEN:
        raise SpecError(
            f"the token {name!r} is not of the form <word>: prompts would be ambiguous",
            where="--token",
            next_step=f"write --token '<{concept}>'",
        )
    if out.suffix != ".safetensors" or out.exists():
        why = "exists already" if out.exists() else "does not end in .safetensors"
        raise SpecError(f"the file {why}", where=str(out), next_step="name a new .safetensors file with --out")
    header = journal.header("attack", key)
    vectors = _tensors(journal, key, header, item)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        write_embedding(out, name, vectors)
    except OSError as error:
        raise SpecError(
            f"the file cannot be written: {error.strerror or error}",
            where=str(out),
            next_step="name another with --out",
        ) from None
    rows, width = vectors.shape
    return Exported(str(out), name, rows, width, key, concept, header["identity"]["model"])


def _unit(plan: Plan, which: EmbeddingChoice) -> tuple[str, str]:
    """Return (key, concept) of the one attack unit that is meant."""
    attacks = plan.units_of("attack")
    units = {u.key for u in attacks if isinstance(u.identity, AttackIdentity) and u.identity.method in METHODS}
    cells = {planned.cell.cell_id: planned.cell for planned in plan.cells}
    chosen: dict[str, list[str]] = {}
    concepts: dict[str, str] = {}
    pairs = zip(plan.cases["attack_key"].to_pylist(), plan.cases["cell_id"].to_pylist(), strict=True)
    for key, number in dict.fromkeys((key, cell) for key, cell in pairs if key in units):
        cell = cells[number]
        wanted = (which.concept, which.scenario, which.defence)
        # The subject: a class that was never learned has an embedding of its own, in cells of the concept.
        if all(w in (None, have) for w, have in zip(wanted, (cell.subject, cell.scenario, cell.defence), strict=True)):
            options = f"--concept {cell.subject} --scenario {cell.scenario} --defence {cell.defence}"
            chosen.setdefault(key, []).append(options)
            concepts[key] = cell.subject
    if len(chosen) == 1:
        (key,) = chosen
        return key, concepts[key]
    if not chosen:
        raise SpecError(
            "no embedding of this run is meant",
            where=f"run {plan.run_id}",
            next_step="leave --concept, --scenario and --defence out to see which it has",
        )
    raise SpecError(
        f"{len(chosen)} embeddings of this run are meant:\n" + "\n".join(f"  {names[0]}" for names in chosen.values()),
        where=f"run {plan.run_id}",
        next_step="add the options of one of these lines",
    )


def _tensors(journal: Journal, key: str, header: Document, item: str) -> torch.Tensor:
    rows = {row["item"]: row for row in journal.read("attack", key, ["item", "status", "error"]).to_pylist()}
    if item not in rows:
        raise SpecError(
            f"the attack has no item {item!r}", where=f"attack unit {key}", next_step=f"use one of: {', '.join(rows)}"
        )
    if rows[item]["status"] != "ok":
        raise JournalError(
            f"no embedding was found: {rows[item]['error']}",
            where=f"attack unit {key}",
            next_step="choose another with --item, or learn it again: erasure-audit resume RUN_ID",
        )
    return safetensors.torch.load(journal.blob_of("attack", key, header))[item]
