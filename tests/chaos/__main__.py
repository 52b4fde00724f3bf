"""Run a campaign: python -m tests.chaos [--rounds N] [--seed S] [--only KIND] [--state FOLDER] [--round NUMBER]"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from pathlib import Path

from tests.chaos.campaign import line, opened, play, table
from tests.chaos.faults import usable
from tests.chaos.rounds import Results, draw


def main() -> int:
    """Run rounds until there are as many as were asked for; return 1 when one of them shows something."""
    faults = {fault.kind: fault for fault in usable()}
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--rounds", type=int, default=500, help="rounds in all, those of earlier calls included")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", choices=sorted(faults), help="one kind of fault")
    parser.add_argument("--round", type=int, action="append", help="play this round of the seed, again if need be")
    parser.add_argument("--state", type=Path, default=Path("build/chaos"), help="folder of the campaign")
    parser.add_argument("--table", action="store_true", help="only print the table")
    chosen = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))  # servers end with the campaign
    os.environ |= {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    state = chosen.state.absolute()
    state.mkdir(parents=True, exist_ok=True)
    results = Results(state / (f"results-{chosen.only}.jsonl" if chosen.only else "results.jsonl"))
    if not chosen.table:
        numbers = chosen.round or results.left(chosen.seed, chosen.rounds)
        with opened(state) as campaign:
            for number in numbers:
                drawn = draw(chosen.seed, number, list(faults.values()), chosen.only)
                result = play(campaign, drawn, faults[drawn.kind])
                print(line(result), flush=True)
                results.add(result)
    print(table(results.all))
    return int(any(result.bad for result in results.all))


if __name__ == "__main__":
    sys.exit(main())
