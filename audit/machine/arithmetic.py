"""Whether this machine computes in bfloat16 or emulates it, many times slower than float32. Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

CPUINFO = Path("/proc/cpuinfo")
GPUS = (Path("/dev/nvidiactl"), Path("/dev/kfd"), Path("/dev/dxg"))  # NVIDIA's, AMD's, Windows' below Linux
_INSTRUCTIONS = {"avx512_bf16", "amx_bf16", "bf16"}  # the last is Arm's


def emulates_bfloat16(cpuinfo: Path = CPUINFO, gpus: Sequence[Path] = GPUS) -> bool:
    """Return whether the processor has no instructions for bfloat16 and no GPU is there to compute instead.

    False where the machine does not say.
    """
    if any(gpu.exists() for gpu in gpus):
        return False
    try:
        lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return False
    stated = [set(line.partition(":")[2].split()) for line in lines if line.startswith(("flags", "Features"))]
    return bool(stated) and not any(flags & _INSTRUCTIONS for flags in stated)
