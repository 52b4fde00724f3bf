"""What a server does between audits: publish, verify bundles, say what expires, report each month, remove old pictures."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from pathlib import Path

from prefect import flow, get_run_logger
from prefect.events import emit_event

from audit import locations
from audit import run as steps
from audit.compliance.document import read_month, read_systems
from audit.compliance.formats import folder_name, parse_formats, write
from audit.compliance.period import Month, parse_month
from audit.errors import EvidenceError, NotVerified, SpecError, StoreError
from audit.evidence.expiry import Expiring, expiring_labels, expiring_waivers
from audit.evidence.keys import load_private_key, load_public_key
from audit.evidence.lines import Answer
from audit.evidence.removal import Act
from audit.evidence.retention import Terms, apply_retention
from audit.evidence.verify import verify
from audit.index.series import newest_runs
from audit.plan.document import read_outline
from audit.provenance import operator
from audit.storage.journal import Journal
from tasks.progress import heard

EXPIRING = "erasure-audit.expiring"  # the event's name; `deployments/automations.yaml` waits for it


@flow(name="audit-publish", persist_result=False)
def publish(root: str | None = None, database: str | None = None) -> str:
    """Fold every run into the index and publish a copy; return its path. A damaged run is named and keeps no other out."""
    place = locations.storage_root(root)
    published, _ = _folded(steps.open_journal(place), place, database)
    return str(published)


def _folded(journal: Journal, place: str, database: str | None) -> tuple[Path, tuple[str, ...]]:
    """Fold and publish every run; return the copy and a sentence for each damaged run, which is logged too."""
    with heard():
        published, damaged = steps.consolidate_all(journal, locations.database_path(place, database))
    for run in damaged:
        get_run_logger().warning("left out of the index: %s", run)
    return published, damaged


@flow(name="audit-verify-evidence", persist_result=False)
def verify_evidence(bundles: str, keys: Sequence[str], root: str | None = None) -> int:
    """Verify every bundle below the folder `bundles` by the public `keys`; return their number.

    With `root`, each is compared with the journal there too. Raises `NotVerified` that names the bundles that do not hold.
    """
    folders = sorted(path.parent for path in Path(bundles).glob("*/bagit.txt"))
    if not folders:
        raise EvidenceError("there is no bundle", where=bundles, next_step="name the folder that holds the bundles")
    trusted = [load_public_key(Path(key)) for key in keys]
    journal = Journal(root) if root else None
    bad = []
    for folder in folders:
        with heard():
            verification = verify(folder, trusted, now=dt.datetime.now(dt.UTC), journal=journal)
        for line in verification.lines:
            if line.answer is Answer.WRONG:
                get_run_logger().error("%s: check %s: %s %s", folder.name, line.number, line.where or "", line.detail)
        bad += [] if verification.holds else [folder.name]
    if bad:
        raise NotVerified(f"{len(bad)} of {len(folders)} bundles do not verify: {', '.join(bad)}", where=bundles)
    return len(folders)


@flow(name="audit-expiry", persist_result=False)
def tell_expiry(
    root: str | None = None,
    database: str | None = None,
    waivers: str | None = None,
    keys: Sequence[str] = (),
    days: int = 14,
) -> list[str]:
    """Emit an event for everything that expires within `days`, and return a sentence for each.

    Looks at the labels behind the newest run of each system, and at the files `*.json` of the folder `waivers`.
    """
    now, within = dt.datetime.now(dt.UTC), dt.timedelta(days=days)
    place = locations.storage_root(root)
    journal = steps.open_journal(place)
    published, _ = _folded(journal, place, database)
    soon: list[Expiring] = []
    for run_id in newest_runs(published):
        policy = steps.stored_policy(read_outline(journal, run_id))
        soon += expiring_labels(journal, run_id, policy, now, within)
    if waivers:
        files = sorted(Path(waivers).glob("*.json"))
        soon += expiring_waivers(files, [load_public_key(Path(key)) for key in keys], now, within)
    sentences = list(dict.fromkeys(one.sentence(now.date()) for one in soon))
    for sentence in sentences:
        get_run_logger().warning("%s", sentence)
        resource = {"prefect.resource.id": f"erasure-audit.expiry.{sentence.split(':')[0].replace(' ', '-')}"}
        emit_event(event=EXPIRING, resource=resource, payload={"text": sentence})
    return sentences


@flow(name="audit-monthly-report", persist_result=False)
def monthly_report(
    root: str | None = None,
    database: str | None = None,
    month: str | None = None,
    systems: Sequence[str] = (),
    expected: str | None = None,
    waivers: str | None = None,
    keys: Sequence[str] = (),
    formats: str = "html,pdf,json",
) -> list[str]:
    """Report `month` (the one before this, if none is named) of each system below the root's reports; return the folders.

    Without `systems`, those of which runs started in the month or the one before. `expected` is the cron expression of the
    audits, UTC; waivers are the files `*.json` of the folder `waivers`. Raises `StoreError` that names the systems of which no
    run started in the month and the damaged runs, which no report can speak of, after the others are reported.
    """
    now = dt.datetime.now(dt.UTC).replace(microsecond=0)
    period = parse_month(month, now) if month else Month(now.year, now.month).before
    wanted, trusted = parse_formats(formats), [load_public_key(Path(key)) for key in keys]
    files = sorted(Path(waivers).glob("*.json")) if waivers else []
    place = locations.storage_root(root)
    published, damaged = _folded(steps.open_journal(place), place, database)
    audited = read_systems(published, period)
    asked = systems or sorted({*audited, *read_systems(published, period.before)})
    folders = []
    for system in asked:
        if system in audited:
            report = read_month(published, system, period, now, expected=expected, waiver_files=files, keys=trusted)
            folder = locations.report_folder(place, folder_name(system, period))
            write(report, folder, wanted)
            get_run_logger().info("%s: %s, %d exceptions: %s", system, report.status, len(report.exceptions), folder)
            folders.append(str(folder))
    absent = [repr(system[:60]) for system in asked if system not in audited]
    problems = [f"no run started in {period} of: {', '.join(absent)}"] if absent else []
    problems += [f"in no report, because it is damaged: {run}" for run in damaged]
    if problems:
        raise StoreError(
            "; ".join(problems),
            where=str(published),
            next_step="look for why; the other runs and systems are reported",
        )
    return folders


@flow(name="audit-retention", persist_result=False)
def retention(
    hits_after: int,
    clears_after: int,
    reason: str,
    key: str | None = None,
    root: str | None = None,
    database: str | None = None,
) -> int:
    """Remove every picture that is older than so many days, on record; return how many.

    `key` names the private key that signs the ledger's entries. Raises `SpecError` for days below zero, `NotVerified` when a
    run was left because it is not what is on record.
    """
    if min(hits_after, clears_after) < 0:
        raise SpecError("days are counted from 0", where="hits_after, clears_after", next_step="name 0 or more days")
    place = locations.storage_root(root)
    with heard():
        done = apply_retention(
            steps.open_journal(place),
            locations.database_path(place, database),
            Terms(hits_after, clears_after),
            Act(operator(), reason),
            lambda: dt.datetime.now(dt.UTC),
            load_private_key(Path(key)) if key else None,
        )
    for one in done.left:
        get_run_logger().warning("left: %s: %s", one.run_id, one.reason)
    get_run_logger().info("%s hits and %s clears removed", done.hits, done.clears)
    if done.changed:
        changed = ", ".join(one.run_id for one in done.left if one.changed)
        raise NotVerified(f"pictures of runs that are not what is on record were left: {changed}", where=place)
    return done.pictures
