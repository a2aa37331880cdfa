"""Reports of stored values that cannot be read and are left out: each is logged once, and counted while it is there."""

from __future__ import annotations

from collections.abc import Container

from peerjob.store.calls import LOGGER

MAX_KNOWN = 10_000
"""Reports that a store remembers; beyond, it forgets them and may repeat one."""


class Reports:
    """The unreadable values that one store has met. Records of instances are set aside instead."""

    def __init__(self) -> None:
        self._known = set[tuple[str, str, int]]()
        self._left_out = set[str]()

    def __len__(self) -> int:
        """How many named values are left out now, as far as this store has read them."""
        return len(self._left_out)

    def left_out(self, what: str, error: object, value: bytes | None = None) -> None:
        """Log that a value is left out, unless the same was logged before.

        `what` names the value. `value` is one of several values of that name; those are not counted.
        """
        if value is None:
            self._left_out.add(what)
        report = (what, str(error), hash(value))
        if report in self._known:
            return
        if len(self._known) >= MAX_KNOWN:
            self._known.clear()
            self._left_out.clear()
        self._known.add(report)
        LOGGER.error("%s cannot be read and is left out: %s", what, error)

    def readable(self, what: str) -> None:
        """Note that the value can be read, or is gone."""
        self._left_out.discard(what)

    def keep(self, prefix: str, there: Container[str]) -> None:
        """Note which values exist, of those whose name has the prefix."""
        self._left_out = {name for name in self._left_out if not name.startswith(prefix) or name in there}
