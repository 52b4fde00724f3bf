"""evidence export, of runs and of bundles that verify."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from audit.evidence import dsse
from audit.locations import database_path
from audit.storage.journal import Journal
from flows.cli import main
from tests.evidence.bundles import Audit, Bundle, sealed


@pytest.fixture(scope="module")
def passed(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return sealed(tmp_path_factory.mktemp("passed"), sealed_at=None)


@pytest.fixture(scope="module")
def failed(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return sealed(tmp_path_factory.mktemp("failed"), Audit(hits=20), sealed_at=None)


def export(bundle: Bundle, form: str, to: Path, *words: object) -> int:
    source = ["evidence", "export", bundle.folder, "--format", form, "--to", to, "--key", bundle.public.path]
    return main([str(word) for word in [*source, *words]])


def test_a_bundle_that_passed_is_exported_signed_or_not(passed: Bundle, tmp_path: Path) -> None:
    for form in ("in-toto-test-result", "svr"):
        assert export(passed, form, tmp_path / f"{form}.json") == 0
    statement = json.loads((tmp_path / "in-toto-test-result.json").read_text())
    assert statement["predicate"]["result"] == "PASSED"
    assert statement["predicate"]["configuration"][1]["digest"]["sha256"] == passed.sealed.tag_manifest_sha256
    assert export(passed, "svr", tmp_path / "svr.dsse.json", "--sign", passed.private.path) == 0
    envelope = dsse.decode_envelope((tmp_path / "svr.dsse.json").read_bytes(), "svr")
    signed = dsse.verify_envelope(envelope, [passed.public])
    assert signed.payload == (tmp_path / "svr.json").read_bytes()


def test_an_svr_of_a_failed_bundle_is_refused(
    failed: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert export(failed, "svr", tmp_path / "svr.json") == 2
    assert "the verdict is FAIL" in capsys.readouterr().err
    assert not (tmp_path / "svr.json").exists()
    assert export(failed, "oscal", tmp_path / "oscal.json") == 0
    document = json.loads((tmp_path / "oscal.json").read_text())["assessment-results"]
    assert document["results"][0]["findings"][0]["target"]["status"]["state"] == "not-satisfied"
    assert export(failed, "oscal", tmp_path / "oscal.json", "--sign", failed.private.path) == 2


def test_a_bundle_that_does_not_verify_is_not_exported(
    failed: Bundle, passed: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["evidence", "export", str(passed.folder), "--format", "svr", "--to", str(tmp_path / "svr.json")]
    assert main(words) == 2
    assert "no key is trusted" in capsys.readouterr().err
    assert main([*words, "--key", str(failed.public.path)]) == 5
    assert "does not verify" in capsys.readouterr().err
    assert not (tmp_path / "svr.json").exists()


def test_a_run_is_exported_with_its_backbone_s_digests(passed: Bundle, tmp_path: Path) -> None:
    journal: Journal = passed.journal
    to = tmp_path / "result.json"
    words = ["evidence", "export", "run-1", "--format", "in-toto-test-result", "--to", str(to), "--root", journal.root]
    assert main([*words, "--database", str(database_path(str(tmp_path)))]) == 0
    statement = json.loads(to.read_text())
    assert {one["name"] for one in statement["subject"]} >= {"backbone/unet/diffusion_pytorch_model.safetensors"}
    assert statement["predicate"]["result"] == "PASSED"


def test_a_run_whose_plan_was_edited_is_not_exported(
    failed: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root, to = Path(shutil.copytree(failed.journal.store.base, tmp_path / "journal")), tmp_path / "svr.json"
    plan = root / "runs" / "run-1" / "plan.json"
    plan.write_bytes(plan.read_bytes().replace(b'"crr_max": 0.2', b'"crr_max": 0.99'))
    words = ["--root", str(root), "--database", str(tmp_path / "index.duckdb")]
    assert main(["evidence", "export", "run-1", "--format", "svr", "--to", str(to), *words]) == 5
    assert "plan.json (its bytes are not those of the record)" in capsys.readouterr().err
    assert not to.exists()
