"""Imports are kept out of the garbage collector's way, and it works as before afterwards."""

from __future__ import annotations

import gc
import subprocess
import sys

import pytest

from audit.machine.garbage import lasting

PROGRAM = """
import gc
from audit.machine.garbage import lasting
with lasting():
    import duckdb
    within = gc.isenabled()
print(within, gc.isenabled(), gc.get_freeze_count() > 10_000)
duckdb.sql("select 1").fetchall()
"""


def test_what_the_block_makes_is_not_walked_again_and_a_library_sees_no_leak_at_the_end() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    assert (done.stdout.split(), done.stderr) == (["False", "True", "True"], "")


@pytest.mark.parametrize("collecting", [True, False])
def test_a_failed_import_leaves_the_collector_as_it_was(collecting: bool) -> None:
    was = gc.isenabled()
    (gc.enable if collecting else gc.disable)()
    try:
        with pytest.raises(ImportError), lasting():
            raise ImportError
        assert gc.isenabled() is collecting
    finally:
        gc.unfreeze()
        (gc.enable if was else gc.disable)()
