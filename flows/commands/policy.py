"""policy: register what will count before the audit begins, in a ledger that only grows."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from audit import locations
from flows.commands import options
from flows.commands.keys import Trusted, signing_key, trusted_keys
from flows.console import emit_json, progress_bars, say, table

if TYPE_CHECKING:
    from audit.evidence.ledger import Entry
    from audit.evidence.registration import Criteria
    from audit.storage.objects import ObjectStore

app = typer.Typer(help="Register a policy before the audit that it decides.", no_args_is_help=True)

SpecFile = Annotated[Path, typer.Argument(help="YAML file that says what will be audited.")]
Key = Annotated[Path, typer.Option("--key", help="Private key of who registers.")]
By = Annotated[str, typer.Option("--as", help="Name of who registers; it stands beside the key's id.")]
Head = Annotated[
    str | None, typer.Option("--head", help="SHA-256 of an entry that you noted; the ledger must hold it.")
]


@app.callback()
def _group() -> None:
    """Register a policy before the audit that it decides."""


@app.command("register")
def register(spec: SpecFile, key: Key, by: By = "", root: options.Root = None, as_json: options.Json = False) -> None:
    """Sign the policy of SPEC, with the digests of its corpus and its model, into the ledger of the storage root."""
    from audit.evidence import registration

    signer = signing_key(key)
    store = _store(root)
    entry = registration.register(store, _criteria(spec), signer, by, lambda: dt.datetime.now(dt.UTC))
    row = _row(entry)
    if as_json:
        emit_json(row)
        return
    for name, value in row.items():
        print(f"{name:<10} {value}")
    say(
        f"note the last digest: erasure-audit policy verify --head {entry.sha256} shows that nothing before it was changed"
    )


@app.command("list")
def entries(root: options.Root = None, as_json: options.Json = False) -> None:
    """List the ledger of the storage root, oldest entry first."""
    from audit.evidence.ledger import read_entries

    store = _store(root)
    rows = [_row(entry) for entry in read_entries(store)]
    if as_json:
        emit_json(rows)
    elif rows:
        table(rows)
    else:
        say(f"no ledger in {store.root}; begin one with: erasure-audit policy register SPEC --key KEY")


@app.command("verify")
def verify(keys: Trusted = None, head: Head = None, root: options.Root = None, as_json: options.Json = False) -> int:
    """Check the chain of the ledger, and with --key its signatures; exit 5 when anything is wrong, and name the entry."""
    from audit.errors import EXIT_NOT_VERIFIED, JournalError
    from audit.evidence.ledger import FOLDER, check_chain, parse_entry, raw_entries
    from audit.evidence.registration import check_signatures, not_as_noted
    from audit.storage.journal import Journal

    store = _store(root)
    raw = raw_entries(store)
    problems = [*check_chain(raw, head), *not_as_noted(Journal(store.root), raw)]
    if not raw and not problems:
        raise JournalError(
            "there is no ledger below this storage root",
            where=store.url(FOLDER),
            next_step="name the root of the ledger with --root, or begin one: erasure-audit policy register SPEC --key KEY",
        )
    unsigned: list[str] = []
    if keys and not problems:
        problems, unsigned = check_signatures(
            [parse_entry(data) for _, data in sorted(raw.items())], trusted_keys(keys)
        )
    unchecked = [] if head else ["whether the end of the ledger was cut off: name a digest that you noted with --head"]
    if not keys:
        unchecked.append("the signatures: name the public keys that you trust with --key")
    unchecked += [f"{name}: nobody signed it" for name in unsigned]
    if as_json:
        emit_json({"entries": len(raw), "problems": problems, "not_checked": unchecked})
    else:
        for line in (
            *(f"WRONG        {problem}" for problem in problems),
            *(f"NOT CHECKED  {one}" for one in unchecked),
        ):
            print(line)
        if not problems:
            print(f"HOLDS        {len(raw)} entries, each the one that follows the one before")
    return EXIT_NOT_VERIFIED if problems else 0


def _store(root: str | None) -> ObjectStore:
    from audit.storage.objects import ObjectStore

    return ObjectStore(locations.storage_root(root))


def _row(entry: Entry) -> dict[str, object]:
    predicate = entry.predicate
    by = predicate.get("registered_by") or predicate.get("purged_by")
    about = predicate.get("run_id") or predicate.get("spec")
    return {
        "number": entry.number,
        "at": entry.at,
        "kind": entry.kind,
        "about": about,
        "policy": predicate.get("policy_sha256"),
        "attempt": predicate.get("attempt"),
        "by": (by.get("name") or by.get("keyid")) if isinstance(by, dict) else None,
        "sha256": entry.sha256,
    }


def _criteria(path: Path) -> Criteria:
    """Return what a registration of a spec fixes. Raises the `AuditError` that would stop a run of it."""
    import pyarrow as pa

    from audit.corpus import ingest
    from audit.corpus.manifest import manifest_sha256
    from audit.evidence.ledger import Json
    from audit.evidence.registration import Criteria
    from audit.plan.pictures import listed_pictures
    from audit.plan.resolve import resolve
    from audit.spec.document import load_spec

    spec = load_spec(path)
    with progress_bars() as reporter:
        reporter.begin("collect", None, 0)
        batches = list(
            ingest.manifest(spec.corpus, spec.corpus_limits, progress=lambda n: reporter.update("collect", n))
            if spec.corpus
            else ()
        )
        reporter.end("collect")
    resolved = resolve(spec, listed_pictures(spec, pa.Table.from_batches(batches, schema=ingest.MANIFEST_SCHEMA)))
    resolved.require_complete()
    checkpoints = {name: found.sha256 for name, found in resolved.checkpoints.items()}
    defences = [defence.model_dump(mode="json", exclude={"name"}) for defence in resolved.spec.defences]
    for defence in defences:
        eraser = defence.get("eraser")
        if eraser and eraser.get("checkpoint"):
            eraser["checkpoint"] = checkpoints[eraser["checkpoint"]]
    concepts = [concept.model_dump(mode="json", exclude={"sensitive"}) for concept in resolved.spec.concepts]
    model: Json = {"backbone": resolved.backbone.sha256, "defences": [*defences], "concepts": [*concepts]}
    manifest = resolved.pictures.manifest
    corpus: Json = {"objects": manifest.num_rows, "sha256": manifest_sha256(manifest)}
    return Criteria(resolved.spec.name, resolved.spec.gate, corpus, model)
