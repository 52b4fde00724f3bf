"""Write the generated pages of the documentation: `python -m docs.reference`. A test holds that they are up to date."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

from audit.attacks.registry import ATTACKS
from audit.erasers import ERASERS
from audit.erasers.esd_parameters import EsdParameters
from audit.guards import GUARDS
from audit.methods.method import Method
from audit.methods.registry import Registry
from audit.spec import reference

M = TypeVar("M", bound=Method)
_ERASERS = ("uce", "rece", "speed", "receler", "concept-ablation", "spm", "mace", "advunlearn")
FOLDER = Path(__file__).parent
GENERATED = "<!-- Written by `python -m docs.reference`; edit the models' docstrings instead. -->\n"

SPEC = """# Spec reference

A spec is one YAML file; unknown fields are refused, and every mistake is listed with its field in one message. The
specs in `deployments/specs/` run as they are. The fields of the whole:

"""
PARAMETERS = """# Parameters of the methods

Every parameter of erasers, attacks and guards, with its type and its own default. A preset sets some of them, and where
the spec names none, the method's default preset does ([what each preset reproduces](presets.md)); `parameters` in the
spec sets single ones over the preset. A name that a method does not have is refused.
"""


def parameters() -> Iterator[str]:
    """Yield the lines of the page of parameters."""
    families = {
        "Erasers": {"ESD": EsdParameters, **{name: ERASERS.find(name, "docs").parameters for name in _ERASERS}},
        "Attacks": {one.name: one.parameters for one in _methods(ATTACKS) if one.presets},
        "Guards": {one.name: one.parameters for one in _methods(GUARDS)},
    }
    for family, methods in families.items():
        yield from ("", f"## {family}")
        for name, model in methods.items():
            yield from ("", f"### {name}", "", *inspect.cleandoc(model.__doc__ or "").splitlines(), "")
            yield from reference.table(model, model.model_json_schema())


def _methods(registry: Registry[M]) -> list[M]:
    return [item.method for item in registry.installed() if item.method is not None]


def pages() -> dict[str, str]:
    """Return file name -> text of every generated page."""
    return {
        "spec.md": GENERATED + "\n" + SPEC + reference.page(),
        "parameters.md": GENERATED + "\n" + PARAMETERS + "\n".join(parameters()) + "\n",
    }


if __name__ == "__main__":
    for name, text in pages().items():
        (FOLDER / name).write_text(text)
