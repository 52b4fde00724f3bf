"""The name and the kind of a scenario, which all of them have."""

from __future__ import annotations

from pydantic import ConfigDict, model_validator
from pydantic.json_schema import JsonSchemaValue

from audit.records import Scenario
from audit.spec.base import Model, Name

KINDS = tuple(kind.value for kind in Scenario if kind is not Scenario.NONE)


def with_kind(entry: object) -> object:
    """Return the fields of a scenario with its kind, which the name says where it is a kind's own."""
    if not isinstance(entry, dict) or "name" not in entry:
        return entry
    name, kind = entry["name"], entry.get("kind")
    if name == Scenario.NONE:
        raise ValueError("'none' stands for controls that attack nothing; give the scenario another name")
    if name not in KINDS and kind is None:
        raise ValueError(f"{name!r} is none of the kinds of scenario, so its kind is needed: one of {', '.join(KINDS)}")
    if name in KINDS and kind not in (None, name):
        raise ValueError(f"{name!r} is a kind of its own; give the scenario of kind {kind!r} another name")
    return {**entry, "kind": name} if kind is None else entry


def _kind_by_name(schema: JsonSchemaValue) -> None:
    """Make a JSON schema ask for the name, and for the kind only where the name does not say it."""
    kind = schema["properties"]["kind"]
    own = kind.get("enum", [kind.get("const")])
    schema["required"] = ["name", *(field for field in schema.get("required", ()) if field not in ("name", "kind"))]
    other = {"name": {"not": {"enum": [*KINDS, Scenario.NONE.value]}}}
    schema["anyOf"] = [{"properties": {"name": {"enum": own}}}, {"properties": other, "required": ["kind"]}]


class BaseScenario(Model):
    """A scenario has a name of its own, or that of its kind."""

    model_config = ConfigDict(json_schema_extra=_kind_by_name)

    name: Name
    "Its name in limits and reports: the kind's, or another beside the kind."

    @model_validator(mode="before")
    @classmethod
    def _kind_of_name(cls, entry: object) -> object:
        return with_kind(entry)
