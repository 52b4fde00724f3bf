"""The undisturbed run of a campaign: its tables, and its journal up to the beginning of any stage."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections import Counter
from pathlib import Path

from audit.identity import code_digest, key
from audit.index import sql_files
from audit.plan.document import KINDS
from tests.chaos.comparison import read_tables
from tests.chaos.zygote import Zygote
from tests.flows.audits import tiny_spec

STAGES = ("plan", *KINDS, "consolidate", "report")
SECONDS = 900.0
_REASON = "the subject is what a fault leaves of a run"


def write_spec(folder: Path) -> Path:
    """Return the path of the smallest audit that has a unit of every kind, a training and a verdict that is not open."""
    folder.mkdir(parents=True, exist_ok=True)
    text, latent = {"steps": 2, "guidance": 3.0}, {"steps": 2, "guidance": 1.0}
    gate = {"residual_max": 100.0, "psnr_min_db": 0.1}  # two steps invert nothing well; what comes back is counted
    erasing = {"iterations": 3, "batch_size": 1, "steps": 2, "pool": 1}
    searching = {"population": 8, "generations": 3, "tokens": 3}
    return tiny_spec(
        folder,
        Path("testbed"),
        defences=[
            {
                "name": "esd-x",
                "eraser": {"method": "esd-x", "preset": "testbed", "parameters": erasing},
                "guards": [_FILTER],
            }
        ],
        scenarios=[
            {"name": "text", "cases": 3, "sampler": text},
            {"name": "adversarial-text", "cases": 2, "found": 1, "parameters": searching, "sampler": text},
            {"name": "latent-whitebox", "cases": 3, "sampler": latent, "fixed_point_passes": 1, "quality_gate": gate},
        ],
        controls={"cases": 2},
        detectors=[{"name": "classifier", "kind": "classifier", "model": "testbed/classifier"}],
        quality=[{"name": "ssim", "kind": "ssim"}],
        gate={
            "version": "1",
            "judges": ["classifier"],
            "limits": [{"crr_max": 0.02}],
            "retention_waived": _REASON,
            "damage_waived": _REASON,
            "blocked": "unassessed",  # so that no benign prompt is asked for
            "attempts": "count",  # one of two runs of a spec is the second at its claim, whose bounds would be wider
        },
        unit_size=3,
    )


_FILTER = {"name": "prompt-filter", "parameters": {"words": ["ring"]}}


@dataclasses.dataclass(frozen=True)
class Reference:
    """The undisturbed run in `root`: its id, its exit code, its marts, and how many units each stage has."""

    root: Path
    spec: Path
    run_id: str
    code: int
    tables: dict[str, Counter[str]]
    units: dict[str, int]

    @classmethod
    def open(cls, folder: Path, zygote: Zygote) -> Reference:
        """Return the reference in `folder`, made anew when the code that it rests on has changed."""
        digest = key({"code": {kind: code_digest(kind) for kind in KINDS}, "sql": sql_files.digest()})[:16]
        home = folder / digest
        facts = home / "reference.json"
        spec = write_spec(folder / "spec")
        root = home / "runs"
        if not facts.exists():
            shutil.rmtree(home, ignore_errors=True)
            home.mkdir(parents=True)
            run_id, code = _undisturbed(spec, root, home, zygote)
            tables = read_tables(root / "db" / "published", run_id)
            units = {kind: len(list((root / "units" / kind).glob("*/*.parquet"))) for kind in KINDS}
            facts.write_text(json.dumps({"run_id": run_id, "code": code, "tables": tables, "units": units}, indent=1))
        stored = json.loads(facts.read_text())
        tables = {name: Counter(rows) for name, rows in stored["tables"].items()}
        return cls(root, spec, stored["run_id"], stored["code"], tables, stored["units"])

    def files_before(self, stage: str) -> list[Path]:
        """Return the files below the root that a run has when `stage` begins, relative to it.

        Before the plan it has its spec and, as after an earlier run of the same spec, all units.
        """
        run = Path("runs") / self.run_id
        if stage == "plan":
            chosen, kinds = [run / "spec.yaml"], list(KINDS)
        else:
            names = [path.name for path in (self.root / run).iterdir() if path.is_file()]
            chosen = [*(run / name for name in names), run / "folded" / "000001.json"]
            kinds = list(KINDS[: KINDS.index(stage)] if stage in KINDS else KINDS)
        for kind in kinds:
            paths = (self.root / "units" / kind).glob("*/*")
            chosen += [path.relative_to(self.root) for path in paths]
        return sorted(chosen)

    def copy_before(self, stage: str, target: Path) -> None:
        """Make `target` the storage root of a run that is about to begin `stage`."""
        for path in self.files_before(stage):
            (target / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(self.root / path, target / path)


def _undisturbed(spec: Path, root: Path, home: Path, zygote: Zygote) -> tuple[str, int]:
    environment = {"XDG_CACHE_HOME": str(home / "cache")}
    child = zygote.start(["run", str(spec), "--root", str(root)], environment, home, home / "run.log")
    code = child.wait(SECONDS)
    runs = list((root / "runs").iterdir()) if (root / "runs").exists() else []
    assert code in (0, 3) and len(runs) == 1, f"the undisturbed run ended with {code}:\n{child.text()[-3000:]}"
    return runs[0].name, code
