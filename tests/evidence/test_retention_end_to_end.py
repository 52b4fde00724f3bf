"""A real run, sealed, whose pictures are removed by a process that is killed in the middle, and what still works afterwards."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from audit.evidence import keys
from audit.storage.journal import Journal
from flows.cli import main
from tests.evidence.test_replay import RING
from tests.flows.audits import finish_run, tiny_spec

# The command in a process of its own, which is gone before it writes its third file of a unit.
KILLED = """
import os, signal, sys
from audit.storage.objects import ObjectStore
from flows.cli import main
put, files = ObjectStore.put, []
def counted(self, name, data):
    files.extend([name] if name.startswith("units/") else [])
    if len(files) == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    put(self, name, data)
ObjectStore.put = counted
sys.exit(main(sys.argv[1:]))
"""


def bare(journal: Journal) -> dict[str, bool]:
    tables = {key: journal.read("generate", key, ["image"])["image"] for key in journal.keys("generate")}
    return {key: images.null_count == len(images) for key, images in tables.items()}


@pytest.mark.slow
def test_a_killed_retention_goes_on_and_everything_but_the_pictures_is_as_it_was(
    tmp_path: Path, tiny_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    gate = {"version": "1", "judges": ["clip"], "limits": [{"crr_max": 0.3}], "retention_waived": "random weights only",
            "damage_waived": "random weights only"}  # fmt: skip
    scenarios = [{"name": "text", "cases": 6, "sampler": {"steps": 2, "guidance": 3.0}}]
    spec = tiny_spec(tmp_path, tiny_folder, detectors=[RING], gate=gate, scenarios=scenarios)
    root, public = tmp_path / "runs", keys.generate(tmp_path / "seal.pem")
    where, runs, verdicts = ["--root", str(root)], [], {}
    for name in ("first", "second"):  # nights of one spec: the second computes nothing
        run_id = finish_run(spec, root)
        runs.append(run_id)
        verdicts[run_id] = main(["gate", run_id, *where])
        seal = ["evidence", "seal", run_id, "--key", str(tmp_path / "seal.pem"), "--to", str(tmp_path / name)]
        assert main([*seal, *where]) == 0
    journal = Journal(str(root))
    originals = {path: path.read_bytes() for path in (tmp_path / "corpus").rglob("*.*")}
    assert len(bare(journal)) > 4 and not any(bare(journal).values())

    words = ["retention", "apply", "--hits-after", "0", "--clears-after", "0", *where, "--reason", "a period is over"]
    process = subprocess.run([sys.executable, "-c", KILLED, *words, "--yes"], env={**os.environ}, check=False)
    assert process.returncode == -signal.SIGKILL
    assert sum(bare(journal).values()) == 2
    assert [main(["db", "verify", run_id, *where]) for run_id in runs] == [5, 5]
    capsys.readouterr()
    assert main([*words, "--yes", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert all(bare(journal).values()) and len(said["runs"]) == 2 and said["left"] == []
    assert main(words) == 0

    for run_id, bundle in zip(runs, ("first", "second"), strict=True):
        assert main(["db", "verify", run_id, "--full", *where]) == 0
        assert main(["gate", run_id, "--no-record", *where]) == verdicts[run_id]
        verify = ["evidence", "verify", str(tmp_path / bundle), "--key", str(public.path), "--journal", str(root)]
        assert main(verify) == 0
        assert "they were purged since, on record" in capsys.readouterr().out
        assert main(["report", run_id, *where, "--reports", str(tmp_path / f"report-{bundle}")]) == verdicts[run_id]
        assert "picture purged" in (tmp_path / f"report-{bundle}" / "report.html").read_text()
    capsys.readouterr()
    assert main(["labels", "export", runs[0], "--to", str(tmp_path / "labels"), "--random", "24", *where]) == 2
    assert main(["evidence", "replay", runs[0], "--hits", "3", "--device", "cpu", "--json", *where]) == 0
    assert json.loads(capsys.readouterr().out)["counts"] == {"exact": 3}
    assert {path: path.read_bytes() for path in originals} == originals
