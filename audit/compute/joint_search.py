"""Run attack units that differ in their concept alone in one loop, where a UNet call has room for several searches.

The first unit to run takes the others along as far as their last checkpoints. Each is completed and journalled in its
own turn, by the code that resumes an interrupted search, so that units, keys and reports are the same as one by one.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator

from audit.attacks import registry
from audit.compute.training_folders import training_session
from audit.plan.document import Plan
from audit.plan.identities import AttackIdentity, Identity, Unit, as_json
from audit.progress import Session
from audit.storage.journal import Journal


@contextlib.contextmanager
def companions(
    plan: Plan, journal: Journal, unit: Unit, batch_size: int, taken: set[str]
) -> Iterator[list[tuple[AttackIdentity, Session]]]:
    """Open a block with the pending searches to run together with `unit`, each with the session that keeps its checkpoints.

    Units in `taken` have been taken along before; those that have a checkpoint when the block ends are added to it. A
    unit that another process of this machine trains, or that has no place for checkpoints, is left for its own turn.
    """
    taken.add(unit.key)
    room = registry.room_for_more(as_json(unit.identity), batch_size)
    with contextlib.ExitStack() as stack:
        together: dict[str, tuple[AttackIdentity, Session]] = {}
        for later in plan.pending("attack", journal) if room else ():
            if len(together) == room:
                break
            if later.key in taken or not _differ_in_concept_alone(later.identity, unit.identity):
                continue
            session = stack.enter_context(training_session(later, ends=False))
            if session.folder is not None and isinstance(later.identity, AttackIdentity):
                together[later.key] = later.identity, session
        yield list(together.values())
        taken.update(key for key, (_, session) in together.items() if session.folder and any(session.folder.iterdir()))


def _differ_in_concept_alone(one: Identity, other: Identity) -> bool:
    """Return whether two searches have all in common but their concept and its images."""
    if not isinstance(one, AttackIdentity) or not isinstance(other, AttackIdentity):
        return False
    return dataclasses.replace(one, concept=other.concept, images=other.images) == other
