"""`python -m audit.testbed.erased`: erase classes from the testbed's UNet by each method, into `erased/METHOD-CLASS`.

What is there already is kept, as long as backbone and parameters are the same; a training that was interrupted goes on.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path

from audit import erasers
from audit.erasers.request import OtherArtefact, Request, fulfil, summary
from audit.progress import Silent
from audit.spec.sections import Concept
from audit.testbed.captions import CLASSES

ERASED = Path(__file__).parent / "erased"
METHODS = ("esd-x", "uce", "receler")
CONCEPTS = ("ring", "star")
# What ships was trained in bfloat16, on a processor that computes in it. Elsewhere that takes many times as long as float32.
SHIPPED = {"esd-x": {"compute": "bfloat16"}, "receler": {"compute": "bfloat16"}}


class Lines(Silent):
    """Shows losses as plain lines."""

    def note(self, text: str) -> None:
        """Print the line."""
        print(text, file=sys.stderr, flush=True)


def request(method: str, concept: str) -> Request:
    """Return the request of a shipped model: one class erased with the testbed's preset, stored in float16.

    The nine other classes are its neighbours.
    """
    neighbours = tuple(name for name in CLASSES if name != concept)
    erased = Concept(name=concept, phrase=concept, neighbours=neighbours)
    parameters: dict[str, object] = {"stored": "float16", **SHIPPED.get(method, {})}
    return Request(backbone="testbed", method=method, concepts=(erased,), preset="testbed", parameters=parameters)


def make(method: str, concept: str, folder: Path = ERASED, device: str | None = None) -> Path:
    """Return the path of one erased model; make it anew when the shipped one is of another backbone or other parameters."""
    out = folder / f"{method}-{concept}"
    wanted = request(method, concept)
    try:
        path, record = fulfil(wanted, out, device=device, listener=Lines(), official=False)
    except OtherArtefact:
        shutil.rmtree(out)
        path, record = fulfil(wanted, out, device=device, listener=Lines(), official=False)
    print(f"{out.name}: {'kept' if record is None else summary(record)}", flush=True)
    return path


def main() -> None:
    """Make what is missing or out of date."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--methods", nargs="+", default=METHODS, choices=erasers.ERASERS.names())
    parser.add_argument("--concepts", nargs="+", default=CONCEPTS, choices=CLASSES)
    parser.add_argument("--out", type=Path, default=ERASED)
    parser.add_argument("--device")
    arguments = parser.parse_args()
    for concept in arguments.concepts:
        for method in arguments.methods:
            make(method, concept, arguments.out, arguments.device)


if __name__ == "__main__":
    main()
