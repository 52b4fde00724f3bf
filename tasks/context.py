"""The context of every task of one run: its address, its settings, and the objects that this process keeps for it."""

from __future__ import annotations

import dataclasses
import functools
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field

from audit import locations
from audit.errors import JournalError
from audit.machine.compilers import Mode
from audit.plan.document import Plan, read_plan
from audit.spec.document import Spec, parse_spec
from audit.storage.journal import Journal
from audit.yaml_files import load_yaml

if TYPE_CHECKING:
    from audit.compute.worker import Worker


def _ray_address() -> str | None:
    return os.environ.get("ERASURE_AUDIT_RAY_ADDRESS") or None


class Settings(BaseModel):
    """The way this process runs the audit; nothing here changes a picture, but for its rounding."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    runner: Literal["inline", "processes", "ray"] = Field(
        default_factory=lambda: os.environ.get("ERASURE_AUDIT_RUNNER") or "inline",
        description="where units are computed: in this process, in several of this machine, or on a Ray cluster",
        validate_default=True,
    )
    address: str | None = Field(
        default_factory=lambda given: _ray_address() if given.get("runner") == "ray" else None,
        description="address of the Ray cluster, such as ray://head-node:10001",
    )
    workers: int | None = Field(
        default=None, ge=1, description="processes of the runner `processes`; one a GPU or core"
    )
    cpus_per_unit: float = Field(default=1.0, gt=0, description="CPUs that Ray reserves for a unit")
    gpus_per_unit: float | None = Field(
        default=None, ge=0, description="GPUs that Ray reserves for a unit; one by default where nodes have some"
    )
    share_weights: bool = Field(
        default=False, description="copy the run's local model files to the storage root, for nodes that lack them"
    )
    device: str | None = Field(default=None, description="torch device, e.g. cpu or cuda:1; the best one by default")
    batch_size: int | None = Field(default=None, ge=1, description="pictures per model call; by device by default")
    compile_with: Mode | None = Field(
        default_factory=lambda: os.environ.get("ERASURE_AUDIT_COMPILE") or None,
        description="compile networks by torch.compile, with recorded launches on a GPU (cuda-graphs) or without",
        validate_default=True,
    )
    gpu_slot: str | None = Field(
        default_factory=lambda: os.environ.get("ERASURE_AUDIT_GPU_SLOT") or None,
        description="Prefect global concurrency limit that each unit holds while it computes",
    )
    database: str | None = Field(default=None, description="path of the DuckDB index")
    reports: str | None = Field(default=None, description="folder for the reports")
    show_sensitive: bool = Field(default=False, description="show sensitive pictures unblurred; the act is logged")


@dataclasses.dataclass(frozen=True)
class Run:
    """One run as tasks see it: small and cheap to pass, everything heavy is looked up in this process."""

    run_id: str
    root: str
    settings: Settings
    command: str = "run"  # run | resume: what its decision on record names
    trace: str = ""  # W3C traceparent, for the processes that compute its units; empty where none is sent

    @property
    def journal(self) -> Journal:
        """The journal at the root, one per process."""
        return _journal(self.root)

    @property
    def spec(self) -> Spec:
        """The spec as it was stored when the run began; of a run that began in this process, the one that it began with."""
        return _specs.get((self.root, self.run_id)) or stored_spec(self.journal, self.run_id)

    @property
    def plan(self) -> Plan:
        """The stored plan; of a run that was planned in this process, the one that was stored."""
        return _plan(self.root, self.run_id)

    def keep(self, plan: Plan) -> None:
        """Keep the plan that was stored just now, which needs no reading."""
        _planned[self.root, self.run_id] = plan

    @property
    def worker(self) -> Worker:
        """The worker of this process; models stay loaded from unit to unit."""
        return _worker(
            self.root, self.run_id, self.settings.device, self.settings.batch_size, self.settings.compile_with
        )

    @property
    def planned(self) -> bool:
        """Whether the plan is stored already."""
        return self.journal.store.exists(f"runs/{self.run_id}/plan.json")

    @property
    def database(self) -> Path:
        """The DuckDB index."""
        return locations.database_path(self.root, self.settings.database)

    @property
    def report_folder(self) -> Path:
        """The folder of the reports."""
        return locations.report_folder(self.root, self.run_id, self.settings.reports)


def store_spec(journal: Journal, run_id: str, spec: Spec) -> None:
    """Keep the resolved spec with the run (JSON is YAML), so that a run killed while it plans can be resumed."""
    journal.put_run(run_id, "spec.yaml", json.dumps(spec.model_dump(mode="json"), indent=1).encode())


def stored_spec(journal: Journal, run_id: str) -> Spec:
    """Return the spec that was stored with the run. Raises `JournalError` for an unknown run and for a damaged spec."""
    try:
        document: object = load_yaml(journal.get_run(run_id, "spec.yaml").decode())
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise JournalError(
            f"the spec stored with run {run_id!r} is damaged: {' '.join(str(error).split())[:200]}",
            next_step="start it again: erasure-audit run SPEC",
        ) from None
    return parse_spec(document, f"the spec stored with run {run_id}")


def keep_spec(root: str, run_id: str, spec: Spec) -> None:
    """Keep the parsed spec of a run that begins in this process, so that its file is parsed once."""
    _specs[root, run_id] = spec


def kept_spec(root: str, run_id: str) -> Spec | None:
    """Return the spec that was kept for a run; None when there is none."""
    return _specs.get((root, run_id))


_specs: dict[tuple[str, str], Spec] = {}  # by root and run
_planned: dict[tuple[str, str], Plan] = {}


@functools.lru_cache(maxsize=4)
def _journal(root: str) -> Journal:
    return Journal(root)


@functools.lru_cache(maxsize=2)
def _plan(root: str, run_id: str) -> Plan:
    return _planned.pop((root, run_id), None) or read_plan(_journal(root), run_id)


@functools.lru_cache(maxsize=1)
def _worker(root: str, run_id: str, device: str | None, batch_size: int | None, compile_with: Mode | None) -> Worker:
    from audit import run

    return run.worker(
        _plan(root, run_id), _journal(root), device=device, batch_size=batch_size, compile_with=compile_with
    )


def forget() -> None:
    """Drop what this process keeps, so that a new run sees the storage and the credentials of now."""
    for cached in (_worker, _plan, _journal):
        cached.cache_clear()
    _specs.clear()
    _planned.clear()
