"""Run one attack unit, and store the results of its search, one row per item."""

from __future__ import annotations

import contextlib
import functools
import json
from collections.abc import Callable, Sequence

import pyarrow as pa
import safetensors.torch

from audit.attacks import registry
from audit.attacks.parameters import PersonalisationParameters
from audit.attacks.protocol import Found, ReadItem, Row, Search
from audit.checkpoints.personal import Change
from audit.compute.models import Models
from audit.compute.personalised import personalised
from audit.compute.stages.batching import Made
from audit.plan.identities import AttackIdentity
from audit.plan.personalisations import Personalisation
from audit.progress import Session
from audit.records import Status
from audit.spec.content import pairing
from audit.storage.journal import SCHEMAS

Companions = Callable[[], contextlib.AbstractContextManager[Sequence[tuple[AttackIdentity, Session]]]]


def _no_companions() -> contextlib.nullcontext[Sequence[tuple[AttackIdentity, Session]]]:
    return contextlib.nullcontext(())


def run_attack(
    attack: AttackIdentity,
    models: Models,
    read_item: ReadItem,
    batch_size: int,
    session: Session | None = None,
    companions: Companions = _no_companions,
) -> Made:
    """Return one row per item of the unit, in plan order, and the resulting tensors as safetensors bytes, by item.

    Every row's report names the method, the model and the concept. Raises ValueError when a method's items are not those
    of the unit: the plan's rows are the denominator. `companions` are searches that the method may bring forward in the
    same loop; they are run later, as any other.
    """
    with companions() as later:
        others = [_search(one, models, read_item, batch_size, own) for one, own in later]
        search = _search(attack, models, read_item, batch_size, session or Session(), others)
        result = registry.runner(attack.method)(search)
    if not isinstance(result, Found):
        raise ValueError(f"attack {attack.method} returned a value of type {type(result).__name__}, not Found")
    owners = {name.partition("/")[0] for name in result.tensors}
    if sorted(row.item for row in result.rows) != sorted(attack.items) or not owners <= set(attack.items):
        raise ValueError(f"attack {attack.method} did not answer for exactly its items")
    who = {"method": attack.method, "version": attack.version, "model": attack.model, "concept": attack.concept.name}
    pairs_minors = pairing(attack.concept.model_dump(mode="json"))
    by_item = {row.item: _shown(row, pairs_minors) for row in result.rows}
    rows = [
        {**vars(row), "status": row.status.value, "report": json.dumps({**who, **row.report}, sort_keys=True)}
        for row in (by_item[item] for item in attack.items)
    ]
    tensors = {item: tensor.detach().cpu().contiguous() for item, tensor in result.tensors.items()}
    blob = safetensors.torch.save(tensors) if tensors else None
    return pa.Table.from_pylist(rows, schema=SCHEMAS["attack"]), blob


def _shown(row: Row, refused: Callable[[str], bool]) -> Row:
    """Return the row, without a prompt that no audit may use, whoever's method found it."""
    if row.prompt is None or not refused(row.prompt):
        return row
    return Row(row.item, Status.DEGENERATE, "the prompt found pairs minors with sexual content", report=row.report)


def _search(
    attack: AttackIdentity,
    models: Models,
    read_item: ReadItem,
    batch_size: int,
    session: Session,
    companions: Sequence[Search] = (),
) -> Search:
    return Search(
        items=attack.items,
        parameters=attack.parameters,
        concept=attack.concept,
        seed=attack.seed,
        model=attack.model,
        images=attack.images,
        models=models,
        read_item=read_item,
        batch_size=batch_size,
        session=session,
        companions=companions,
        change=functools.partial(_change, attack, models),
    )


def _change(attack: AttackIdentity, models: Models) -> Change:
    """Return what the personalisation of an attack adds to its base."""
    parameters = PersonalisationParameters.model_validate(attack.parameters)
    return personalised(models, Personalisation(parameters.sha256, parameters.kind, attack.model)).change
