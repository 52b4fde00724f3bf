"""Seal a run: everything that its verdict stands on, in one signed folder, without pixels."""

from __future__ import annotations

import dataclasses
import datetime as dt
import importlib.metadata
import importlib.resources
import io
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from audit.corpus.manifest import read_stored_manifest
from audit.errors import AuditError, EnvironmentProblem, EvidenceError
from audit.evidence import dsse
from audit.evidence.bag import ATTESTATIONS, TAG_MANIFEST, write_bag
from audit.evidence.calibration import label_rows
from audit.evidence.documents import documents
from audit.evidence.keys import PrivateKey, moment, stamp
from audit.evidence.rows import encode_rows
from audit.evidence.sealed_decision import decide_again
from audit.evidence.sealed_registration import registration_files
from audit.evidence.sealed_waivers import listed, waiver_files
from audit.evidence.units import RunUnits, encode_units, replacements, sealed_units, units_root
from audit.files import Document
from audit.index.integrity import require_intact
from audit.plan.document import read_outline
from audit.progress.steps import counted
from audit.storage.journal import Journal
from audit.storage.run_records import DECISIONS, Record, read_records
from audit.verdict.record import policy_sha256
from audit.verdict.results import RunResult

FORMAT = 1  # of a bundle; raised when a field is renamed, removed or changes its meaning
VERDICT = f"{ATTESTATIONS}/verdict.dsse.json"
VERDICT_TIME = f"{ATTESTATIONS}/verdict.tsr"  # RFC 3161, over the file of the envelope
PREDICATE = "verdict/v1"
TimeStamp = Callable[[bytes], bytes]


@dataclasses.dataclass(frozen=True)
class Sealed:
    """A bundle that was written."""

    folder: Path
    status: str  # the verdict
    tag_manifest_sha256: str
    units: int
    bytes: int


def seal(
    journal: Journal,
    run_id: str,
    published: Path,
    key: PrivateKey,
    folder: Path,
    now: dt.datetime,
    number: int | None = None,
    time_stamp: TimeStamp | None = None,
    waivers: Sequence[Path] = (),
) -> Sealed:
    """Write the bundle of a run to a new folder, from its journal and a published index that holds it.

    It is about the newest decision on record, or about decision `number`, and holds the others too. `time_stamp` returns an
    authority's word on the signed envelope; what it raises leaves no bundle. `waivers` are files of them. Raises `EvidenceError`
    when nothing is decided, the folder is there already, a clock runs backwards, or the rows do not give the decision any
    more; `RecordChanged` for a journal that is not what its record says; `KeyProblem` for an expired key. Nothing is left
    of an unfinished bundle.
    """
    key.require_valid(now)
    outline = read_outline(journal, run_id)
    records = read_records(journal, run_id, DECISIONS)
    record = _chosen(run_id, records, number)
    planned_at = moment(outline.created_at)
    _require_order(planned_at, moment(record.fields["at"]), now)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise EvidenceError("a bundle is written to a new folder, and there is one", where=str(folder))
    on_file = require_intact(journal, run_id)
    manifest = read_stored_manifest(journal, run_id, outline.corpus_sha256)
    decided = decide_again(published, run_id, outline.policy, manifest, record)
    policy, redaction, result = decided.policy, decided.redaction, decided.result
    units = sealed_units(journal, run_id, on_file.units, planned_at)
    with ThreadPoolExecutor() as pool:
        encoded = zip(decided.rows, pool.map(encode_rows, decided.rows.values()), strict=True)
        tables = counted(encoded, "seal", len(decided.rows), "tables")
        payload = {f"rows/{table}.parquet": data for table, data in tables}
    payload |= documents(journal, run_id, records, record, result, redaction)
    waived = waiver_files(waivers, run_id, policy_sha256(policy), on_file.files.get("plan.json"), redaction)
    payload |= waived | {"waivers.json": (json.dumps(listed(waived), indent=1) + "\n").encode()}
    payload |= registration_files(journal, run_id, policy_sha256(policy), planned_at)
    payload |= {"manifest.parquet": _parquet(manifest), "units.jsonl": encode_units(units.files)}
    if calibrations := decided.basis.calibrations:
        payload["calibration/labels.parquet"] = encode_rows(label_rows(journal, calibrations))
    facts = _facts(outline.created_at, record, result, units) | {
        "policy_sha256": policy_sha256(policy),
        "sealed_at": stamp(now),
        "run_files": dict(sorted(on_file.files.items())),
        "put_on_record_anew": redaction.value(replacements(journal, run_id)),
        "subjects": _models(journal, result, units),
    }
    return _write(folder, run_id, payload, facts, key, now, time_stamp)


def _chosen(run_id: str, records: Sequence[Record], number: int | None) -> Record:
    if not records:
        raise EvidenceError(
            "no decision on this run is on record",
            where=f"run {run_id}",
            next_step=f"decide it first: erasure-audit gate {run_id}",
        )
    if number is None:
        return records[-1]
    if not 1 <= number <= len(records):
        raise EvidenceError(f"there is no decision {number}: {len(records)} are on record", where=f"run {run_id}")
    return records[number - 1]


def _require_order(planned_at: dt.datetime, decided_at: dt.datetime, now: dt.datetime) -> None:
    for earlier, what, later, then in (
        (planned_at, "the run was planned", decided_at, "it was decided"),
        (decided_at, "it was decided", now, "now"),
    ):
        if earlier.replace(microsecond=0) > later:
            raise EvidenceError(
                f"a clock runs backwards: {what} at {stamp(earlier)}, and {then} is {stamp(later)}",
                next_step="set this machine's clock, then run the command again",
            )


def _facts(created_at: str, record: Record, result: RunResult, units: RunUnits) -> dict[str, object]:
    """Return the facts that the signer states beside the digests."""
    decided_at = moment(record.fields["at"])
    # A copied journal's files have the time of the copy, which says nothing about the run.
    first = units.first_at if units.first_at and units.first_at <= decided_at else None
    return {
        "format": FORMAT,
        "tool": tool(),
        "run_id": result.run_id,
        "status": result.verdict.status.value,
        "policy": record.fields["policy"]["version"],
        "decision": record.number,
        "decision_sha256": record.sha256,
        "planned_at": stamp(moment(created_at)),
        "first_unit_at": stamp(first) if first else None,
        "decided_at": stamp(decided_at),
        "units": {
            "planned": len(units.files),
            "computed": sum(file.sha256 is not None for file in units.files),
            "older_than_the_plan": units.older,
            "merkle_root": units_root(encode_units(units.files)),
        },
    }


def _models(journal: Journal, result: RunResult, units: RunUnits) -> dict[str, str]:
    """Return name -> SHA-256 of each file of the backbone, and of the weights that each eraser made or took."""
    backbone = result.provenance.get("backbone") or {}
    files = {f"backbone/{name}": str(digest) for name, digest in sorted((backbone.get("files") or {}).items())}
    if not files and backbone.get("sha256"):
        files = {"backbone": str(backbone["sha256"])}
    for file in units.files:
        if file.kind == "erase" and file.sha256:
            header = journal.header("erase", file.key)
            digest = file.blob_sha256 or header.get("identity", {}).get("checkpoint")
            files |= {f"erased/{file.key}": str(digest)} if digest else {}
    return files


def _write(
    folder: Path,
    run_id: str,
    payload: Mapping[str, bytes],
    facts: Document,
    key: PrivateKey,
    now: dt.datetime,
    time_stamp: TimeStamp | None,
) -> Sealed:
    unfinished = folder.with_name(f".{folder.name}.partial")
    info = {
        "Bagging-Date": f"{now.astimezone(dt.UTC):%Y-%m-%d}",
        "External-Identifier": run_id,
        "Model": str(next(iter(facts["subjects"].items()), ("none", ""))[1]),
        "Policy": f"{facts['policy']} {facts['policy_sha256']}",
        "Verdict": facts["status"],
        "Bag-Software-Agent": facts["tool"],
        "Erasure-Audit-Bundle-Format": str(FORMAT),
    }
    notice = importlib.resources.files("audit.evidence").joinpath("VERIFY.txt").read_bytes()
    try:
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
        digest = write_bag(unfinished, payload, info, {"VERIFY.txt": notice})
        predicate = {name: value for name, value in facts.items() if name != "subjects"}
        statement = dsse.statement({TAG_MANIFEST: digest, **facts["subjects"]}, PREDICATE, predicate)
        envelope = dsse.encode_envelope(dsse.sign_payload(dsse.STATEMENT_PAYLOAD, statement, key))
        (unfinished / VERDICT).parent.mkdir()
        (unfinished / VERDICT).write_bytes(envelope)
        if time_stamp is not None:
            (unfinished / VERDICT_TIME).write_bytes(time_stamp(envelope))
        unfinished.rename(folder)
    except AuditError:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise
    except OSError as error:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise EnvironmentProblem(
            f"the bundle cannot be written: {error.strerror or error}",
            where=str(folder),
            next_step="make room or name a folder that can be written, then run the same command again",
        ) from None
    return Sealed(folder, facts["status"], digest, facts["units"]["planned"], sum(map(len, payload.values())))


def tool() -> str:
    """Return this tool's name and version."""
    try:
        return f"erasure-audit {importlib.metadata.version('erasure-audit')}"
    except importlib.metadata.PackageNotFoundError:
        return "erasure-audit of unknown version"


def _parquet(table: pa.Table) -> bytes:
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd")
    return sink.getvalue()
