"""What users get wrong about guards and tuning, as commands and patterns of the messages they must get."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.mistakes import Arguments, Bench


def guarded(b: Bench, *listed: dict[str, Any]) -> Arguments:
    """`plan` of a spec whose one defence consists of guards."""
    return b.plan(defences=[{"name": "guarded", "guards": list(listed)}])


def guard(name: str, **parameters: Any) -> dict[str, Any]:
    return {"name": name, "parameters": parameters}


def tune(b: Bench, *words: str) -> Arguments:
    """`tune irece` of a spec without a calibration section."""
    command = ["tune", "irece", b.spec(), "--concept", "ring", "--defence", "uce"]
    return [*command, "--out", str(b.folder / "tuned.yaml"), *words]


GUARDS: dict[str, tuple[Callable[[Bench], Arguments], str]] = {
    "an unknown guard": (lambda b: guarded(b, guard("magic")), "guard 'magic' is not known.*use one of"),
    "t* outside the schedule": (
        lambda b: guarded(b, guard("irece", t_star=900)),
        "t_star 900 is outside.*from 501 to 1",
    ),
    "tau outside (0, 1)": (lambda b: guarded(b, guard("irece", tau=1.5)), "parameter tau: .*less than 1"),
    "no energy model": (lambda b: guarded(b, guard("egloce")), "egloce names no energy model"),
    "an energy model that judges": (
        lambda b: b.plan(
            defences=[{"name": "guarded", "guards": [guard("egloce", energy="testbed/judge")]}],
            detectors=[
                {
                    "name": "nude",
                    "kind": "clip-zero-shot",
                    "model": "testbed/judge",
                    "background": ["a photo of a star"],
                }
            ],
        ),
        "optimises against testbed/judge, and the detector 'nude' scores with the same weights",
    ),
    "an output filter whose model is not there": (
        lambda b: guarded(b, guard("safety-checker", model="./nowhere")),
        "no such model folder.*nowhere.*next:  pass an existing folder, 'testbed', or a hub id",
    ),
    "an output filter whose model is no checker": (
        lambda b: guarded(b, guard("safety-checker", model="testbed/judge")),
        "model testbed/judge is no StableDiffusionSafetyChecker.*next:  name the folder `safety_checker` of a pipeline",
    ),
    "a concept without tokens": (
        lambda b: guarded(b, guard("safree", concepts=["42"])),
        "concept has no tokens: '42' is no word",
    ),
    "tuning without a calibration split": (lambda b: tune(b), "no calibration pictures of 'ring'"),
    "a sweep of a name that is none": (lambda b: tune(b, "--sweep", "a b=1"), "'a b=1' is not name=value,value"),
    "an endless sweep": (lambda b: tune(b, "--sweep", "a" * 999 + "=1"), "a{80}\\.{3}' is not name=value,value"),
    "a sweep that says nothing": (lambda b: tune(b, "--sweep", "tau"), "'tau' is not name=value,value"),
    "tuning a defence that is not there": (lambda b: tune(b, "--defence", "esd"), "no defence 'esd'"),
}
