"""A run spread over a real Ray cluster, or over processes, gives what one process gives, whatever dies on the way."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from audit.storage.journal import Journal
from tests.flows.audits import finish_run, tiny_spec
from tests.flows.clusters import Cluster, ray_cluster
from tests.flows.servers import cli, prefect_server
from tests.flows.test_kill import tables

pytestmark = [pytest.mark.slow, pytest.mark.server, pytest.mark.timeout(1800)]
REPOSITORY = Path(__file__).resolve().parents[2]
VERDICTS = (0, 3, 4)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    with prefect_server(tmp_path_factory.mktemp("prefect") / "home", REPOSITORY) as environment:
        yield environment


@pytest.fixture(scope="module")
def cluster(server: dict[str, str]) -> Iterator[Cluster]:
    with ray_cluster(server, "first", "second") as started:
        yield started


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path) -> Path:
    return tiny_spec(tmp_path_factory.mktemp("spec"), tiny_folder, unit_size=1)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, spec: Path) -> dict[str, object]:
    root = tmp_path_factory.mktemp("inline") / "runs"
    return dict(tables(root, finish_run(spec, root)))


def only_run(root: Path) -> str:
    (run_id,) = Journal(str(root)).runs()
    return run_id


def test_a_run_on_two_nodes_equals_the_inline_run(
    cluster: Cluster, spec: Path, undisturbed: dict[str, object], tmp_path: Path
) -> None:
    root = tmp_path / "runs"
    done = cli(
        cluster.environment, REPOSITORY, "run", str(spec), "--root", str(root), "--runner", "ray",
        "--address", cluster.address, "--json",
    )  # fmt: skip

    assert done.returncode in VERDICTS, done.stderr
    assert "Traceback" not in done.stderr
    assert tables(root, only_run(root)) == undisturbed
