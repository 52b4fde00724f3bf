"""evidence export, purge and replay: what else can be done with a run's evidence."""

from __future__ import annotations

import datetime as dt
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from audit import locations
from audit.errors import EXIT_NOT_VERIFIED
from flows.commands import options
from flows.commands.evidence import app
from flows.commands.keys import Trusted, signing_key, trusted_keys
from flows.console import amount, emit_json, progress_bars, say, table

if TYPE_CHECKING:
    from audit.evidence.exports import Evidence
    from audit.evidence.replay import Hit, Replayed
    from audit.plan.document import Plan
    from audit.storage.journal import Journal

__all__ = ["app"]

RunOrBundle = Annotated[str, typer.Argument(help="Run id, or the folder of a bundle.")]


class ExportFormat(StrEnum):
    """The formats of other tools."""

    TEST_RESULT = "in-toto-test-result"
    SVR = "svr"
    OSCAL = "oscal"
    CYCLONEDX = "cyclonedx"


@app.command("export")
def export(
    source: RunOrBundle,
    output: Annotated[ExportFormat, typer.Option("--format", help="What to write.")],
    to: Annotated[Path, typer.Option("--to", help="The file to write; it must not exist.")],
    keys: Trusted = None,
    sign: Annotated[
        Path | None, typer.Option("--sign", help="Private key: an in-toto statement is written as a DSSE envelope.")
    ] = None,
    root: options.Root = None,
    database: options.Database = None,
    as_json: options.Json = False,
) -> int:
    """Write the verdict of a run or a bundle in a format of other tools.

    A bundle is verified first, by the keys that you trust. An SVR states what holds, and is made of PASS alone.
    """
    from audit.errors import SpecError
    from audit.evidence.exports import encode

    to = Path(os.path.expanduser(to))
    if sign is not None and output not in (ExportFormat.TEST_RESULT, ExportFormat.SVR):
        raise SpecError(
            f"{output.value} has no signature of its own", where="--sign", next_step="sign a bundle: evidence seal"
        )
    signer = signing_key(sign) if sign else None
    evidence = _evidence(source, keys, root, database)
    document = _writers()[output](evidence)
    data = encode(document)
    if signer is not None:
        from audit.evidence import dsse

        data = dsse.encode_envelope(dsse.sign_payload(dsse.STATEMENT_PAYLOAD, data, signer))
    _write_new(to, data)
    facts = {"file": str(to), "run": evidence.result.run_id, "verdict": evidence.status.value, "format": output.value}
    if as_json:
        emit_json(facts)
    else:
        print(f"{to}: {output.value} of run {evidence.result.run_id}, verdict {evidence.status.value}")
    return 0


def _writers() -> Mapping[ExportFormat, Callable[[Evidence], Mapping[str, object]]]:
    from audit.evidence.exports import test_result, verification_result
    from audit.evidence.exports_cyclonedx import bill_of_materials
    from audit.evidence.exports_oscal import assessment_results

    return {
        ExportFormat.TEST_RESULT: test_result,
        ExportFormat.SVR: verification_result,
        ExportFormat.OSCAL: assessment_results,
        ExportFormat.CYCLONEDX: bill_of_materials,
    }


def _evidence(source: str, keys: Sequence[Path] | None, root: str | None, database: str | None) -> Evidence:
    """Return what a bundle says, once it is verified, or else what a run says. Raises `NotVerified` for a bundle that fails."""
    from audit.evidence.exports import of_bundle, of_run

    folder = Path(os.path.expanduser(source))
    if folder.is_dir():
        _require_verified(folder, keys)
        return of_bundle(folder)
    from audit import run as steps
    from audit.index.integrity import require_intact
    from audit.plan.document import read_outline
    from audit.run import stored_policy
    from audit.storage.journal import Journal

    place = locations.storage_root(root)
    journal = Journal(place)
    require_intact(journal, source)
    policy = stored_policy(read_outline(journal, source))
    published = steps.consolidate(journal, source, locations.database_path(place, database))
    result = steps.conclude(journal, source, published)
    return of_run(journal, result, policy, dt.datetime.now(dt.UTC))


def _require_verified(folder: Path, keys: Sequence[Path] | None) -> None:
    from audit.errors import NotVerified, SpecError
    from audit.evidence.lines import Answer
    from audit.evidence.verify import verify

    if not keys:
        raise SpecError(
            "a bundle is exported when it is verified, and no key is trusted",
            where=str(folder),
            next_step="name the signer's public key with --key PUBLIC_KEY",
        )
    verification = verify(folder, trusted_keys(keys), now=dt.datetime.now(dt.UTC))
    wrong = [line for line in verification.lines if line.answer is Answer.WRONG]
    if wrong:
        raise NotVerified(
            f"the bundle does not verify: {wrong[0].detail}",
            where=wrong[0].where or str(folder),
            next_step="see all that is wrong: erasure-audit evidence verify BUNDLE --key PUBLIC_KEY",
        )


class Keep(StrEnum):
    """What a purge leaves."""

    DIGESTS = "digests"


@app.command("purge")
def purge(
    run: Annotated[str, typer.Argument(help="Run id, as `erasure-audit db runs` lists it.")],
    keep: Annotated[Keep, typer.Option("--keep", help="digests: rows, scores and digests stay, pixels go.")],
    reason: Annotated[str, typer.Option("--reason", help="Why; it stands in the ledger.")],
    key: Annotated[Path | None, typer.Option("--key", help="Private key that signs the ledger's entry.")] = None,
    yes: Annotated[
        bool, typer.Option("--yes", help="Remove them; without it, the command says what would go.")
    ] = False,
    root: options.Root = None,
    as_json: options.Json = False,
) -> int:
    """Remove the pixels of RUN from the journal, for ever; what was measured stays, and bundles still verify.

    Units that other runs planned too are left, and named.
    """
    from audit.errors import EXIT_USAGE
    from audit.evidence.purge import candidates
    from audit.evidence.purge import purge as remove
    from audit.evidence.removal import Act
    from audit.provenance import operator
    from audit.storage.journal import Journal

    def clock() -> dt.datetime:
        return dt.datetime.now(dt.UTC)

    journal = Journal(locations.storage_root(root))
    chosen = candidates(journal, run, clock())
    counts: dict[str, object] = {
        "run": run,
        "keep": keep.value,
        "units": len(chosen.units),
        "pictures": chosen.pictures,
        "shared": {unit: list(runs) for unit, runs in chosen.shared.items()},
    }
    if not yes:
        if as_json:
            emit_json({**counts, "purged": False})
        say(
            f"{chosen.pictures} pictures in {len(chosen.units)} units would go, and nothing brings them back; "
            f"{len(chosen.shared)} units are other runs' too and would stay. Remove them with --yes"
        )
        return EXIT_USAGE
    signer = signing_key(key) if key else None
    done = remove(journal, chosen, Act(operator(), reason), clock, signer)
    if as_json:
        emit_json(
            {**counts, "purged": True, "freed": done.freed, "record": done.record_sha256, "entry": done.entry.sha256}
        )
        return 0
    print(f"purged   {chosen.pictures} pictures of {len(chosen.units)} units, {amount(done.freed)}")
    print(f"record   {done.record_sha256}")
    print(f"ledger   entry {done.entry.number}, {done.entry.sha256}")
    for unit, runs in chosen.shared.items():
        print(f"left     generate unit {unit}: also of {', '.join(runs)}")
    return 0


def _write_new(file: Path, data: bytes) -> None:
    from audit.errors import EnvironmentProblem

    try:
        with file.open("xb") as stream:
            stream.write(data)
    except OSError as error:
        raise EnvironmentProblem(
            f"the file cannot be written: {error.strerror}", where=str(file), next_step="name a new file with --to"
        ) from None


@app.command("replay")
def replay(
    run: RunOrBundle,
    hits: Annotated[int, typer.Option("--hits", min=1, help="How many hits to draw again.")],
    seed: Annotated[int, typer.Option("--seed", help="Draws the sample: whoever checks names one.")] = 0,
    near_db: Annotated[
        float, typer.Option("--psnr-min", help="PSNR in dB from which on a picture is near the one on record.")
    ] = 35.0,
    keys: Trusted = None,
    root: options.Root = None,
    database: options.Database = None,
    device: options.Device = None,
    batch_size: options.BatchSize = None,
    as_json: options.Json = False,
) -> int:
    """Draw sampled hits of RUN once more on this machine: exact, near, differs or not replayable, each with the reason.

    Exit 5 unless every one is exact or near. Weights, embeddings, found prompts and latents are taken as journalled. The hits
    of a bundle, which is verified first, are compared as they were sealed.
    """
    from audit.evidence.replay import Result, sampled
    from audit.storage.journal import Journal

    place = locations.storage_root(root)
    journal = Journal(place)
    plan, on_record = _on_record(run, keys, journal, locations.database_path(place, database))
    chosen = sampled(on_record, hits, seed)
    replayed = _replayed(plan, journal, chosen, device, batch_size, near_db)
    if as_json:
        counts = Counter(one.result.value for one in replayed)
        emit_json({"run": plan.run_id, "seed": seed, "counts": counts, "hits": [one.as_row() for one in replayed]})
    elif replayed:
        rows = [one.as_row() for one in replayed]
        table([{name: row[name] for name in ("cell_id", "case_no", "result", "detail")} for row in rows])
    else:
        say("no hit is on record, so there is none to draw again")
    good = (Result.EXACT, Result.NEAR)
    return 0 if all(one.result in good for one in replayed) else EXIT_NOT_VERIFIED


def _on_record(source: str, keys: Sequence[Path] | None, journal: Journal, database: Path) -> tuple[Plan, list[Hit]]:
    """Return the plan of a run, and its hits as they are in the index, or in a bundle that verifies."""
    from audit import run as steps
    from audit.evidence.exports import of_bundle
    from audit.evidence.replay import hits_on_record, sealed_hits
    from audit.index.integrity import require_intact
    from audit.plan.document import read_plan

    folder = Path(os.path.expanduser(source))
    if folder.is_dir():
        _require_verified(folder, keys)
        sealed = of_bundle(folder)
        plan = read_plan(journal, sealed.result.run_id)
        return plan, sealed_hits(folder, plan, sealed.policy.judges)
    require_intact(journal, source)
    plan = read_plan(journal, source)
    published = steps.consolidate(journal, plan.run_id, database)
    return plan, hits_on_record(published, plan, plan.spec.gate.judges)


def _replayed(
    plan: Plan, journal: Journal, chosen: list[Hit], device: str | None, batch_size: int | None, near_db: float
) -> list[Replayed]:
    """Return the chosen hits, drawn again; all of them are not replayable where no worker can take the plan on."""
    from audit.errors import CheckpointError, EnvironmentProblem
    from audit.evidence.replay import Replayed, Result, replay

    if not chosen:
        return []
    from audit.compute.worker import Worker

    try:
        worker = Worker(plan, journal, device=device, batch_size=batch_size, kinds=("generate", "filter", "detect"))
    except (CheckpointError, EnvironmentProblem) as error:
        why = f"{error.what} ({error.where})" if error.where else error.what
        return [Replayed(hit, Result.NOT_REPLAYABLE, why) for hit in chosen]
    units = len({hit.unit_key for hit in chosen})
    with progress_bars() as reporter:
        reporter.begin("replay", units, 0)
        replayed = replay(
            plan, journal, worker, chosen, plan.spec.gate.judges, near_db=near_db,
            progress=lambda done: reporter.update("replay", done),
        )  # fmt: skip
        reporter.end("replay")
    return replayed
