"""The JSON Schema of a spec (draft 2020-12), for editors: generated from the models, never kept by hand.

A schema cannot say what must hold between sections; `load_spec` does.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from pydantic.json_schema import JsonSchemaValue

from audit.spec.document import Spec
from audit.spec.reference import descriptions, models_of

DIALECT = "https://json-schema.org/draft/2020-12/schema"
# Filled in when an audit is planned; a spec that somebody writes has none of them.
_FILLED_IN = {"Concept": ("neighbour_phrases",), "BenignSpec": ("subjects", "instrument")}


def spec_schema(
    erasers: Mapping[str, Collection[str]], guards: Collection[str], attacks: Mapping[str, Collection[str]]
) -> JsonSchemaValue:
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


def _short_forms(parts: JsonSchemaValue) -> None:
    """Add the short forms of some sections, of which the models' validators make the long ones."""
    written_out = parts["Perturbation"]
    parts["Perturbation"] = {"anyOf": [{"type": "number", "exclusiveMinimum": 0}, written_out]}
    where = parts["PromptSource"]["properties"]["where"]
    where["additionalProperties"] = {"anyOf": [{"type": "string"}, where["additionalProperties"]]}


def _methods(parts: JsonSchemaValue, erasers: Mapping[str, Collection[str]], guards: Collection[str]) -> None:
    """Add the names of methods; a checkpoint's eraser may have any name, because it is the writer's claim."""
    parts["Guard"]["properties"]["name"]["enum"] = list(guards)
    presets = sorted({preset for each in erasers.values() for preset in each})
    parts["Eraser"]["properties"]["preset"] |= _optional({"enum": presets})
    loaded = {"properties": {"checkpoint": {"type": "string"}}, "required": ["checkpoint"]}
    parts["Eraser"] |= {"if": loaded, "else": {"properties": {"method": {"enum": list(erasers)}}}}


def _optional(schema: JsonSchemaValue) -> JsonSchemaValue:
    return {"anyOf": [schema, {"type": "null"}], "default": None}
