"""Check the parameters that a spec gives a method against the model that the method declares."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias, TypeVar

from pydantic import BaseModel, ValidationError

from audit.errors import SpecError
from audit.files import Document

Values: TypeAlias = Document  # resolved parameters as JSON, which only their own method can read
P = TypeVar("P", bound=BaseModel)


def parse_parameters(model: type[P], values: Mapping[str, object], who: str, where: str) -> P:
    """Return checked parameters. Raises `SpecError` for the first bad one; `who` is the method, such as "guard sld"."""
    try:
        return model.model_validate(dict(values))
    except ValidationError as error:
        detail = error.errors(include_url=False)[0]
        field = ".".join(str(part) for part in detail["loc"]) or "combination"
        known = f"{who} takes: {', '.join(model.model_fields)}"
        raise SpecError(
            f"{who} parameter {field}: {str(detail['msg']).removeprefix('Value error, ')}",
            where=where,
            next_step=known if detail["type"] == "extra_forbidden" else "mend this parameter",
        ) from None
