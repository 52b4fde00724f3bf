"""Order the units that make and search models: an eraser may start from what an attack made of an earlier eraser's model."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from audit.plan.document import Draft


def training_rounds(plan: Draft) -> dict[str, int]:
    """Return the round of each erase and attack unit by key: erase units of a round come before its attack units.

    Nothing in a round depends on a later one. All units are in round 0 unless a model is erased again.
    """
    units = plan.units.select(["kind", "key", "depends"])
    chosen = units.filter(pc.is_in(units["kind"], value_set=pa.array(["erase", "attack"])))
    rows = {row["key"]: row for batch in chosen.to_batches() for row in batch.to_pylist()}
    rounds: dict[str, int] = {}
    for key, row in rows.items():  # in plan order: what a unit depends on was planned before it
        before = [rounds[other] for other in row["depends"] if other in rounds]
        rounds[key] = max(before, default=-1) + 1 if row["kind"] == "erase" else max(before, default=0)
    return rounds
