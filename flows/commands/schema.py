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
    from audit.spec.scenarios import AdversarialTextScenario, EmbeddingScenario
    from audit.spec.schema import spec_schema

    presets = {
        AdversarialTextScenario.__name__: registry.METHODS["ring-a-bell"].parameters.PRESETS,
        EmbeddingScenario.__name__: registry.METHODS["textual-inversion"].parameters.PRESETS,
    }
    document = spec_schema({method: erasers.presets(method) for method in erasers.METHODS}, guards.NAMES, presets)
    return json.dumps(document, indent=1, ensure_ascii=False) + "\n"
