"""Where one round takes place: a storage root that is about to begin the drawn stage, and commands that go on with it."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from audit.plan.document import KINDS, read_plan
from audit.storage.journal import Journal
from tests.chaos.comparison import Difference, compare, decisions, read_tables
from tests.chaos.proxy import Proxy
from tests.chaos.reference import Reference
from tests.chaos.rounds import Round
from tests.chaos.services import KEY, Services
from tests.chaos.zygote import Child, Zygote
from tests.flows.clusters import processes_called

VERDICTS = (0, 3, 4)
SECONDS = 420.0  # for one command; one that is stuck longer is a finding
MOUNT_BYTES = 96 << 20
_PAUSE = 0.01
_FIRST_REQUESTS = 40


@dataclasses.dataclass(frozen=True)
class Campaign:
    """What all rounds share."""

    folder: Path
    services: Services
    zygote: Zygote
    reference: Reference


class Arena:
    """One round's place. `root` is its storage root, `home` the folder that its index, caches and reports lie below."""

    def __init__(self, campaign: Campaign, round_: Round, folder: Path) -> None:
        self.campaign, self.round, self.folder = campaign, round_, folder
        self.home = folder / "home"
        self.proxy: Proxy | None = None
        self.environment: dict[str, str] = {"ERASURE_AUDIT_INDEX_WAIT": "120"}
        self._commands = 0

    @property
    def local_root(self) -> Path:
        """Return the storage root's folder; on S3 the one that it would be."""
        return self.home / "runs"

    @property
    def root(self) -> str:
        """Return the address of the storage root."""
        return f"s3://{self.bucket}/audits" if self.proxy else str(self.local_root)

    @property
    def bucket(self) -> str:
        """Return the round's bucket."""
        return f"round-{self.round.seed}-{self.round.number}"

    @property
    def run_id(self) -> str:
        """Return the id of the planned run."""
        return self.campaign.reference.run_id

    def start(self, *words: str, **environment: str) -> Child:
        """Return a started command on the storage root."""
        self._commands += 1
        argv = [*words, "--root", self.root]
        if words[0] in ("run", "resume"):
            argv += ["--reports", str(self.home / "reports" / f"{self._commands}")]
        on_ray: dict[str, str] = {}
        if self.round.engine == "ray" and words[0] in ("run", "resume"):
            cluster = self.campaign.services.ray
            argv += ["--runner", "ray", "--address", cluster.address]
            on_ray = cluster.client
        variables = {"XDG_CACHE_HOME": str(self.home / "cache"), **self.environment, **on_ray, **environment}
        log = self.folder / f"{self._commands}-{words[0]}.log"
        return self.campaign.zygote.start(argv, variables, self.folder, log)

    def resume(self, run_id: str | None = None, **environment: str) -> Child:
        """Return the started command that goes on with the run."""
        return self.start("resume", run_id or self.run_id, **environment)

    def moment(self, *children: Child) -> bool:
        """Wait until the drawn moment of the drawn stage; return whether all commands are still running then."""
        begun = self._begun()
        deadline = time.monotonic() + SECONDS
        while not begun() and all(child.code is None for child in children) and time.monotonic() < deadline:
            time.sleep(_PAUSE)
        moment = time.monotonic() + self.round.delay
        while time.monotonic() < moment and all(child.code is None for child in children):
            time.sleep(_PAUSE)
        return all(child.code is None for child in children)

    def _begun(self) -> Callable[[], bool]:
        stage, proxy = self.round.stage, self.proxy
        if stage in KINDS:
            rest, whole = math.modf(self.round.part * self.campaign.reference.units[stage])
            wanted = int(whole)
            if not wanted and proxy:  # somewhere between the command's first request and the stage's first unit
                return lambda: proxy.requests >= rest * _FIRST_REQUESTS
            if not wanted and self.round.engine == "ray":
                return lambda: bool(processes_called(f"ray::{stage}"))
            if not wanted and stage in ("erase", "attack") and rest > 0.3:  # within a training or a search
                return lambda: any(self.home.glob("cache/erasure-audit/trainings/*/*"))
            if proxy:
                return lambda: proxy.units[stage] >= wanted
            return lambda: len(list((self.local_root / "units" / stage).glob("*/*.parquet"))) >= wanted
        if stage == "plan":
            return lambda: True
        database = self.home / "cache" / "erasure-audit" if proxy else self.local_root
        depth = "*/" if proxy else ""
        return lambda: any(
            database.glob(f"{depth}db/*.duckdb" if stage == "consolidate" else f"{depth}db/published/*.duckdb")
        )

    def settle(self, run_id: str, code: int | None) -> tuple[bool, int]:
        """Resume a run until it has ended as the undisturbed one has, three times at most.

        `code` is how its last command ended. Return whether it has, and the number of resumes.
        """
        for resumes in range(4):
            if code == self.campaign.reference.code and self._complete(run_id):
                return True, resumes
            if resumes == 3 or (resumes and code in VERDICTS and self._complete(run_id)):
                break
            code = self.resume(run_id).wait(SECONDS)
        return code in VERDICTS, resumes

    def _complete(self, run_id: str) -> bool:
        with contextlib.ExitStack() as stack:
            if self.proxy:
                stack.enter_context(variables(self.environment))
            journal = Journal(self.root)
            if run_id not in journal.runs():
                return False
            plan = read_plan(journal, run_id)
            return not any(len(plan.pending(kind, journal)) for kind in KINDS)

    def difference(self, run_id: str) -> Difference:
        """Return how the run's marts differ from those of the undisturbed run; a command decides once at most."""
        if self.proxy:
            (published,) = (self.home / "cache" / "erasure-audit").glob("*/db/published")
        else:
            published = self.local_root / "db" / "published"
        difference = compare(self.campaign.reference.tables, read_tables(published, run_id))
        if (more := decisions(published, run_id) - self._commands) > 0:
            example = f"mart_verdicts has {more} decisions more than commands"
            return dataclasses.replace(
                difference, doubled=difference.doubled + more, examples=(*difference.examples, example)
            )
        return difference


@contextlib.contextmanager
def variables(changed: Mapping[str, str]) -> Iterator[None]:
    """Set environment variables of this process in a block."""
    import os

    before = dict(os.environ)
    os.environ.update(changed)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


@contextlib.contextmanager
def arena(campaign: Campaign, round_: Round) -> Iterator[Arena]:
    """Open the place of a round: on disk, on a small file system of its own, or on S3 behind the proxy."""
    folder = campaign.folder / "rounds" / f"{round_.seed}-{round_.number}"
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "home").mkdir(parents=True)
    place = Arena(campaign, round_, folder)
    with contextlib.ExitStack() as stack:
        if round_.storage == "mount":
            stack.enter_context(mounted(place.home))
        if round_.storage == "s3":
            _open_s3(place, stack)
        else:
            campaign.reference.copy_before(round_.stage, place.local_root)
        yield place


@contextlib.contextmanager
def mounted(folder: Path) -> Iterator[None]:
    """Mount a small file system in memory at `folder` for a block. Needs root."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={MOUNT_BYTES}", "tmpfs", folder], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def _open_s3(place: Arena, stack: contextlib.ExitStack) -> None:
    import boto3

    reference, settings = place.campaign.reference, place.campaign.services.s3
    client = boto3.client(
        "s3",
        endpoint_url=settings["AWS_ENDPOINT_URL"],
        aws_access_key_id=KEY[0],
        aws_secret_access_key=KEY[1],
        region_name="us-east-1",
    )
    stack.callback(client.close)
    client.create_bucket(Bucket=place.bucket)
    names = reference.files_before(place.round.stage)
    for name in names:
        client.put_object(Bucket=place.bucket, Key=f"audits/{name}", Body=(reference.root / name).read_bytes())

    def remove() -> None:
        for page in client.get_paginator("list_objects_v2").paginate(Bucket=place.bucket):
            for entry in page.get("Contents", ()):
                client.delete_object(Bucket=place.bucket, Key=entry["Key"])
        client.delete_bucket(Bucket=place.bucket)

    stack.callback(remove)
    port = place.campaign.services.nodes_port if place.round.engine == "ray" else 0
    place.proxy = stack.enter_context(Proxy(settings["AWS_ENDPOINT_URL"], port))
    place.environment |= {**settings, "AWS_ENDPOINT_URL": place.proxy.url}
