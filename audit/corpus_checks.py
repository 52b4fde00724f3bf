"""Whether a corpus manifest can carry a verdict, asked before anything is computed from it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pyarrow as pa

from audit import expectations, identity
from audit.errors import CorpusError


def manifest_problems(manifest: pa.Table) -> list[str]:
    """Sentences about every data check that a manifest (`audit.corpus.MANIFEST_SCHEMA`) does not pass; [] without rows.

    These are the checks that the verdict waits for: one that fails makes every run of this corpus INCONCLUSIVE. A few
    objects that cannot be read are within tolerance. Importing Great Expectations takes longer than the checks; without
    rows, as in a spec without a corpus, it is not imported.
    """
    if not manifest.num_rows:
        return []
    found = expectations.check_manifest(manifest.to_pandas())
    return [f"{check.name}: {check.detail}" for check in found if check.status != "passed"]


def require_conclusive(manifest: pa.Table) -> None:
    """Return when a run of this corpus can end in PASS or FAIL. Raises `CorpusError` that names what is wrong."""
    problems = manifest_problems(manifest)
    if problems:
        raise CorpusError(
            "a run with this corpus could only end INCONCLUSIVE, because its manifest does not pass:\n"
            + "\n".join(f"  - {problem}" for problem in problems),
            where="corpus",
            next_step="see which objects are at fault: erasure-audit corpus manifest URL; then mend, move or remove them",
        )


def require_disjoint(calibration: Iterable[pa.RecordBatch], audited: Iterable[pa.RecordBatch]) -> dict[str, Any]:
    """Object counts and digests of the manifests of both splits, under `calibration` and `corpus`.

    Raises `CorpusError` when one picture, by its pixels, is in both.
    """
    found = {}
    for name, batches in (("calibration", calibration), ("corpus", audited)):
        pixels: dict[str, str] = {}
        rows = 0
        for batch in batches:
            rows += batch.num_rows
            for row in batch.select(["uri", "pixel_sha256"]).to_pylist():
                if row["pixel_sha256"]:
                    pixels.setdefault(row["pixel_sha256"], row["uri"])
        found[name] = (rows, pixels)
    shared = sorted(found["calibration"][1].keys() & found["corpus"][1].keys())
    if shared:
        raise CorpusError(
            f"{len(shared)} pictures are in the calibration split and in the audit's corpus, first "
            f"{found['calibration'][1][shared[0]]}: tuned on them, the audit would prove nothing",
            where="calibration",
            next_step="take these pictures out of one of the two sections",
        )
    return {
        name: {"objects": rows, "pictures": len(pixels), "sha256": identity.key(sorted(pixels))}
        for name, (rows, pixels) in found.items()
    }
