"""The manifest of an exported folder: each file with its rows, size and SHA-256."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
from collections.abc import Sequence
from pathlib import Path

from audit.files import Document
from audit.identity import file_sha256

MANIFEST = "manifest.json"


@dataclasses.dataclass(frozen=True)
class ExportedFile:
    """One exported file; `path` is relative to the folder."""

    table: str
    path: str
    rows: int
    bytes: int
    sha256: str


def exported(folder: Path, table: str, path: str, rows: int) -> ExportedFile:
    """Return a written file with its size and digest."""
    return ExportedFile(table, path, rows, (folder / path).stat().st_size, file_sha256(folder / path))


def write_manifest(folder: Path, files: Sequence[ExportedFile], facts: Document) -> Document:
    """Write the manifest of `files` with what else is true of them, without a time, and return it."""
    document = {
        "tool": f"erasure-audit {importlib.metadata.version('erasure-audit')}",
        **facts,
        "files": [dataclasses.asdict(file) for file in files],
    }
    (folder / MANIFEST).write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return document
