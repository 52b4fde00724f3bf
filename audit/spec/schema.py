"""The form of a spec as a JSON Schema (draft 2020-12), for editors: generated from the models, never kept by hand.

A schema cannot say what must hold between sections; `load_spec` does.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from audit.spec.document import Spec
from audit.spec.reference import descriptions, models_of

DIALECT = "https://json-schema.org/draft/2020-12/schema"
# Filled in when an audit is planned; a spec that somebody writes has none of them.
_FILLED_IN = {"Concept": ("neighbour_phrases",), "BenignSpec": ("subjects", "instrument")}


def spec_schema(
    erasers: Mapping[str, Collection[str]], guards: Collection[str], attacks: Mapping[str, Collection[str]]
) -> dict[str, Any]:
    """Return the JSON Schema of a spec.

    `erasers` are the methods that a run can erase with, with the presets of each; `guards` the names of the guards;
    `attacks` the presets of the scenarios that search, by the scenario's model.
    """
    schema = Spec.model_json_schema()
    parts = schema["$defs"]
    for part, fields in _FILLED_IN.items():
        for field in fields:
            del parts[part]["properties"][field]
    for part, model in models_of(Spec).items():
        fields = (schema if model is Spec else parts[part])["properties"]
        for field, sentence in descriptions(model).items():
            if field in fields:
                fields[field]["description"] = " ".join(sentence.split())
    _short_forms(parts)
    for scenario, presets in attacks.items():
        parts[scenario]["properties"]["preset"] |= _optional({"enum": sorted(presets)})
    _methods(parts, erasers, guards)
    return {"$schema": DIALECT, **schema, "title": "Spec of erasure-audit"}


def _short_forms(parts: dict[str, Any]) -> None:
    """What may also be written in one word: the validators of the models make the long form of it."""
    written_out = parts["Perturbation"]
    parts["Perturbation"] = {"anyOf": [{"type": "number", "exclusiveMinimum": 0}, written_out]}
    where = parts["PromptSource"]["properties"]["where"]
    where["additionalProperties"] = {"anyOf": [{"type": "string"}, where["additionalProperties"]]}


def _methods(parts: dict[str, Any], erasers: Mapping[str, Collection[str]], guards: Collection[str]) -> None:
    """The names of methods; of a checkpoint's eraser any name will do, because it is the writer's claim."""
    parts["Guard"]["properties"]["name"]["enum"] = list(guards)
    presets = sorted({preset for each in erasers.values() for preset in each})
    parts["Eraser"]["properties"]["preset"] |= _optional({"enum": presets})
    loaded = {"properties": {"checkpoint": {"type": "string"}}, "required": ["checkpoint"]}
    parts["Eraser"] |= {"if": loaded, "else": {"properties": {"method": {"enum": list(erasers)}}}}


def _optional(schema: dict[str, Any]) -> dict[str, Any]:
    return {"anyOf": [schema, {"type": "null"}], "default": None}
