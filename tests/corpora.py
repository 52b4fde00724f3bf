"""Small corpora of random pictures, and their manifests as tables, rows or refusals."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from audit.corpus import images, ingest
from audit.corpus.ingest import manifest
from audit.errors import CorpusError
from audit.spec.sections import CorpusEntry, CorpusLimits

LIMITS = CorpusLimits()


def png(seed: int, size: int = 8) -> bytes:
    return images.encode_png(np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8))


def entry(url: str | Path, concept: str = "ring", role: str = "target") -> CorpusEntry:
    return CorpusEntry.model_validate({"url": str(url), "concept": concept, "role": role})


def table(*entries: CorpusEntry, limits: CorpusLimits = LIMITS) -> pa.Table:
    return pa.Table.from_batches(manifest(entries, limits), schema=ingest.MANIFEST_SCHEMA)


def rows(*entries: CorpusEntry, limits: CorpusLimits = LIMITS) -> list[dict[str, object]]:
    return list(table(*entries, limits=limits).to_pylist())


def refusal(*entries: CorpusEntry) -> CorpusError:
    with pytest.raises(CorpusError) as caught:
        rows(*entries)
    assert caught.value.what
    assert caught.value.where
    assert caught.value.next_step
    return caught.value


def write_folder(root: Path) -> Path:
    """Five pictures in nested folders whose walk order differs from the order of their URIs."""
    for i, name in enumerate(["a/1.png", "a-/2.png", "a.png", "b/c/3.png", "ä €#?&+%20.png"]):
        path = root / "corpus" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(i))
    return root / "corpus"
