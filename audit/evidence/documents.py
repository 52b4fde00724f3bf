"""The documents of a bundle beside its tables: policy, plan, decisions, reports, and where it was sealed."""

from __future__ import annotations

import json
import platform
import sys
from collections.abc import Sequence
from pathlib import Path

from audit.errors import EvidenceError
from audit.evidence.decisions import encode_records, regression_of
from audit.evidence.redaction import Redaction
from audit.files import parse_json
from audit.report import html, json_report
from audit.storage.journal import Journal
from audit.storage.run_records import Record
from audit.verdict.results import RunResult


def documents(
    journal: Journal, run_id: str, records: Sequence[Record], record: Record, result: RunResult, redaction: Redaction
) -> dict[str, bytes]:
    """Return the files of the payload that are no tables, name -> bytes. Raises `EvidenceError` where one must not be written."""
    plan = parse_json(journal.get_run(run_id, "plan.json"))
    fields, regression = record.fields, regression_of(record)
    documents: dict[str, object] = {
        "policy.json": fields["policy"],
        "plan.json": redaction.value(plan),
        "spec.json": redaction.value(plan["spec"]),
        "provenance.json": redaction.value(parse_json(journal.get_run(run_id, "provenance.json"))),
        "verdict.json": {
            "run_id": run_id,
            "name": result.name,
            "decision": record.number,
            "decision_sha256": record.sha256,
            "decided_at": fields["at"],
            "decided_by": fields["by"],
            "attempt": fields["attempt"],
            "policy": fields["policy"]["version"],
            "policy_sha256": fields["policy_sha256"],
            **{name: fields["verdict"][name] for name in ("status", "reasons", "waivers")},
            **({"regression": regression} if regression else {}),
        },
        "decisions.json": _unspoken(encode_records(records), redaction),
        "checks.json": fields["verdict"]["checks"],
        "environment.json": _environment(),
    }
    encoded = {name: _json(document) for name, document in documents.items()}
    page = html.render(result, None).encode()
    return {**encoded, "report.html": page, "report.json": json_report.render(result).encode()}


def _unspoken(documents: list[dict[str, object]], redaction: Redaction) -> list[dict[str, object]]:
    """Return records as they are: redacting one breaks their chain. Raises `EvidenceError` where one would have to be."""
    if redaction.value(documents) != documents:
        raise EvidenceError(
            "a decision on record quotes a prompt of a sensitive concept, and a bundle must not hold one",
            next_step="name the concept in the spec by what may be said, then run the audit again",
        )
    return documents


def _environment() -> dict[str, object]:
    """Describe the machine where the bundle was sealed; those that computed units are in the rows and the provenance."""
    # Names of folders, because reading every package's metadata takes longer than sealing.
    folders = {found.stem for place in sys.path for found in Path(place or ".").glob("*.dist-info")}
    installed = dict(folder.rsplit("-", 1) for folder in folders if "-" in folder)
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": dict(sorted(installed.items(), key=lambda item: item[0].lower())),
    }


def _json(document: object) -> bytes:
    return (json.dumps(document, indent=1, sort_keys=True) + "\n").encode()
