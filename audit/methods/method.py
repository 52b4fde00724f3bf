"""One method, as the entry point of its family names it."""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Callable, Mapping

from pydantic import BaseModel

Function = Callable[..., object]


@dataclasses.dataclass(frozen=True)
class Method:
    """One way to erase, guard, attack, detect or measure quality.

    `version` changes when the method gives other results. The fields of `parameters` are what a spec may set, `presets`
    are settings by name, over which the spec's own go. `paper` says where the method is described. `run` does the work:
    what it is given and has to return is its family's matter. As "module:function" it is imported when it is first needed,
    which keeps torch out of planning.
    """

    name: str
    version: str
    parameters: type[BaseModel]
    run: str | Function
    paper: str = ""
    presets: Mapping[str, Mapping[str, object]] = dataclasses.field(default_factory=dict, kw_only=True)

    def function(self) -> Function:
        """Return the method's function, imported where `run` is a name."""
        if not isinstance(self.run, str):
            return self.run
        module, _, name = self.run.partition(":")
        function: Function = getattr(importlib.import_module(module), name)
        return function
