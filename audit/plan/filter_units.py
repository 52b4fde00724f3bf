"""Plan the rulings of filters. They decide on pictures that are planned without them, so that these are made once."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from audit import guards, identity
from audit.plan.identities import FilterIdentity, filter_id_of
from audit.plan.planned_units import PlannedUnits
from audit.plan.resolved import Resolved
from audit.records import Cell, CellFilter, Control, ResolvedGuard


class Filters:
    """The filters of a plan's defences."""

    def __init__(self, resolved: Resolved, units: PlannedUnits) -> None:
        self._resolved, self._units = resolved, units
        self._known: dict[tuple[str, str], tuple[ResolvedGuard, ...]] = {}  # by defence and concept

    def of(self, cell: Cell) -> tuple[ResolvedGuard, ...]:
        """Return the filters that decide which pictures of a cell are handed out; none for random latents.

        That control says what the model shows of itself, which no filter may hide.
        """
        key = cell.defence, cell.concept
        if cell.control is Control.RANDOM_LATENT:
            return ()
        if key not in self._known:
            spec, digests = self._resolved.spec, self._resolved.energy_digests()
            listed = guards.filters(spec.defence(cell.defence).guards)
            concept = spec.concept(cell.concept)
            self._known[key] = tuple(ResolvedGuard(**guards.resolve(guard, concept, digests)) for guard in listed)
        return self._known[key]

    def plan(
        self, filters: Sequence[ResolvedGuard], generate: Iterable[str], attacks: Sequence[str], cell: int
    ) -> None:
        """Plan one unit for each filter and generate unit of a cell. A filter of prompts waits for no picture."""
        code = identity.code_digest("filter") if filters else ""
        for described in filters:
            of_prompts = guards.reads(described.name) == "prompt"
            for key in generate:
                unit = self._units[key]
                depends = [needed for needed in unit.depends if needed in attacks] if of_prompts else [key]
                self._units.add(FilterIdentity(key, described, code), depends, unit.rows, [cell])


def numbered(filters: Sequence[ResolvedGuard]) -> tuple[CellFilter, ...]:
    """Return the filters as a cell of the plan names them."""
    return tuple(CellFilter(filter_id_of(one), one.name) for one in filters)
