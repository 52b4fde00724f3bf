"""Pictures that inversions have denoised already, on their round trips."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from audit.compute.models import Models
from audit.compute.stages.inputs import unit_result
from audit.compute.stages.invert import RETURNED, returned_anew
from audit.plan.identities import GenerateIdentity, InvertIdentity, from_json, is_round_trip
from audit.records import Case
from audit.storage.journal import Journal


class RoundTrips:
    """The round trips that end in the pictures of one unit.

    With `reuse` their ends are read from the journal; without it they are denoised once more, in batches of `batch_size`
    as the round trips were, on which the last bits depend.
    """

    def __init__(
        self, pictures: GenerateIdentity, models: Models, journal: Journal, batch_size: int, *, reuse: bool
    ) -> None:
        self._pictures, self._models, self._journal = pictures, models, journal
        self._batch_size, self._reuse = batch_size, reuse
        self._anew: dict[str, tuple[dict[str, torch.Tensor], int]] = {}  # by invert unit

    def ends(self, cases: Sequence[Case]) -> tuple[torch.Tensor, int] | None:
        """Return the ends (B, C, H, W) of the round trips that denoised these latents as the unit would; None unless all did.

        Second, the UNet evaluations that were made for each here: none with `reuse`.
        A batch is taken whole or not at all, so that what is denoised here is denoised in batches of the usual size.
        """
        keys = [case.invert_key or "" for case in cases]
        units = {key: unit_result(self._journal, "invert", key) for key in keys}
        inversions = {key: from_json("invert", unit.identity) for key, unit in units.items() if unit.identity}
        ends, calls = list[torch.Tensor](), 0
        for case, key in zip(cases, keys, strict=True):
            inversion, end = inversions.get(key), units[key].tensors.get((case.item or "") + RETURNED)
            if end is None or not isinstance(inversion, InvertIdentity) or not is_round_trip(self._pictures, inversion):
                return None
            if (case.prompt or "") != inversion.prompt:
                return None
            if not self._reuse:
                trip, calls = self._made_anew(key)
                end = trip[case.item or ""].cpu()
            ends.append(end)
        return (torch.stack(ends), calls) if ends else None

    def _made_anew(self, key: str) -> tuple[dict[str, torch.Tensor], int]:
        """Return the ends of an invert unit's round trip by item, denoised once more, and the UNet evaluations for each."""
        if key not in self._anew:
            unit = unit_result(self._journal, "invert", key)
            inverted = from_json("invert", unit.identity)
            assert isinstance(inverted, InvertIdentity)
            items = [item for item in unit.rows if item in unit.tensors]
            self._anew[key] = returned_anew(self._models, inverted, items, unit.tensors, self._batch_size)
        return self._anew[key]
