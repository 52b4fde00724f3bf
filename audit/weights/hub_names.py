"""How a file, a folder or a whole repository of the hub is named: `org/name@<40-hex commit>[/path inside]`."""

from __future__ import annotations

import dataclasses
import re

_NAME = re.compile(r"(?P<repo>[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(?:@(?P<revision>[^/]*)(?:/(?P<inside>.+))?)?")
_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclasses.dataclass(frozen=True)
class HubName:
    """A name of the hub in its parts; `revision` is None, or `inside` empty, where the name has no such part."""

    repo: str
    revision: str | None
    inside: str

    @property
    def commit(self) -> str | None:
        """Return the revision where it is a commit, which cannot move."""
        return self.revision if self.revision is not None and _COMMIT.fullmatch(self.revision) else None


def hub_name(ref: str) -> HubName | None:
    """Return the parts of a name of the hub; None for what cannot be one."""
    found = _NAME.fullmatch(ref.strip())
    return None if found is None else HubName(found["repo"], found["revision"], found["inside"] or "")
