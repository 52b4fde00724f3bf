"""methods: the installed erasers, guards, attacks, detectors and quality instruments, and the packages that bring them."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping
from typing import TypeVar

import typer
from pydantic import BaseModel

from audit.methods.method import Method
from audit.methods.registry import Installed, Registry
from flows.commands import options
from flows.console import emit_json, table

M = TypeVar("M", bound=Method)


def register(app: typer.Typer) -> None:
    """Add the command of this file."""
    app.command("methods")(methods)


def methods(as_json: options.Json = False) -> int:
    """List the installed methods by family: version, package, paper, parameters with defaults, presets."""
    from audit.attacks.registry import ATTACKS
    from audit.erasers import ERASERS
    from audit.guards import GUARDS
    from audit.instruments.detectors.method import DETECTORS
    from audit.instruments.quality.method import QUALITY

    families = [_family(ERASERS), _family(GUARDS), _family(ATTACKS), _family(DETECTORS), _family(QUALITY)]
    if as_json:
        emit_json([entry for family in families for entry in family])
    else:
        for family in families:
            _print(family)
    return 0


def _family(registry: Registry[M]) -> list[dict[str, object]]:
    return [_described(registry.family, item) for item in registry.installed()]


def _described(family: str, item: Installed[M]) -> dict[str, object]:
    """Return one method as a JSON object; a broken one has a problem and no version, paper, parameters or presets."""
    entry, method = item.entry, item.method
    return {
        "family": family,
        "name": entry.name,
        "version": method.version if method else None,
        "distribution": entry.distribution,
        "distribution_version": entry.version or None,
        "paper": (method.paper or None) if method else None,
        "parameters": _parameters(method.parameters) if method else {},
        "presets": {name: dict(values) for name, values in method.presets.items()} if method else {},
        "problem": item.problem,
    }


def _parameters(model: type[BaseModel]) -> dict[str, object]:
    """Return name -> default of every parameter; "required" for those without one."""
    return {
        name: "required" if field.is_required() else field.get_default(call_default_factory=True)
        for name, field in model.model_fields.items()
    }


def _print(entries: Iterable[Mapping[str, object]]) -> None:
    works = [entry for entry in entries if entry["problem"] is None]
    broken = [entry for entry in entries if entry["problem"] is not None]
    for entry in [*works, *broken][:1]:
        print(f"{entry['family']}\n")
    table(
        [
            {
                "name": entry["name"],
                "version": entry["version"],
                "package": f"{entry['distribution']} {entry['distribution_version']}",
                "paper": entry["paper"],
            }
            for entry in works
        ]
    )
    for entry in works:
        for title in ("parameters", "presets"):
            values = entry[title]
            if isinstance(values, Mapping) and values:
                print(f"\n{entry['name']}, {title}")
                _print_values(values, apart=title == "presets")
    for entry in broken:
        print(f"\nBROKEN  {entry['name']}: {entry['problem']}")
    print()


def _print_values(values: Mapping[str, object], apart: bool) -> None:
    """Print names with their values: a line for each where they stand apart, else as few lines as they take."""
    texts = [f"{name}: {_text(value)}" for name, value in values.items()]
    for text in texts if apart else [", ".join(texts)]:
        print(textwrap.fill(text, 118, initial_indent="  ", subsequent_indent="    " if apart else "  "))


def _text(value: object) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_text(one)}" for name, one in value.items()) or "the defaults"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_text, value))}]"
    return "none" if value is None else repr(value) if value == "" else str(value)
