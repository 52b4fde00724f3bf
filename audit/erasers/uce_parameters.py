"""Parameters of UCE: the official defaults for Stable Diffusion v1.x, and the testbed's preset. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

from pydantic import Field

from audit.checkpoints.key_sets import is_text_entry
from audit.erasers.costs import tensor_bytes
from audit.erasers.method import EraserMethod
from audit.erasers.parameters import Parameters, Template
from audit.methods.parameters import Values


class EditParameters(Parameters):
    """Options that the closed forms share: the token states that are erased, their guide, and the neighbours."""

    LATER: ClassVar[frozenset[str]] = frozenset({"wrap_guide", "wrap_preserved"})

    guide: str = ""
    "The words that the concept is mapped to; none is the null prompt."
    tokens: Literal["last", "tail"] = "last"
    """Positions of a prompt that are edited: `last` is the concept's last token (2025). `tail` runs from there through every
    padding position and preserves whole sequences and the null prompt's (2023): it also reaches what a causal text encoder
    copies into later positions."""
    templates: tuple[Template, ...] = ()
    "Further prompts that are erased, beside the concept alone; `{phrase}` stands for it."
    wrap_guide: bool = False
    "Put the guide into the templates too."
    wrap_preserved: bool = True
    "Put the preserved concepts into the templates too."
    preserve_neighbours: bool = True
    "Hold the concept's neighbours in place."

    @property
    def preserves(self) -> bool:
        """Whether neighbours are held in place."""
        return self.preserve_neighbours


class UceParameters(EditParameters):
    """Options of the closed-form edit. Defaults are those of the official Stable Diffusion script (2025)."""

    regularisation: float = Field(0.5, gt=0)
    "Pull of the edit towards the old matrix (lambda)."
    erase_scale: float = Field(1.0, gt=0)
    "Weight of each erased token state (s_e)."
    preserve_scale: float | None = Field(1.0, ge=0)
    """Weight of each preserved token state (s_p); 0 preserves nothing. `null` is one over the number of preserved texts, the
    null prompt among them, and no less than 0.1, as in the official code of 2023."""

    @property
    def preserves(self) -> bool:
        """Whether neighbours are held in place."""
        return self.preserve_neighbours and self.preserve_scale != 0

    def scale(self, preserved: int) -> float:
        """Return the weight of each of so many preserved concepts."""
        return self.preserve_scale if self.preserve_scale is not None else max(0.1, 1 / (1 + preserved))


PRESETS: Mapping[str, Mapping[str, object]] = {
    "official": {"wrap_guide": True, "wrap_preserved": False},
    "official-2023": {"tokens": "tail", "preserve_scale": None, "wrap_preserved": False},
    "wrapped-neighbours": {},
    # The testbed's text encoder is trained from scratch and carries the class word into the end and padding positions,
    # so editing the word's own position alone leaves the concept readable there.
    "testbed": {
        "tokens": "tail",
        "templates": ("a photo of a {phrase}", "a {phrase}"),
        "regularisation": 0.1,
        "erase_scale": 4.0,
    },
}
ODDITIES: Mapping[str, str] = {
    "official": "with templates the guide is wrapped too, an empty one to its template's last word, and neighbours never are",
    "official-2023": "with templates neither the guide nor the neighbours are wrapped",
}


def stored_keys_and_values(values: Values, unet: Mapping[str, Sequence[int]]) -> int:
    """Return the bytes of the matrices that text enters by: the keys and values of a UNet's every attn2."""
    if any(is_text_entry(name) for name in unet):
        return tensor_bytes(values, unet, is_text_entry)
    return tensor_bytes(values, unet, lambda name: ".attn2.to_k." in name or ".attn2.to_v." in name)


METHOD = EraserMethod(
    "uce",
    "3",  # 1 preserved a neighbour even when it was erased itself; 2 aligned tails at their ends
    UceParameters,
    "audit.erasers.uce:erase",
    "Gandikota et al. 2024, arXiv 2308.14761",
    presets=PRESETS,
    default="official",
    words=("guide",),
    oddities=ODDITIES,
    stored=stored_keys_and_values,
    families=("sd1", "sd2", "sdxl", "sd3", "flux"),
)
