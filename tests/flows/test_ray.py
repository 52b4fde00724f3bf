"""A run spread over a real Ray cluster, or over processes, gives what one process gives, whatever dies on the way."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from audit.machine import telemetry as settings
from audit.plan.document import KINDS, read_plan
from audit.storage.journal import Journal
from tests.flows.audits import finish_run, spec_of_every_kind
from tests.flows.clusters import Cluster, processes_called, ray_cluster
from tests.flows.postgres import AVAILABLE, postgres
from tests.flows.servers import cli, prefect_server, process, wait_for
from tests.flows.test_kill import tables
from tests.flows.test_telemetry import attributes, receiving
from tests.servers import rclone_server, use

pytestmark = [pytest.mark.slow, pytest.mark.server, pytest.mark.timeout(1800)]
REPOSITORY = Path(__file__).resolve().parents[2]
VERDICTS = (0, 3, 4)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """A Prefect server on Postgres, as the nodes of a cluster need it; on SQLite where Postgres is not installed."""
    with contextlib.ExitStack() as stack:
        database = stack.enter_context(postgres()) if AVAILABLE else None
        home = tmp_path_factory.mktemp("prefect") / "home"
        yield stack.enter_context(prefect_server(home, REPOSITORY, database))


@pytest.fixture(scope="module")
def cluster(server: dict[str, str]) -> Iterator[Cluster]:
    with ray_cluster(server, "first", "second") as started:
        yield started


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return spec_of_every_kind(tmp_path_factory.mktemp("spec"))


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, spec: Path) -> dict[str, object]:
    root, threads = tmp_path_factory.mktemp("inline") / "runs", torch.get_num_threads()
    torch.set_num_threads(1)  # as on the nodes: how a sum is split shows in its last digits
    try:
        return dict(tables(root, finish_run(spec, root)))
    finally:
        torch.set_num_threads(threads)


def only_run(root: Path) -> str:
    (run_id,) = Journal(str(root)).runs()
    return run_id


def lacking(root: Path) -> int:
    """The number of planned units that the journal below `root` lacks."""
    journal = Journal(str(root))
    plan = read_plan(journal, only_run(root))
    return sum(len(plan.pending(kind, journal)) for kind in KINDS)


def on_ray(cluster: Cluster, spec: Path, root: Path) -> list[str]:
    return ["run", str(spec), "--root", str(root), "--runner", "ray", "--address", cluster.address, "--json"]


def pool_processes(parent: int) -> list[int]:
    """The ids of the processes that a pool of `parent` has spawned."""
    ids = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            ours = int((folder / "stat").read_text().rpartition(")")[2].split()[1]) == parent
            if ours and b"spawn_main" in (folder / "cmdline").read_bytes():
                ids.append(int(folder.name))
    return ids


def kill_one_of_each_stage(ended: threading.Event, killed: set[str]) -> None:
    while not ended.wait(0.02):
        for kind in KINDS:
            if kind not in killed and (ids := processes_called(f"ray::{kind}")):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(ids[0], signal.SIGKILL)
                    killed.add(kind)


def test_a_run_that_loses_a_process_in_every_stage_equals_the_inline_run(
    undisturbed: dict[str, object], cluster: Cluster, spec: Path, tmp_path: Path
) -> None:
    root, ended, killed = tmp_path / "runs", threading.Event(), set[str]()
    killer = threading.Thread(target=kill_one_of_each_stage, args=(ended, killed))
    killer.start()
    try:
        done = cli(cluster.environment, REPOSITORY, *on_ray(cluster, spec, root))
    finally:
        ended.set()
        killer.join()

    assert done.returncode in VERDICTS, done.stderr
    assert "Traceback" not in done.stderr and "not tried" not in done.stderr
    assert killed == set(KINDS)
    assert tables(root, only_run(root)) == undisturbed


def test_a_node_that_comes_takes_over_from_one_that_dies(
    server: dict[str, str], spec: Path, undisturbed: dict[str, object], tmp_path: Path
) -> None:
    root, log = tmp_path / "runs", tmp_path / "run.log"
    with ray_cluster(server) as cluster, cluster.node("old") as old:
        command = [sys.executable, "-m", "flows.cli", *on_ray(cluster, spec, root)]
        with process(command, cluster.environment, log, REPOSITORY) as child:
            wait_for("the first inversion", lambda: Journal(str(root)).keys("invert"), 300, log)
            with cluster.node("new"):
                os.killpg(old.pid, signal.SIGKILL)
                assert lacking(root), "the run ended before its node"  # what comes now, only the new one can compute
                assert child.wait(600) in VERDICTS, log.read_text()
    assert tables(root, only_run(root)) == undisturbed


def test_a_node_with_another_version_computes_nothing(
    server: dict[str, str], spec: Path, undisturbed: dict[str, object], tmp_path: Path
) -> None:
    strange = tmp_path / "strange" / "diffusers-0.0.1.dist-info"
    strange.mkdir(parents=True)
    (strange / "METADATA").write_text("Metadata-Version: 2.1\nName: diffusers\nVersion: 0.0.1\n")
    root = tmp_path / "runs"
    with ray_cluster(server) as cluster:
        path = os.pathsep.join([str(strange.parent), cluster.environment["PYTHONPATH"]])
        with cluster.node("other", PYTHONPATH=path):
            refused = cli(cluster.environment, REPOSITORY, *on_ray(cluster, spec, root))
            assert refused.returncode == 2, refused.stderr
            assert re.search(r"computes nothing more of this run: .*diffusers is 0\.0\.1", refused.stderr)
            assert "no node of the Ray cluster can compute this run: diffusers is 0.0.1" in refused.stderr
            assert "Traceback" not in refused.stderr
            assert not any(Journal(str(root)).keys(kind) for kind in KINDS)

            run_id = only_run(root)
            with cluster.node("same"):
                resumed = cli(
                    cluster.environment, REPOSITORY, "resume", run_id, "--root", str(root), "--runner", "ray",
                    "--address", cluster.address,
                )  # fmt: skip
    assert resumed.returncode in VERDICTS, resumed.stderr
    assert tables(root, run_id) == undisturbed


def test_a_run_on_s3_equals_the_inline_run_and_its_nodes_send_metrics_and_traces(
    server: dict[str, str],
    spec: Path,
    undisturbed: dict[str, object],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    root, buckets, cache = "s3://audits/runs", tmp_path / "buckets", tmp_path / "cache"
    (buckets / "audits").mkdir(parents=True)
    with rclone_server(buckets, "100ms") as s3, receiving(monkeypatch) as receiver:
        variables = {**server, **s3, settings.ENDPOINT: receiver.url}
        with ray_cluster(variables, "first", "second") as cluster:
            command = ["run", str(spec), "--root", root, "--reports", str(tmp_path / "reports"), "--runner", "ray"]
            environment = {**cluster.environment, "XDG_CACHE_HOME": str(cache)}
            done = cli(environment, REPOSITORY, *command, "--address", cluster.address, "--json")
        assert done.returncode in VERDICTS, done.stderr
        use(monkeypatch, s3)
        journal = Journal(root)
        (run_id,) = journal.runs()
        planned = {key for kind in KINDS for key in journal.keys(kind)}
        spans = receiver.spans()
    (index,) = (cache / "erasure-audit").glob("*/db")
    assert tables(index.parent, run_id) == undisturbed
    units = {attributes(span)["unit"] for span in spans if span.name.startswith("unit ")}
    assert units == planned and len({span.trace_id for span in spans}) == 1
    networks = {dict(of)["network"] for name, of in receiver.metrics() if name == "erasure_audit.network.seconds"}
    assert {"UNet2DConditionModel", "AutoencoderKL", "CLIPTextModel"} <= networks


def test_processes_of_one_machine_equal_the_inline_run(
    server: dict[str, str], spec: Path, undisturbed: dict[str, object], tmp_path: Path
) -> None:
    root, log = tmp_path / "runs", tmp_path / "run.log"
    command = ["run", str(spec), "--root", str(root), "--runner", "processes", "--workers", "2", "--json"]
    with process([sys.executable, "-m", "flows.cli", *command], server, log, REPOSITORY) as child:
        wait_for("the first inversion", lambda: Journal(str(root)).keys("invert"), 300, log)
        os.kill(pool_processes(child.pid)[0], signal.SIGKILL)
        assert child.wait(600) in VERDICTS, log.read_text()
    assert "was lost; trying again" in log.read_text()
    assert tables(root, only_run(root)) == undisturbed


def test_a_process_with_a_gpu_computes_one_unit_after_the_other(server: dict[str, str]) -> None:
    with ray_cluster(server) as cluster, cluster.node("gpu", cpus=1, gpus=1):
        command = [sys.executable, "-m", "tests.flows.ray_processes", cluster.address]
        done = subprocess.run(
            command, env=dict(cluster.environment), cwd=REPOSITORY, capture_output=True, text=True, check=False
        )

    assert done.returncode == 0, done.stderr[-3000:]
    assert len(set(done.stdout.split())) == 1, done.stdout
