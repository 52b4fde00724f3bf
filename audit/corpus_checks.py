"""Whether a corpus manifest can carry a verdict, asked before anything is computed from it."""

from __future__ import annotations

import logging

import pyarrow as pa

from audit import expectations
from audit.errors import CorpusError
from audit.results import CheckResult

log = logging.getLogger(__name__)


def manifest_problems(manifest: pa.Table) -> list[str]:
    """Sentences about every data check that a manifest (`audit.corpus.MANIFEST_SCHEMA`) does not pass; [] without rows.

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
