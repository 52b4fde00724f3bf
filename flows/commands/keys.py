"""The keys that commands of evidence are given: one to sign with, and those that are trusted."""

from __future__ import annotations

import getpass
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flows.console import say

if TYPE_CHECKING:
    from audit.evidence.keys import PrivateKey, PublicKey

Trusted = Annotated[
    list[Path] | None, typer.Option("--key", help="Public key that you trust; may be given several times.")
]


def signing_key(path: Path) -> PrivateKey:
    """Return the private key in a file; a person at a terminal is asked for its passphrase. Raises `KeyProblem`.

    A key that lies in a git repository is warned of.
    """
    from audit.evidence.keys import load_private_key, repository_of

    key = load_private_key(path, _passphrase if sys.stdin.isatty() else None)
    if repository := repository_of(path):
        say(f"warning: the private key {path} lies in the git repository {repository}; one that is pushed is public")
    return key


def trusted_keys(paths: Sequence[Path]) -> list[PublicKey]:
    """Return the public keys in files. Raises `KeyProblem`."""
    from audit.evidence.keys import load_public_key

    return [load_public_key(path) for path in paths]


def _passphrase() -> str:
    return getpass.getpass("Passphrase of the key: ")
