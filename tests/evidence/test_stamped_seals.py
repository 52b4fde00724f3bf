"""A seal with a time stamp: dated before it is finished, or not written at all."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import pytest
from cryptography import x509

from audit.errors import EvidenceError
from audit.evidence.lines import Answer
from audit.evidence.seal import VERDICT, VERDICT_TIME, seal
from audit.evidence.timestamps import read_roots, request_stamp
from audit.evidence.verify import verify
from tests.evidence.bundles import NOW, SEALED, Bundle, resealed, sealed
from tests.evidence.test_timestamps import Authority, authority, needs_authority, running

__all__ = ["authority", "running"]  # fixtures


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return sealed(tmp_path_factory.mktemp("sealed"), frames=[])


def stamped(bundle: Bundle, folder: Path, url: str) -> Path:
    seal(
        bundle.journal,
        "run-1",
        bundle.index,
        bundle.private,
        folder,
        SEALED,
        None,
        lambda data: request_stamp(url, data),
    )
    return folder


def first_check(bundle: Bundle, folder: Path, roots: list[x509.Certificate] | None) -> tuple[list[str], list[str]]:
    """What of check 1 is wrong, and what holds or was not checked."""
    lines = [line for line in verify(folder, [bundle.public], now=NOW, roots=roots).lines if line.number == 1]
    wrong = [line.detail for line in lines if line.answer is Answer.WRONG]
    return wrong, [line.detail for line in lines if line.answer is not Answer.WRONG]


@needs_authority
def test_a_stamped_seal_verifies_under_the_authority_s_root(
    bundle: Bundle, authority: Authority, tmp_path: Path
) -> None:
    folder = stamped(bundle, tmp_path / "bundle", authority.url)
    roots = read_roots(authority.folder / "root.pem")
    wrong, others = first_check(bundle, folder, roots)
    assert wrong == [] and any("under a root that you trust" in line for line in others)
    assert any("are read with --tsa-root" in line for line in first_check(bundle, folder, None)[1])
    reply = (folder / VERDICT_TIME).read_bytes()
    (folder / VERDICT_TIME).write_bytes(reply[:-1] + bytes([reply[-1] ^ 1]))
    assert first_check(bundle, folder, roots)[0]
    (folder / VERDICT_TIME).unlink()
    assert first_check(bundle, folder, roots)[0] == ["there is no time stamp of the seal"]


@needs_authority
def test_a_seal_that_was_dated_back_is_told_by_its_stamp(bundle: Bundle, authority: Authority, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(bundle.folder, tmp_path / "bundle"))
    lie = resealed(dataclasses.replace(bundle, folder=folder), sealed_at="2026-01-02T03:04:05Z")
    (folder / VERDICT_TIME).write_bytes(request_stamp(authority.url, (folder / VERDICT).read_bytes()))
    (problem,) = first_check(lie, folder, read_roots(authority.folder / "root.pem"))[0]
    assert "and the seal says 2026-01-02T03:04:05Z: one of the clocks was wrong" in problem


@needs_authority
def test_an_authority_that_fails_leaves_no_bundle(bundle: Bundle, authority: Authority, tmp_path: Path) -> None:
    authority.answer = "down"
    with pytest.raises(EvidenceError, match="HTTP status 503"):
        stamped(bundle, tmp_path / "bundle", authority.url)
    assert list(tmp_path.iterdir()) == []
    authority.answer = "granted"
    assert (stamped(bundle, tmp_path / "bundle", authority.url) / VERDICT_TIME).exists()
