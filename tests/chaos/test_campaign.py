"""A handful of rounds of the campaign, and one that finds what it must find."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import duckdb
import pytest

from audit.index.store import latest
from tests.chaos.arena import SECONDS, Arena, Campaign
from tests.chaos.campaign import opened, play
from tests.chaos.fault import Base, Outcome
from tests.chaos.faults import usable
from tests.chaos.rounds import draw
from tests.flows.postgres import AVAILABLE

pytestmark = [
    pytest.mark.slow,
    pytest.mark.server,
    pytest.mark.timeout(3600),
    pytest.mark.skipif(not AVAILABLE, reason="needs PostgreSQL"),
]
KINDS = (
    "sigkill",
    "power-loss",
    "two-runs",
    "s3-500",
    "s3-duplicate-put",
    "postgres-restarted",
    "disk-full",
    "ray-node-killed",
    "ray-head-killed",
    "ray-process-killed",
    "ray-prefect-restarted",
    "ray-postgres-restarted",
    "ray-run-killed",
    "ray-run-terminated",
    "ray-power-loss",
    "ray-s3",
)
FAULTS = {fault.kind: fault for fault in usable()}


@pytest.fixture(scope="module")
def campaign(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Campaign]:
    with opened(tmp_path_factory.mktemp("campaign")) as campaign:
        yield campaign


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind in FAULTS])
def test_a_disturbed_run_ends_as_the_undisturbed_one(kind: str, campaign: Campaign) -> None:
    for number in range(4):  # until the fault hits
        result = play(campaign, draw(1, number, list(FAULTS.values()), kind), FAULTS[kind])
        assert not result.bad, result
        if result.fired:
            break
    else:
        pytest.fail("the fault never hit")


class Vandal(Base):
    """Somebody who removes a case from the published index of a finished run."""

    kind, stages = "vandal", ("consolidate",)

    def apply(self, arena: Arena) -> Outcome:
        code = arena.resume().wait(SECONDS)
        copy = latest(arena.local_root / "db" / "published")
        os.chmod(copy, 0o644)
        with duckdb.connect(str(copy)) as con:
            con.execute("delete from outcomes where rowid in (select min(rowid) from outcomes)")
        return Outcome(True, {arena.run_id: code})


def test_a_campaign_finds_a_lost_row(campaign: Campaign) -> None:
    result = play(campaign, draw(1, 0, [Vandal()]), Vandal())
    assert result.bad and result.lost and not result.stuck and result.resumes == 0
    assert (Path(campaign.folder) / "rounds" / "1-0").exists()
