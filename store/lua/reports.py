"""Reports of stored values that cannot be read and are left out, each once."""

from __future__ import annotations

from peerjob.store.calls import LOGGER

MAX_KNOWN = 10_000
"""Reports that a store remembers; beyond, it forgets them and may repeat one."""


class Reports:
    """Logs each unreadable value once, however often it is read."""

    def __init__(self) -> None:
        self._known = set[tuple[str, str, int]]()

    def left_out(self, what: str, error: object, value: bytes = b"") -> None:
        """Log that a value is left out, unless the same was logged before.

        `what` names the value; values of the same name and error are told apart by `value`.
        """
        report = (what, str(error), hash(value))
        if report in self._known:
            return
        if len(self._known) >= MAX_KNOWN:
            self._known.clear()
        self._known.add(report)
        LOGGER.error("%s cannot be read and is left out: %s", what, error)
