"""A learned embedding that the spec brings as a file: it is read, not searched for, and stored as a learned one is."""

from __future__ import annotations

from pathlib import Path

from audit import identity
from audit.attacks.embedding_files import check_embedding
from audit.attacks.protocol import Found, Row, Search
from audit.errors import CheckpointError
from audit.records import Status
from audit.spec.scenarios import EmbeddingScenario

NAME = "embedding-file"
VERSION = "1"


def run(search: Search) -> Found:
    """Return the file's vectors (n, D) under every item of the unit.

    Raises `CheckpointError` when the file is no longer the planned one, `SpecError` when it cannot be used.
    """
    path = _planned(search)
    embedding = check_embedding(path, search.models.ref)
    rows = [
        Row(item, Status.OK, report={"token": embedding.token, "vectors": len(embedding.vectors), "summary": "a file"})
        for item in search.items
    ]
    return Found(rows, dict.fromkeys(search.items, embedding.vectors))


def _planned(search: Search) -> Path:
    spec = search.models.spec
    scenarios = spec.scenarios if spec is not None else ()
    named = [path for s in scenarios if isinstance(s, EmbeddingScenario) for path in s.files().values()]
    for path in named:
        if Path(path).is_file() and identity.file_sha256(Path(path)) == search.parameters["sha256"]:
            return Path(path)
    raise CheckpointError(
        "the embedding file has changed since this run was planned",
        where=", ".join(named) or "scenarios",
        next_step="restore the file, or start a new run: erasure-audit run SPEC",
    )
