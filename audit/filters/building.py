"""Build filters from their resolved parameters."""

from __future__ import annotations

from audit.errors import SpecError
from audit.filters.protocol import Filter, Parts, PictureFilter, PromptFilter
from audit.guards import GUARDS
from audit.methods.parameters import Values


def build(described: Values, parts: Parts) -> Filter:
    """Return a filter as `audit.guards.resolve` described it. Raises KeyError for an unknown name."""
    method = GUARDS.find(described["name"], "defences")
    wanted = {"prompt": PromptFilter, "picture": PictureFilter}.get(str(method.reads))
    built = method.function()(described["parameters"], parts)
    if wanted is None or not isinstance(built, PromptFilter | PictureFilter) or not isinstance(built, wanted):
        raise SpecError(
            f"guard {described['name']} cannot be used: its function returns a value of type {type(built).__name__}, "
            f"and a {wanted.__name__ if wanted else 'filter'} is needed",
            where="defences",
            next_step="mend the plug-in that brings it; erasure-audit methods names it",
        )
    return built
