"""Read what a relearning unit trained, as a change of the weights of the model that it was trained on."""

from __future__ import annotations

from audit.checkpoints.personal import Change, trained_change, trained_network
from audit.compute.stages.inputs import unit_result
from audit.errors import EraserError
from audit.plan.identities import AttackIdentity, from_json
from audit.plan.personalisations import Relearned
from audit.records import Status
from audit.storage.journal import Journal


def relearned_change(journal: Journal, chosen: Relearned) -> Change:
    """Return the change of a LoRA, or of a network trained whole. Raises `JournalError` when its unit is absent."""
    trained = unit_result(journal, "attack", chosen.attack)
    attack = from_json("attack", trained.identity)
    assert isinstance(attack, AttackIdentity)
    if attack.parameters.get("trains") == "network":
        return trained_network(trained.tensors, chosen.item)
    rank, alpha = attack.parameters["rank"], attack.parameters["alpha"]
    assert isinstance(rank, int) and not isinstance(alpha, bool | str | list | dict)
    return trained_change(trained.tensors, chosen.item, rank, alpha)


def require_trained(journal: Journal, chosen: Relearned) -> None:
    """Raise `EraserError` when a training did not reach its end: no model is edited by it, and none can be erased again."""
    row = unit_result(journal, "attack", chosen.attack).rows[chosen.item]
    if row["status"] != Status.OK:
        raise EraserError(
            f"the model to erase again was not edited: {row['error']}",
            where=f"attack unit {chosen.attack}",
            next_step="change the parameters of the scenario, a smaller learning_rate first",
        )
