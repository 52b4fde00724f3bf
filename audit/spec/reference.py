"""Write the reference of the spec's fields as Markdown, from the models' own types and docstrings.

`python -m docs.reference` writes the page. A string on its own below a field is the field's description, as Sphinx and
pydantic read it; it is looked up here, when somebody asks, so that importing a spec does not parse its source.
"""

from __future__ import annotations

import ast
import inspect
import json
from collections.abc import Iterator, Mapping

from pydantic import BaseModel
from pydantic.json_schema import JsonSchemaValue

from audit.spec.fields import SpecFields

_TYPES = {"boolean": "true or false", "integer": "whole number", "number": "number", "string": "text", "null": "null"}
_LIMITS = {
    "minimum": "at least",
    "exclusiveMinimum": "more than",
    "maximum": "at most",
    "exclusiveMaximum": "less than",
}
_LONGEST_DEFAULT = 60  # characters in a table's cell


def descriptions(model: type[BaseModel]) -> dict[str, str]:
    """Return field -> description, for the fields of `model` and of its bases that have one."""
    sentences: dict[str, str] = {}
    for base in reversed(model.__mro__):
        if not issubclass(base, BaseModel) or base is BaseModel:
            continue
        (body,) = ast.parse(inspect.cleandoc("\n" + inspect.getsource(base))).body
        assert isinstance(body, ast.ClassDef)
        for field, text in zip(body.body, body.body[1:], strict=False):
            if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant):
                sentences[ast.unparse(field.target)] = str(text.value.value)
    return sentences


def models_of(model: type[BaseModel]) -> dict[str, type[BaseModel]]:
    """Return name -> model, of `model` and of every model that its fields hold, in the order in which they first appear."""
    models: dict[str, type[BaseModel]] = {}

    def visit(annotation: object) -> None:
        if inspect.isclass(annotation) and issubclass(annotation, BaseModel) and annotation.__name__ not in models:
            models[annotation.__name__] = annotation
            for field in annotation.model_fields.values():
                visit(field.annotation)
        for part in getattr(annotation, "__args__", ()):
            visit(part)

    visit(model)
    return models


def table(
    model: type[BaseModel], schema: JsonSchemaValue, known: Mapping[str, JsonSchemaValue] | None = None
) -> Iterator[str]:
    """Yield the lines of a table of a model's fields; `known` holds the schemas of the models that its fields hold."""
    meanings, required = descriptions(model), schema.get("required", ())
    titles = ["field", "type", "default", *(["meaning"] if meanings else [])]
    yield from (_row(titles), "|---" * len(titles) + "|")
    for name, field in schema["properties"].items():
        default = "required" if name in required else _default(field, known or {})
        yield _row([f"`{name}`", type_of(field), default, " ".join(meanings.get(name, "").split())][: len(titles)])


def _row(cells: list[str]) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def type_of(field: JsonSchemaValue) -> str:
    """Return a field's type in words, with links to the sections of the models that it holds."""
    if "$ref" in field:
        name = field["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if "enum" in field or "const" in field:
        return " or ".join(f"`{value}`" for value in field.get("enum", [field.get("const")]))
    if parts := field.get("anyOf") or field.get("oneOf"):
        kinds = [type_of(part) for part in parts if part.get("type") != "null"]
        return " or ".join(dict.fromkeys(kinds))
    match field.get("type"):
        case "array":
            inner = field.get("items") or {}
            held = " and ".join(map(type_of, field["prefixItems"])) if "prefixItems" in field else type_of(inner)
            return f"list of {held}"
        case "object":
            values = field.get("additionalProperties")
            return f"mapping to {type_of(values)}" if isinstance(values, dict) else "mapping"
        case kind:
            limits = [f"{word} {_number(field[key])}" for key, word in _LIMITS.items() if key in field]
            return " ".join([_TYPES.get(str(kind), "any value"), *([", ".join(limits)] if limits else [])])


def _number(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) or value >= 1000 else f"{value:g}"


def _default(field: JsonSchemaValue, known: Mapping[str, JsonSchemaValue]) -> str:
    """Return a default as it would be written; of a section, only what differs from the section's own defaults."""
    value = field.get("default")
    if "$ref" in field and isinstance(value, dict):
        own = known.get(field["$ref"].rpartition("/")[2], {}).get("properties", {})
        other = [
            f"{name}: {json.dumps(value[name])}" for name in value if value[name] != own.get(name, {}).get("default")
        ]
        return f"`{{{', '.join(other)}}}`" if other else "its own defaults"
    if value in (None, [], {}, ""):
        return "none"
    text = json.dumps(value)
    return f"`{text}`" if len(text) <= _LONGEST_DEFAULT else "several"


def page() -> str:
    """Return the reference of a whole spec: one section for each model, the spec's own fields first."""
    schema = SpecFields.model_json_schema()
    known = {**schema["$defs"], "SpecFields": schema}
    lines: list[str] = []
    for name, model in models_of(SpecFields).items():
        if model is not SpecFields:
            lines += ["", f"## {name}", "", inspect.cleandoc(model.__doc__ or ""), ""]
        lines += table(model, known[name], known)
    return "\n".join(lines) + "\n"
