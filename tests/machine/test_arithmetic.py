"""What the machine says of bfloat16."""

from __future__ import annotations

from pathlib import Path

import pytest

from audit.machine.arithmetic import emulates_bfloat16


@pytest.mark.parametrize(
    ("said", "emulated"),
    [
        ("processor\t: 0\nflags\t\t: fpu sse2 avx2 fma\n", True),
        ("flags\t\t: fpu avx512f avx512_bf16 avx512_vnni\n", False),
        ("flags\t\t: fpu amx_bf16 amx_tile\n", False),
        ("Features\t: fp asimd bf16 sve\n", False),
        ("Features\t: fp asimd\n", True),
        ("", False),  # nothing said, nothing claimed
    ],
)
def test_bfloat16_is_emulated_where_no_instruction_is_listed(tmp_path: Path, said: str, emulated: bool) -> None:
    cpuinfo, gpu = tmp_path / "cpuinfo", tmp_path / "nvidiactl"
    cpuinfo.write_text(said)
    assert emulates_bfloat16(cpuinfo, [gpu]) is emulated
    gpu.touch()
    assert not emulates_bfloat16(cpuinfo, [gpu])


def test_a_machine_that_lists_nothing_is_not_accused(tmp_path: Path) -> None:
    assert not emulates_bfloat16(tmp_path / "none", [])
