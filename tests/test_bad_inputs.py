"""What users get wrong: each mistake ends in exit code 2 and one message that says what, and what to do next."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from flows.cli import main
from tests.flows.audits import finish_run, plan_run, tiny_spec
from tests.flows.servers import prefect_settings
from tests.mistakes import Arguments, Bench, entry, mistakes
from tests.servers import moto_server, use

ALL = list(mistakes())


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path) -> tuple[Path, str]:
    folder = tmp_path_factory.mktemp("finished")
    return folder / "runs", finish_run(tiny_spec(folder, tiny_folder), folder / "runs")


@pytest.fixture
def bench(tmp_path: Path, tiny_folder: Path, finished: tuple[Path, str], monkeypatch: pytest.MonkeyPatch) -> Bench:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return Bench(tmp_path, tiny_folder, finished)


def check(arguments: Arguments, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    """One clear message, exit code 2, no traceback, nothing on stdout."""
    capsys.readouterr()
    code = main(arguments)
    shown = capsys.readouterr()
    assert code == 2, f"exit code {code}\n{shown.err}"
    assert re.search(message, shown.err, re.IGNORECASE | re.DOTALL), shown.err
    assert shown.err.count("error: ") == 1 and "Traceback" not in shown.err
    assert "\n  next:  " in shown.err, shown.err
    # plan still prints its forecast when all it lacks are files
    assert shown.out == "" or "cannot run here yet" in shown.err


@pytest.mark.parametrize(("build", "message"), [pytest.param(*rest, id=name) for name, *rest in ALL])
def test_a_mistake_gets_one_clear_message(
    build: Callable[[Bench], Arguments], message: str, bench: Bench, capsys: pytest.CaptureFixture[str]
) -> None:
    check(build(bench), message, capsys)


def test_there_are_enough_mistakes() -> None:
    assert len(ALL) >= 40


def test_storage_that_does_not_answer(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing-key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing-secret")
    check(bench.plan(corpus=[entry("s3://bucket/ring")]), "does not answer|cannot be reached|unreachable", capsys)
    check(["gate", "x", "--root", "s3://bucket/runs"], "does not answer.*AWS_ENDPOINT_URL", capsys)


def test_storage_without_credentials(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name, value in (
        ("AWS_ENDPOINT_URL", "http://127.0.0.1:9"),
        ("AWS_CONFIG_FILE", os.devnull),
        ("AWS_SHARED_CREDENTIALS_FILE", os.devnull),
        ("AWS_EC2_METADATA_DISABLED", "true"),
    ):
        monkeypatch.setenv(name, value)
    check(["gate", "x", "--root", "s3://bucket/runs"], "no usable credentials.*AWS_ACCESS_KEY_ID", capsys)


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        ("PREFECT_API_URL", "http://127.0.0.1:9/api", "server at http://127.0.0.1:9/api does not answer"),
        ("PREFECT_SERVER_ALLOW_EPHEMERAL_MODE", "false", "the temporary one is forbidden"),
    ],
)
def test_prefect_that_cannot_be_used(
    variable: str, value: str, message: str, bench: Bench, capsys: pytest.CaptureFixture[str]
) -> None:
    with prefect_settings({"PREFECT_HOME": str(bench.folder / "home"), variable: value}):
        check(["run", bench.spec(), "--root", str(bench.folder / "runs")], message, capsys)


def test_a_bucket_that_does_not_exist(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with moto_server() as environment:
        use(monkeypatch, environment)
        check(bench.plan(corpus=[entry("s3://no-such-bucket/ring")]), "bucket", capsys)
        check(["gate", "x", "--root", "s3://no-such-bucket/runs"], "bucket does not exist", capsys)


def test_an_index_that_another_process_has_open(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    root, run_id = bench.copy()
    index = root / "db" / "audit.duckdb"
    code = f"import duckdb, time; con = duckdb.connect({str(index)!r}); print('open', flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == b"open\n"
        try:
            check(["gate", run_id, "--root", str(root)], f"open in process {holder.pid}", capsys)
        finally:
            holder.kill()


@pytest.fixture
def tmpfs(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 kB of its own; needs the right to mount."""
    folder = tmp_path / "tmpfs"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)]
    if not shutil.which("mount") or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("this user cannot mount a file system")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_root_on_a_full_disk(bench: Bench, tmpfs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmpfs / "filler").write_bytes(bytes(240 * 1024))
    with pytest.raises(OSError), (tmpfs / "rest").open("wb") as stream:
        stream.write(bytes(64 * 1024))
    check(["gate", "x", "--root", str(tmpfs / "runs")], "disk is full.*free space", capsys)


def test_a_root_that_cannot_be_written(bench: Bench, tmpfs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if subprocess.run(["mount", "-o", "remount,ro", str(tmpfs)], capture_output=True, check=False).returncode:
        pytest.skip("this kernel cannot remount read-only")
    check(["gate", "x", "--root", str(tmpfs / "runs")], "read-only.*writable storage root", capsys)


def test_a_model_that_changed_after_the_plan(
    bench: Bench, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Resume must not mix pictures of two models; the worker refuses before it computes."""
    from audit.errors import CheckpointError
    from audit.plan.document import read_plan
    from audit.run import worker
    from audit.storage.journal import Journal

    folder = bench.model()
    run_id = plan_run(Path(bench.spec(backbone=str(folder))), bench.folder / "runs")
    (weights,) = (folder / "unet").glob("*.safetensors")
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(bytes(data))
    journal = Journal(str(bench.folder / "runs"))
    with pytest.raises(CheckpointError, match="changed since this run was planned"):
        worker(read_plan(journal, run_id), journal, device="cpu")


def test_code_that_changed_after_the_plan(
    bench: Bench, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another version must not journal its results under the keys of the planned one."""
    from audit import identity
    from audit.errors import EnvironmentProblem
    from audit.plan.document import read_plan
    from audit.run import worker
    from audit.storage.journal import Journal

    run_id = plan_run(Path(bench.spec()), bench.folder / "runs")
    journal = Journal(str(bench.folder / "runs"))
    worker(read_plan(journal, run_id), journal, device="cpu")
    monkeypatch.setattr(identity, "code_digest", lambda kind: f"another {kind}")
    with pytest.raises(EnvironmentProblem, match="the code that computes erase units has changed"):
        worker(read_plan(journal, run_id), journal, device="cpu")
