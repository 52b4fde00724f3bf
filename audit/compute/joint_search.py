"""Attack units that differ in their concept alone, searched for in one loop where a UNet call has room for them.

The first unit to run takes the others along as far as their last checkpoints; each is completed and journalled when it is
its own turn, by the code that resumes an interrupted search. So units, keys and reports stay what they are one by one.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

from audit.attacks import registry
from audit.compute.training_folders import training_session
from audit.plan.document import Plan
from audit.progress import Session
from audit.records import Unit
from audit.storage.journal import Journal

_OWN = {"concept", "images"}  # what companions may differ in


@contextlib.contextmanager
def companions(
    plan: Plan, journal: Journal, unit: Unit, batch_size: int, taken: set[str]
) -> Iterator[list[tuple[Unit, Session]]]:
    """A block with the pending units to take along with `unit`, and where each keeps its checkpoints.

    Units in `taken` have been taken along before; those that have a checkpoint when the block ends are added to it. A
    unit that another process of this machine trains, or that has no place for checkpoints, is left for its own turn.
    """
    taken.add(unit.key)
    room = registry.room_for_more(unit.identity, batch_size)
    with contextlib.ExitStack() as stack:
        found: list[tuple[Unit, Session]] = []
        for later in plan.pending("attack", journal) if room else ():
            if len(found) == room:
                break
            if later.key in taken or _shared(later.identity) != _shared(unit.identity):
                continue
            session = stack.enter_context(training_session(later, ends=False))
            if session.folder is not None:
                found.append((later, session))
        yield found
        taken.update(later.key for later, session in found if session.folder and any(session.folder.iterdir()))


def _shared(described: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in described.items() if name not in _OWN}
