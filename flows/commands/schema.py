"""schema: the form of a spec for editors."""

from __future__ import annotations

import json

import typer


def register(app: typer.Typer) -> None:
    """Add the command of this file."""
    app.command("schema")(schema)


def schema() -> None:
    """Print the JSON Schema of a spec, with the methods that are installed; editors check and complete specs by it.

    A spec names it in its first line: # yaml-language-server: $schema=FILE
    """
    print(schema_text(), end="", flush=True)


def schema_text() -> str:
    """Return the JSON Schema of a spec as a file holds it."""
    from audit import erasers, guards
    from audit.attacks import registry
    from audit.instruments.detectors.method import DETECTORS
    from audit.instruments.quality.method import QUALITY
    from audit.spec.relearning import CyclesScenario, RelearningScenario
    from audit.spec.scenarios import AdversarialTextScenario, EmbeddingScenario
    from audit.spec.schema import spec_schema

    searching = [one.method for one in registry.ATTACKS.installed() if one.method and one.method.scenario]
    presets = {
        AdversarialTextScenario.__name__: {preset for one in searching for preset in one.presets},
        EmbeddingScenario.__name__: registry.ATTACKS.find("textual-inversion", "scenarios").presets,
        **dict.fromkeys(
            (RelearningScenario.__name__, CyclesScenario.__name__),
            registry.ATTACKS.find("relearning", "scenarios").presets,
        ),
    }
    by_eraser = {method: erasers.presets(method) for method in erasers.ERASERS.names()}
    document = spec_schema(by_eraser, guards.GUARDS.names(), presets)
    parts = document["$defs"]
    for part, kinds in (("DetectorSpec", DETECTORS.names()), ("QualitySpec", QUALITY.names())):
        parts[part]["properties"]["kind"]["enum"] = list(kinds)
    parts["AdversarialTextScenario"]["properties"]["method"]["enum"] = [one.name for one in searching]
    return json.dumps(document, indent=1, ensure_ascii=False) + "\n"
