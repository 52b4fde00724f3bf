"""Whether a corpus manifest can carry a verdict, asked before anything is computed from it."""

from __future__ import annotations

import pyarrow as pa

from audit import expectations
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
