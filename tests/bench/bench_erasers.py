"""UCE on Stable Diffusion v1.4's architecture with random weights: time and peak memory of one fresh process.

python -m tests.bench.bench_erasers
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.bench.table import Figure, conclude

WRITE = """
import sys
from pathlib import Path
from tests.sd14 import FULL, write_sd14
write_sd14(Path(sys.argv[1]), FULL)
"""
ERASE = """
import json, resource, sys, time
from pathlib import Path
from audit.erasers.request import fulfil, make_request
request = make_request(sys.argv[1], "uce", ["abc"], neighbours=["xyz", "klm"])
started = time.perf_counter()
path, record = fulfil(request, Path(sys.argv[2]), device="cpu")
seconds = time.perf_counter() - started
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
print(json.dumps({"whole": seconds, "edit": record.seconds, "peak": peak, "tensors": record.change.tensors}))
"""


def figures() -> list[Figure]:
    """Seconds from the folder to the artefact, seconds of the edit alone, and peak memory."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        # Written by a process of its own: the peak of the one that erases shall be its own.
        subprocess.run([sys.executable, "-c", WRITE, str(folder / "sd14")], check=True, capture_output=True)
        command = [sys.executable, "-c", ERASE, str(folder / "sd14"), str(folder / "out")]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["tensors"] == 32, found
    how = "random weights, one concept, two preserved; hashing, loading, edit, proof and writing"
    return [
        Figure("UCE on SD v1.4, folder to artefact", found["whole"], "{:.1f} s", 60, how),
        Figure("UCE on SD v1.4, closed form alone", found["edit"], "{:.1f} s", None, "32 matrices in float64"),
        Figure("UCE on SD v1.4, peak memory", found["peak"] / 2**30, "{:.2f} GiB", 8, "resident set, one process"),
    ]


if __name__ == "__main__":
    conclude(figures())
