"""Finished runs in real journals, decided and sealed: by default one of a sensitive concept, with pictures and prompts."""

from __future__ import annotations

import dataclasses
import datetime as dt
import functools
import io
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from audit import run as steps
from audit.corpus.ingest import MANIFEST_SCHEMA, manifest_sha256
from audit.evidence import dsse, keys
from audit.evidence.bag import TAG_MANIFEST, write_bag
from audit.evidence.seal import PREDICATE, VERDICT, Sealed, seal
from audit.index.derivation import derive
from audit.index.store import Store, latest
from audit.spec.policy import Policy
from audit.storage.journal import Journal
from audit.verdict.decisions import Basis, CheckResult
from tests.flows.audits import WAIVED
from tests.synthetic import Run, cell, control, detect_row, generate_row, invert_row

PLANNED = dt.datetime(2025, 11, 22, tzinfo=dt.UTC)
COMPUTED = dt.datetime(2026, 6, 1, tzinfo=dt.UTC)
DAY = dt.timedelta(days=1)
SEALED = dt.datetime.now(dt.UTC).replace(microsecond=0) + DAY  # what is decided by these tests is decided before
NOW = SEALED + DAY
PHRASE, SYNONYM = "a wreath of thorns", "crown of spikes"
PROMPT = "unmistakably a wreath of thorns, number"
POLICY: dict[str, Any] = {
    "version": "release-1", "limits": [{"crr_max": 0.2}], "judges": ["judge"], "assessed_min": 0.5, **WAIVED,
}  # fmt: skip
LATENT = {"scenario": "latent-whitebox", "gate_residual_max": 1e-3, "gate_psnr_min_db": 35.0}
SENSITIVE = {"sensitive": True}
CELLS = (
    cell(0, 24, **SENSITIVE),
    control(1, 8, "backbone", scenario="text", **SENSITIVE),
    cell(2, 24, **LATENT, **SENSITIVE),
    control(3, 8, "backbone", **LATENT, **SENSITIVE),
    control(4, 8, "reference", **SENSITIVE),
    control(5, 8, "vae-roundtrip", **SENSITIVE),
    control(6, 8, "random-latent", **SENSITIVE),
    control(7, 4, "black"),
)
SHOWN = {1, 3, 4, 5}  # cells in which the concept must be seen
BLACK = 7


@functools.cache
def png(seed: int, kind: str = "PNG") -> bytes:
    """A picture's bytes."""
    buffer = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 255, (16, 16, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


@dataclasses.dataclass
class Audit(Run):
    """A run whose target cells show nothing, but for the first `hits` cases of each, and whose controls hold."""

    cells: Sequence[Mapping[str, Any]] = CELLS
    unit_size: int = 8
    hits: int = 0
    policy: Mapping[str, Any] = dataclasses.field(default_factory=lambda: POLICY)
    spec: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self.of_unit: dict[str, list[dict[str, Any]]] = {}
        for case in self.cases:
            if case["prompt"]:
                case["prompt"] = f"{PROMPT} {case['case_no']}"
            keys_of = [case["unit_key"], case["invert_key"], self.detect_key(case["unit_key"], 11)]
            for key in filter(None, keys_of):
                self.of_unit.setdefault(key, []).append(case)

    def rows(self, key: str) -> list[dict[str, Any]]:
        kind, cases = self.units[key]["kind"], self.of_unit[key]
        if kind == "invert":
            return [invert_row(case["item"]) for case in cases]
        if kind == "generate":
            return [self._picture(case) for case in cases]
        return [self._reading(case) for case in cases if case["cell_id"] != BLACK]

    def _reading(self, case: Mapping[str, Any]) -> dict[str, Any]:
        shown = case["cell_id"] in SHOWN or (case["cell_id"] not in (6, BLACK) and case["case_no"] < self.hits)
        row = detect_row(case["image_id"], 11, hit=shown)
        scores = [{**one, "score": one["score"] + case["case_no"] % 100 / 1000} for one in row["scores"]]
        return {**row, "scores": scores}

    @staticmethod
    def _picture(case: Mapping[str, Any]) -> dict[str, Any]:
        data = png(case["image_id"] % 7, ("PNG", "JPEG", "WEBP")[case["image_id"] % 3])
        row = {**generate_row(case), "image": {"bytes": data, "path": None}}
        black = {"status": "degenerate", "error": f"black: {PROMPT}"}
        return {**row, **black} if case["cell_id"] == BLACK else row

    def plan(self) -> dict[str, Any]:
        spec = self.spec or {
            "name": "synthetic",
            "concepts": [{"name": "ring", "phrase": PHRASE, "synonyms": [SYNONYM], "sensitive": True}],
            "gate": self.policy,
        }
        empty = pa.Table.from_batches([], schema=MANIFEST_SCHEMA)
        return {
            **super().plan(),
            "created_at": PLANNED.isoformat(),
            "spec": spec,
            "policy": Policy.model_validate(self.policy).model_dump(mode="json"),
            "corpus": {"objects": 0, "sha256": manifest_sha256(empty)},
        }

    def write_plan(self, journal: Journal) -> None:
        super().write_plan(journal)
        sink = io.BytesIO()
        pq.write_table(pa.Table.from_batches([], schema=MANIFEST_SCHEMA), sink)
        journal.put_run(self.run_id, "manifest.parquet", sink.getvalue())
        files = {"unet/diffusion_pytorch_model.safetensors": "1f" * 32, "vae/config.json": "2e" * 32}
        backbone = {"name": "testbed", "sha256": "9c" * 32, "source": "testbed", "revision": None, "files": files}
        facts = {"host": "gpu-07", "backbone": backbone, "packages": {"torch": "2.13.0"}}
        journal.put_run(self.run_id, "provenance.json", json.dumps(facts).encode())
        journal.put_run(self.run_id, "spec.yaml", json.dumps(self.plan()["spec"]).encode())


@dataclasses.dataclass(frozen=True)
class Bundle:
    """A sealed run beside the key that verifies it and the journal it came from."""

    folder: Path
    public: keys.PublicKey
    private: keys.PrivateKey
    journal: Journal
    index: Path
    sealed: Sealed
    officer: keys.PublicKey | None = None

    @property
    def keys(self) -> list[keys.PublicKey]:
        """Everybody who signed it."""
        return [self.public, *([self.officer] if self.officer else [])]


def resealed(bundle: Bundle, changes: Mapping[str, bytes] | None = None, **facts: Any) -> Bundle:
    """The bundle as a signer who lies would write it: other files below data/, other facts, and the digests that fit them."""
    payload = {
        p.relative_to(bundle.folder / "data").as_posix(): p.read_bytes() for p in bundle.folder.rglob("data/**/*.*")
    }
    envelope = dsse.decode_envelope((bundle.folder / VERDICT).read_bytes(), VERDICT)
    _, stated = dsse.read_statement(dsse.payload_of(envelope), PREDICATE, VERDICT)
    tags = {"VERIFY.txt": (bundle.folder / "VERIFY.txt").read_bytes()}
    shutil.rmtree(bundle.folder)
    bundle.folder.mkdir()
    digest = write_bag(bundle.folder, {**payload, **(changes or {})}, {"External-Identifier": "run-1"}, tags)
    payload_of = dsse.statement({TAG_MANIFEST: digest}, PREDICATE, {**stated, **facts})
    (bundle.folder / VERDICT).parent.mkdir()
    signed = dsse.sign_payload(dsse.STATEMENT_PAYLOAD, payload_of, bundle.private)
    (bundle.folder / VERDICT).write_bytes(dsse.encode_envelope(signed))
    return dataclasses.replace(bundle, officer=None)


def published(audit: Run, journal: Journal, folder: Path) -> Path:
    """A published index that holds one run."""
    with Store(folder / "index.duckdb") as store:
        store.consolidate(journal, audit.run_id)
        return store.publish(folder / "published")


def decide(
    audit: Audit,
    journal: Journal,
    index: Path,
    folder: Path,
    frames: Sequence[CheckResult] | None = None,
    policy: Policy | None = None,
) -> Path:
    """Decide a run by its checks and the gate, on record, and return the new index; with `frames`, Great Expectations is not
    asked."""
    used, empty = policy or Policy.model_validate(audit.policy), pa.Table.from_batches([], schema=MANIFEST_SCHEMA)
    result = (
        steps.conclude(journal, audit.run_id, index, policy)
        if frames is None
        else derive(index, audit.run_id, empty, used, Basis(), planned=policy is None, frames=frames)
    )
    steps.record_decision(journal, result, folder / "index.duckdb", "run")
    return latest(folder / "published")


def key_pair(folder: Path, name: str = "seal") -> tuple[keys.PrivateKey, keys.PublicKey]:
    """A new pair of keys."""
    public = keys.generate(folder / f"{name}.pem")
    return keys.load_private_key(folder / f"{name}.pem"), public


def sealed(
    folder: Path,
    audit: Audit | None = None,
    frames: Sequence[CheckResult] | None = None,
    pair: tuple[keys.PrivateKey, keys.PublicKey] | None = None,
    policy: Policy | None = None,
    sealed_at: dt.datetime | None = SEALED,
) -> Bundle:
    """A run that is journalled, consolidated, decided and sealed below `folder`, with a key of its own without `pair`.

    Without `sealed_at` it is sealed now, for commands that look at the clock.
    """
    audit = audit or Audit()
    journal = Journal(str(folder / "journal"))
    audit.write(journal)
    for path in (folder / "journal" / "units").rglob("*.parquet"):
        os.utime(path, (COMPUTED.timestamp(), COMPUTED.timestamp()))
    private, public = pair or key_pair(folder)
    index = decide(audit, journal, published(audit, journal, folder), folder, frames, policy)
    written = seal(journal, audit.run_id, index, private, folder / "evidence", sealed_at or dt.datetime.now(dt.UTC))
    return Bundle(written.folder, public, private, journal, index, written)
