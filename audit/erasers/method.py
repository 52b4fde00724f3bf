"""An eraser as its entry point names it. Imports no torch."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence

from audit.erasers.parameters import Parameters, resolve_with
from audit.methods.method import Method
from audit.methods.parameters import Values

Calls = tuple[float, float, float]  # low, expected, high


def no_calls(values: Values, concept: Values) -> Calls:
    """Return the UNet evaluations of a closed form."""
    return 0, 0, 0


def no_bytes(values: Values, unet: Mapping[str, Sequence[int]]) -> int:
    """Return the stored bytes of a method that does not say how many they are."""
    return 0


@dataclasses.dataclass(frozen=True)
class EraserMethod(Method):
    """An eraser. `run(pipeline, concepts, values, session)` returns `audit.erasers.base.Made`.

    `default` is the preset where the spec names none; on the testbed it is `testbed`, where there is one. `oddities` says
    of presets what the official code does unlike its paper. `called` are names that people write and that are refused with
    a hint. `words` are the parameters whose text the text encoder has to read; `separator` is what no phrase may hold,
    since the method's file lists phrases by it. `calls` gives the UNet evaluations of one training for a concept, a
    backward pass counted as two; `stored` the bytes of the tensors that the method changes or adds, for a UNet's shapes by
    diffusers names. `families` are those of `audit.weights.families` whose networks the method can change. `again` says that
    it can start from a model that it has erased before and that was trained since.
    """

    parameters: type[Parameters]
    _: dataclasses.KW_ONLY
    default: str | None = None
    oddities: Mapping[str, str] = dataclasses.field(default_factory=dict)
    called: tuple[str, ...] = ()
    words: tuple[str, ...] = ()
    separator: str = ""
    calls: Callable[[Values, Values], Calls] = no_calls
    stored: Callable[[Values, Mapping[str, Sequence[int]]], int] = no_bytes
    families: tuple[str, ...] = ("sd1", "sd2")
    again: bool = True

    def resolve(self, preset: str | None, given: Mapping[str, object]) -> Values:
        """Return every parameter's value: defaults, then the preset, then what is given.

        Raises `SpecError` that names the preset or the first bad parameter.
        """
        return resolve_with(self.parameters, self.presets, self.name, preset or self.default, given)
