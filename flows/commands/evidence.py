"""evidence: seal a run into a signed folder, sign it again, verify it on any machine. No model is loaded."""

from __future__ import annotations

import dataclasses
import datetime as dt
import functools
import getpass
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from audit import locations
from audit.errors import EXIT_NOT_VERIFIED, AuditError, KeyProblem
from flows.commands import options
from flows.console import emit_json, say, visible

app = typer.Typer(help="Seal runs as evidence, and verify it without a GPU, a network, the journal or pictures.")

Key = Annotated[Path, typer.Option("--key", help="Private key in a PEM file, as keygen writes it.")]
BundleFolder = Annotated[Path, typer.Argument(help="Folder that `evidence seal` wrote.")]


@app.command("keygen")
def keygen(
    file: Annotated[Path, typer.Argument(help="File of the private key; the public one lies beside it as .pub.")],
    not_after: Annotated[
        str | None, typer.Option("--not-after", help="Last day on which it signs, such as 2027-12-31.")
    ] = None,
    passphrase: Annotated[
        bool, typer.Option("--passphrase", help="Protect the private key with a passphrase.")
    ] = False,
    as_json: options.Json = False,
) -> None:
    """Make a pair of Ed25519 keys. The private one is readable by you alone; nothing is overwritten."""
    from audit.evidence import keys

    last = _moment(not_after, "--not-after")
    if last is not None and last < dt.datetime.now(dt.UTC):
        raise KeyProblem(
            "the key could sign nothing: that day is over", where="--not-after", next_step="name a day that is to come"
        )
    words = _new_passphrase() if passphrase else None
    if repository := keys.repository_of(file):
        say(f"warning: {file} lies in the git repository {repository}; a private key that is pushed is public")
    public = keys.generate(file, passphrase=words, not_after=last)
    if as_json:
        emit_json({"private": str(file), "public": str(public.path), "keyid": public.keyid})
        return
    print(f"private  {file} (keep it; whoever has it signs as you)")
    print(f"public   {public.path} (give it to whoever verifies)")
    print(f"key id   {public.keyid}")


@app.command("seal")
def seal(
    run_id: Annotated[str, typer.Argument(help="Run id, as `erasure-audit db runs` lists it.")],
    key: Key,
    to: Annotated[Path | None, typer.Option("--to", help="New folder (default: evidence-RUN_ID).")] = None,
    decision: Annotated[
        int | None, typer.Option("--decision", min=1, help="Number of a decision on record (default: the newest).")
    ] = None,
    tsa: Annotated[
        str | None, typer.Option("--tsa", help="URL of a time-stamp authority (RFC 3161) that dates the signature.")
    ] = None,
    waiver: Annotated[
        list[Path] | None, typer.Option("--waiver", help="A signed waiver for what did not pass; repeatable.")
    ] = None,
    root: options.Root = None,
    database: options.Database = None,
    as_json: options.Json = False,
) -> None:
    """Write what a decision on RUN_ID stands on into one signed folder: rows, plan, policy, decisions, report; no pictures.

    Prompts of sensitive concepts are named by their SHA-256. The verdict is derived again from the folder's own rows.
    """
    from audit import run as steps
    from audit.evidence.keys import load_private_key
    from audit.evidence.seal import seal as write
    from audit.evidence.timestamps import request_stamp, require_client

    if tsa is not None:
        require_client()
    private = load_private_key(key, _ask(key))
    _warn_of_repository(key)
    place = locations.storage_root(root)
    journal = steps.open_journal(place)
    steps.consolidate(journal, run_id, locations.database_path(place, database))  # misses decisions that are gone
    folder, now = to or Path(f"evidence-{run_id}"), dt.datetime.now(dt.UTC)
    dated = functools.partial(request_stamp, tsa) if tsa is not None else None
    with tempfile.TemporaryDirectory(prefix="erasure-audit-") as anew:
        # The journal is the evidence, and an index is a file that can be edited: what is sealed is folded anew.
        published = steps.consolidate(journal, run_id, Path(anew) / "index.duckdb")
        sealed = write(journal, run_id, published, private, folder, now, decision, dated, waiver or ())
    if as_json:
        emit_json({**dataclasses.asdict(sealed), "keyid": private.keyid})
        return
    print(f"bundle   {sealed.folder}")
    print(f"verdict  {sealed.status}")
    print(f"sealed   {sealed.units} units, {sealed.bytes:,} bytes, key {private.keyid[:16]}...")
    print(f"verify   erasure-audit evidence verify {sealed.folder} --key {_public(key)}")


@app.command("sign")
def sign(
    bundle: BundleFolder,
    name: Annotated[str, typer.Option("--as", help="Your name.")],
    role: Annotated[str, typer.Option("--role", help="Your role, such as 'compliance officer'.")],
    key: Key,
    statement: Annotated[str | None, typer.Option("--statement", help="What you state, in one line.")] = None,
    reviewed: Annotated[
        list[str] | None, typer.Option("--reviewed", help="A file of the bundle that you reviewed; repeatable.")
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Add the signature of a person who reviewed BUNDLE. What was sealed stays as it is."""
    from audit.evidence import sign as signing
    from audit.evidence.keys import load_private_key

    private = load_private_key(key, _ask(key))
    _warn_of_repository(key)
    path = signing.sign(
        bundle,
        private,
        name,
        role,
        dt.datetime.now(dt.UTC),
        statement=statement or signing.STATEMENT,
        reviewed=reviewed or signing.REVIEWED,
    )
    if as_json:
        emit_json({"signature": str(path), "keyid": private.keyid})
        return
    print(f"signature  {path}")
    print(f"key id     {private.keyid}")


@app.command("verify")
def verify(
    bundle: BundleFolder,
    key: Annotated[
        list[Path], typer.Option("--key", help="Public key of somebody who signed; repeat it for each of them.")
    ],
    journal: Annotated[
        str | None, typer.Option("--journal", help="Storage root whose files must be those that were sealed.")
    ] = None,
    as_of: Annotated[
        str | None, typer.Option("--as-of", help="Day by which you had the bundle, for keys that have expired since.")
    ] = None,
    tsa_root: Annotated[
        Path | None,
        typer.Option("--tsa-root", help="PEM file with root certificates of time-stamp authorities that you trust."),
    ] = None,
    most_days: Annotated[int | None, typer.Option("--max-age", min=0, help="Most days since it was sealed.")] = None,
    as_json: options.Json = False,
) -> int:
    """Check BUNDLE, one line a check, and derive its decisions again from its rows. Exit 0 verified, 5 not verified.

    A verdict FAIL that verifies ends with 0: this command says whether the evidence holds.
    """
    from audit.evidence.keys import load_public_key
    from audit.evidence.lines import Answer
    from audit.evidence.timestamps import read_roots
    from audit.evidence.verify import CHECKS
    from audit.evidence.verify import verify as check
    from audit.storage.journal import Journal

    checked = check(
        bundle,
        [load_public_key(path) for path in key],
        now=dt.datetime.now(dt.UTC),
        as_of=_moment(as_of, "--as-of"),
        journal=Journal(journal) if journal else None,
        most_days=most_days,
        roots=read_roots(tsa_root) if tsa_root else None,
    )
    if as_json:
        lines = [{**dataclasses.asdict(line), "check": CHECKS[line.number]} for line in checked.lines]
        emit_json({"verified": checked.holds, "run_id": checked.run_id, "status": checked.status, "checks": lines})
        return 0 if checked.holds else EXIT_NOT_VERIFIED
    for line in checked.lines:
        where = f"{line.where}: " if line.where else ""
        text = visible(f"{where}{line.detail}")  # names of files and key ids are whatever somebody wrote
        print(f"{line.number:>2}  {CHECKS[line.number]:<16}  {line.answer.value:<12}  {text}")
        if line.next_step:
            print(f"{'':34}  next: {line.next_step}")
    wrong = sum(line.answer is Answer.WRONG for line in checked.lines)
    if checked.holds:
        print(f"verified: run {checked.run_id}, verdict {checked.status}")
        return 0
    print(f"NOT verified: {wrong} {'thing is' if wrong == 1 else 'things are'} wrong")
    return EXIT_NOT_VERIFIED


def _ask(key: Path) -> Callable[[], str] | None:
    """Return a function that asks for the passphrase; None where nobody can answer."""
    return (lambda: getpass.getpass(f"passphrase of {key}: ")) if sys.stdin.isatty() else None


def _new_passphrase() -> str:
    from audit.evidence.keys import PASSPHRASE

    if given := os.environ.get(PASSPHRASE):
        return given
    if not sys.stdin.isatty():
        raise KeyProblem("there is no passphrase", next_step=f"set {PASSPHRASE}, or run in a terminal")
    first = getpass.getpass("passphrase: ")
    if not first or first != getpass.getpass("the same again: "):
        raise KeyProblem("the passphrases differ, or are empty", next_step="run the command again")
    return first


def _moment(text: str | None, option: str) -> dt.datetime | None:
    from audit.evidence.keys import moment

    try:
        return moment(text) if text else None
    except ValueError:
        raise AuditError(f"{option} {text!r} is no date", next_step="write it as 2027-12-31") from None


def _warn_of_repository(key: Path) -> None:
    from audit.evidence.keys import repository_of

    if repository := repository_of(key):
        say(f"warning: the private key {key} lies in the git repository {repository}; one that is pushed is public")


def _public(private: Path) -> Path:
    from audit.evidence.keys import public_path

    return public_path(private)
