"""The units that a helping process begins with. Importing this loads no Prefect."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from audit.errors import AuditError


@dataclasses.dataclass(frozen=True)
class Share:
    """The units that a helper begins with: slice `index` of `count`, from 0; `count` 0 means from the end backwards."""

    index: int = 0
    count: int = 0

    @classmethod
    def parse(cls, text: str | None) -> Share:
        """Return the share that `i/n` (from 1) means; None is a helper without a slice of its own."""
        if text is None:
            return cls()
        index, _, count = text.partition("/")
        if not (index.isdigit() and count.isdigit() and 1 <= int(index) <= int(count)):
            raise AuditError(f"{text!r} is not a shard", where="--shard", next_step="write i/n, such as 1/4 to 4/4")
        return cls(int(index) - 1, int(count))

    def order(self, rows: Sequence[int]) -> list[int]:
        """Return all rows, the helper's own first: it never waits for others, and helps them when its own are done."""
        if not self.count:
            return list(reversed(rows))
        start = len(rows) * self.index // self.count
        return [*rows[start:], *rows[:start]]
