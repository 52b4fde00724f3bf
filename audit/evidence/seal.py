"""Seal a run: everything that its verdict stands on, in one signed folder, without pixels."""

from __future__ import annotations

import dataclasses
import datetime as dt
import hashlib
import importlib.metadata
import importlib.resources
import io
import json
import platform
import shutil
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from audit import identity
from audit.corpus.manifest import read_stored_manifest
from audit.errors import EnvironmentProblem, EvidenceError
from audit.evidence import dsse
from audit.evidence.bag import ATTESTATIONS, TAG_MANIFEST, write_bag
from audit.evidence.derive import derive, differences
from audit.evidence.keys import PrivateKey, moment, stamp
from audit.evidence.redaction import Redaction, redaction_of
from audit.evidence.rows import build_index, encode_rows, outcomes_from_scores, read_rows
from audit.evidence.units import RunUnits, encode_units, unit_files, units_root
from audit.files import parse_json
from audit.index.queries import open_published, require_run
from audit.plan.document import read_outline
from audit.report import html, json_report
from audit.spec.policy import Policy
from audit.storage.journal import Journal
from audit.verdict.results import RunResult, Verdict

FORMAT = 1  # of a bundle; raised when a field is renamed, removed or changes its meaning
VERDICT = f"{ATTESTATIONS}/verdict.dsse.json"
PREDICATE = "verdict/v1"


@dataclasses.dataclass(frozen=True)
class Decision:
    """The decision that is sealed."""

    policy: Policy
    verdict: Verdict
    decided_at: dt.datetime


@dataclasses.dataclass(frozen=True)
class Sealed:
    """A bundle that was written."""

    folder: Path
    tag_manifest_sha256: str
    units: int
    bytes: int


def policy_sha256(policy: Policy) -> str:
    """Return the digest by which a policy is known: over its fields, however they are written."""
    return identity.key(policy.model_dump(mode="json"))


def seal(
    journal: Journal, run_id: str, published: Path, decision: Decision, key: PrivateKey, folder: Path, now: dt.datetime
) -> Sealed:
    """Write the bundle of a run to a new folder, from its journal and a published index that holds it.

    Raises `EvidenceError` when the folder is there already, a clock runs backwards, or the rows do not give the decision
    that is to be sealed; `KeyProblem` for an expired key. Nothing is left of an unfinished bundle.
    """
    key.require_valid(now)
    outline = read_outline(journal, run_id)
    planned_at = moment(outline.created_at)
    _require_order(planned_at, decision.decided_at, now)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise EvidenceError("a bundle is written to a new folder, and there is one", where=str(folder))
    manifest = read_stored_manifest(journal, run_id, outline.corpus_sha256)
    with tempfile.TemporaryDirectory(prefix="erasure-audit-") as name:
        index = Path(name) / "rows.duckdb"
        redaction, rows = _rows(published, run_id, index)
        planned = _is_planned(outline.policy, decision.policy)
        # Great Expectations has just said what it says of these rows; a verifier asks it again.
        frames = [check for check in decision.verdict.checks if check.source != "sql"]
        result = derive(index, run_id, manifest, decision.policy, planned=planned, frames=frames)
    _require_same(decision.verdict, result.verdict)
    units = unit_files(journal, run_id, planned_at)
    lines = encode_units(units.files)
    payload = {f"rows/{table}.parquet": encode_rows(content) for table, content in rows.items()}
    payload |= _documents(journal, run_id, decision, result, redaction)
    payload |= {"manifest.parquet": _parquet(manifest), "units.jsonl": lines}
    facts = _facts(outline.created_at, decision, result, units, units_root(lines), now) | {
        f"{name}_sha256": hashlib.sha256(journal.get_run(run_id, file)).hexdigest()
        for name, file in (("plan", "plan.json"), ("cases", "cases.parquet"), ("spec", "spec.yaml"))
        if name != "spec" or _has(journal, run_id, file)
    }
    return _write(folder, run_id, payload, facts, key, now)


def _require_order(planned_at: dt.datetime, decided_at: dt.datetime, now: dt.datetime) -> None:
    for earlier, what, later, then in (
        (planned_at, "the run was planned", decided_at, "it was decided"),
        (decided_at, "it was decided", now, "now"),
    ):
        if earlier > later:
            raise EvidenceError(
                f"a clock runs backwards: {what} at {stamp(earlier)}, and {then} is {stamp(later)}",
                next_step="set this machine's clock, then run the command again",
            )


def _rows(published: Path, run_id: str, index: Path) -> tuple[Redaction, dict[str, pa.Table]]:
    """Return what must not be said, and the rows without it, from which `index` is made."""
    con = open_published(published)
    try:
        require_run(con, run_id, published)
        run_key = identity.int_key(run_id)
        redaction = redaction_of(con, run_key)
        rows = read_rows(con, run_key, redaction)
    finally:
        con.close()
    build_index(rows, index)
    outcomes, difference = outcomes_from_scores(index, run_key)
    if difference:
        raise EvidenceError(
            f"the index does not say what its own scores do: {difference}",
            where=str(published),
            next_step="make it anew with: erasure-audit db rebuild",
        )
    return redaction, {**rows, "outcomes": outcomes}


def _is_planned(stored: object, policy: Policy) -> bool:
    """Whether a policy is the one that a run was planned under."""
    try:
        return Policy.model_validate(stored) == policy
    except ValueError:
        return False


def _require_same(decided: Verdict, derived: Verdict) -> None:
    stored = json_report.plain(dataclasses.replace(decided, checks=()))
    found = next(differences(stored, json_report.plain(dataclasses.replace(derived, checks=()))), None)
    if found:
        raise EvidenceError(
            f"the rows do not give the decision that is to be sealed: {found.replace('in the bundle', 'on record')}",
            next_step="decide it anew from what is stored now: erasure-audit gate RUN_ID",
        )


def _documents(
    journal: Journal, run_id: str, decision: Decision, result: RunResult, redaction: Redaction
) -> dict[str, bytes]:
    verdict = json_report.plain(result.verdict)
    summary = {name: verdict[name] for name in ("status", "reasons", "waivers")}
    described = {
        "run_id": run_id,
        "name": result.name,
        "policy": decision.policy.version,
        "policy_sha256": policy_sha256(decision.policy),
        "decided_at": stamp(decision.decided_at),
        **summary,
    }
    documents: dict[str, Any] = {
        "policy.json": decision.policy.model_dump(mode="json"),
        "plan.json": redaction.value(parse_json(journal.get_run(run_id, "plan.json"))),
        "spec.json": redaction.value(parse_json(journal.get_run(run_id, "plan.json"))["spec"]),
        "provenance.json": redaction.value(parse_json(journal.get_run(run_id, "provenance.json"))),
        "verdict.json": described,
        "decisions.json": {name: verdict[name] for name in ("decisions", "retention", "damage", "controls")},
        "checks.json": verdict["checks"],
        "waivers.json": [],
        "environment.json": _environment(),
    }
    encoded = {name: _json(document) for name, document in documents.items()}
    page = html.render(result, None).encode()
    return {**encoded, "report.html": page, "report.json": json_report.render(result).encode()}


def _facts(
    created_at: str, decision: Decision, result: RunResult, units: RunUnits, root: str, now: dt.datetime
) -> dict[str, Any]:
    """What the signer says beside the digests."""
    computed = [file for file in units.files if file.sha256]
    # A copied journal's files have the time of the copy, which says nothing about the run.
    first = units.first_at if units.first_at and units.first_at <= decision.decided_at else None
    return {
        "format": FORMAT,
        "tool": f"erasure-audit {_version()}",
        "run_id": result.run_id,
        "status": result.verdict.status.value,
        "policy": decision.policy.version,
        "policy_sha256": policy_sha256(decision.policy),
        "planned_at": stamp(moment(created_at)),
        "first_unit_at": stamp(first) if first else None,
        "decided_at": stamp(decision.decided_at),
        "sealed_at": stamp(now),
        "units": {
            "planned": len(units.files),
            "computed": len(computed),
            "older_than_the_plan": units.older,
            "merkle_root": root,
        },
        "subjects": _models(result, units),
    }


def _models(result: RunResult, units: RunUnits) -> dict[str, str]:
    """Name -> SHA-256 of each file of the backbone, and of the weights that each eraser made or took."""
    backbone = result.provenance.get("backbone") or {}
    files = {f"backbone/{name}": digest for name, digest in sorted((backbone.get("files") or {}).items())}
    if not files and backbone.get("sha256"):
        files = {"backbone": backbone["sha256"]}
    erased = {f"erased/{f.key}": f.blob_sha256 for f in units.files if f.kind == "erase" and f.blob_sha256}
    return {**files, **erased}


def _write(
    folder: Path, run_id: str, payload: Mapping[str, bytes], facts: Mapping[str, Any], key: PrivateKey, now: dt.datetime
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
        unfinished.rename(folder)
    except OSError as error:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise EnvironmentProblem(
            f"the bundle cannot be written: {error.strerror or error}",
            where=str(folder),
            next_step="make room or name a folder that can be written, then run the same command again",
        ) from None
    return Sealed(folder, digest, facts["units"]["planned"], sum(map(len, payload.values())))


def _has(journal: Journal, run_id: str, name: str) -> bool:
    return journal.store.exists(f"runs/{run_id}/{name}")


def _environment() -> dict[str, Any]:
    """What is installed where the bundle was sealed; where units were computed is in the rows and the provenance."""
    # Names of folders, because reading every package's metadata takes longer than sealing.
    folders = {found.stem for place in sys.path for found in Path(place or ".").glob("*.dist-info")}
    installed = dict(folder.rsplit("-", 1) for folder in folders if "-" in folder)
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": dict(sorted(installed.items(), key=lambda item: item[0].lower())),
    }


def _version() -> str:
    try:
        return importlib.metadata.version("erasure-audit")
    except importlib.metadata.PackageNotFoundError:
        return "of unknown version"


def _json(document: Any) -> bytes:
    return (json.dumps(document, indent=1, sort_keys=True) + "\n").encode()


def _parquet(table: pa.Table) -> bytes:
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd")
    return sink.getvalue()
