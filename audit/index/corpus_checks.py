"""Check that a corpus manifest can carry a verdict, before anything is computed from it."""

from __future__ import annotations

import logging
from collections.abc import Iterable

import pyarrow as pa

from audit import identity
from audit.errors import CorpusError
from audit.index import expectations
from audit.verdict.decisions import CheckResult

log = logging.getLogger(__name__)


def manifest_problems(manifest: pa.Table) -> list[str]:
    """Return a sentence for every check that a manifest (`audit.corpus.ingest.MANIFEST_SCHEMA`) does not pass.

    These are the checks that the verdict waits for: one that fails makes every run of this corpus INCONCLUSIVE. A few
    objects that cannot be read are within tolerance. Importing Great Expectations takes longer than the checks; without
    rows, as in a spec without a corpus, it is not imported.
    """
    return [_sentence(check) for check in _not_passed(manifest)]


def require_sound(manifest: pa.Table) -> None:
    """Return when a run of this corpus is worth its compute, and warn where it can only end INCONCLUSIVE all the same.

    Objects that cannot be read, however many, cost their own cases: the run goes on, and its verdict names the check.
    Raises `CorpusError` when not one object can be read, and for what is wrong with the corpus as a whole.
    """
    found = _not_passed(manifest)
    by_object = [check for check in found if expectations.about_readability(check.name)]
    readable = manifest["error"].null_count > 0
    if found and (len(by_object) < len(found) or not readable):
        raise CorpusError(
            "a run with this corpus could only end INCONCLUSIVE, because its manifest does not pass:\n"
            + "\n".join(f"  - {_sentence(check)}" for check in found),
            where="corpus",
            next_step="see which objects are at fault: erasure-audit corpus manifest URL; then mend, move or remove them",
        )
    for check in by_object:
        log.warning(
            "the verdict can only be INCONCLUSIVE, because the corpus manifest does not pass: %s; "
            "erasure-audit corpus manifest URL says which objects are at fault", _sentence(check),
        )  # fmt: skip


def _not_passed(manifest: pa.Table) -> list[CheckResult]:
    if not manifest.num_rows:
        return []
    return [check for check in expectations.check_manifest(manifest.to_pandas()) if check.status != "passed"]


def _sentence(check: CheckResult) -> str:
    return f"{check.name}: {check.detail}"


def require_disjoint(calibration: Iterable[pa.RecordBatch], audited: Iterable[pa.RecordBatch]) -> dict[str, object]:
    """Return object counts and digests of the manifests of both splits, under `calibration` and `corpus`.

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
