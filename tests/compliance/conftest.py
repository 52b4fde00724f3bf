"""One quarter for all tests: its index, the waivers given with it, and the report on October of each system."""

from __future__ import annotations

import dataclasses
import datetime as dt
import hashlib
from pathlib import Path

import pytest

from audit.compliance import formats
from audit.compliance.document import read_month
from audit.compliance.period import Month
from audit.compliance.report import Report
from audit.evidence.keys import PublicKey, generate, load_private_key
from audit.evidence.waivers import create
from audit.verdict.record import policy_sha256
from audit.verdict.waivers import Selection, Waiver
from tests.compliance import quarter

NOW = dt.datetime(2026, 11, 20, 9, 0, tzinfo=dt.UTC)
OCTOBER = Month(2026, 10)
MARKUP = '#panic("no") $x$ *b* @a <script>alert(1)</script> {{7*7}} =1+1 "'
HOSTILE = MARKUP + "\u202eevil\u2066 \x1b[31m\n 中 \U0001f600 " + "x" * 10_000


@dataclasses.dataclass(frozen=True)
class Given:
    """An index with a quarter, and the waivers that are given to its reports."""

    root: Path
    index: Path
    waivers: tuple[Path, ...]  # expired, in force, signed by nobody who is trusted
    key: PublicKey
    key_file: Path

    read: dict[tuple[object, ...], Report] = dataclasses.field(default_factory=dict)

    def report(
        self, system: str, month: Month = OCTOBER, now: dt.datetime = NOW, cron: str | None = quarter.CRON
    ) -> Report:
        """The report on one system's month, read once."""
        asked = (system, month, now, cron)
        if asked not in self.read:
            self.read[asked] = read_month(
                self.index, system, month, now, expected=cron, waiver_files=self.waivers, keys=[self.key]
            )
        return self.read[asked]


@pytest.fixture(scope="session")
def given(tmp_path_factory: pytest.TempPathFactory) -> Given:
    root = tmp_path_factory.mktemp("quarter")
    index = quarter.write(root)
    public = generate(root / "approver.pem")
    generate(root / "stranger.pem")
    terms = {"expired": ("approver", 15), "in-force": ("approver", 60), "stranger": ("stranger", 60)}
    files = []
    for name, (signer, days) in terms.items():
        since = dt.datetime(2026, 10, 1, 12, tzinfo=dt.UTC)
        waiver = Waiver(
            name=name, run_id="20261001-0", policy_sha256=policy_sha256(quarter.Quarter().policy),
            cells=(Selection(concept="ring", defence="uce"),), reason="the pages are not public", owner="A. Owner",
            approver="B. Approver", compensating_control="nobody can reach them", since=since,
            until=since + dt.timedelta(days=days),
        )  # fmt: skip
        files.append(root / f"{name}.waiver.json")
        files[-1].write_bytes(
            create(waiver, hashlib.sha256(b"plan").digest(), load_private_key(root / f"{signer}.pem"))
        )
    key_file = root / "approver.pub"
    return Given(root, index, tuple(files), public, key_file)


@pytest.fixture(scope="session")
def painter(given: Given) -> Report:
    return given.report("Painter")


@pytest.fixture(scope="session")
def written(painter: Report, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The report on Painter's October, in every format."""
    return formats.write(painter, tmp_path_factory.mktemp("painter"), formats.FORMATS)


@pytest.fixture(scope="session")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Report:
    """A report in which every name is hostile."""
    names = [f"{number} {HOSTILE}" for number in range(8)]
    root = tmp_path_factory.mktemp("hostile")
    named = quarter.Quarter(
        systems=(names[0],), concepts=(names[1], names[2]), defences=(names[3], names[4]), owner=names[5], audit=names[6],
        scenarios=(("text", "text"), (names[7], "latent-whitebox")),
    )  # fmt: skip
    return read_month(quarter.write(root, named), names[0], OCTOBER, NOW, expected=quarter.CRON)


@pytest.fixture(scope="session")
def hostile_files(hostile: Report, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """That report in every format."""
    return formats.write(hostile, tmp_path_factory.mktemp("files"), formats.FORMATS)
