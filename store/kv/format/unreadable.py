"""Values that cannot be read: a reader leaves each out, reports it once, and counts it until a good value is there."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TypeVar

from peerjob.model.errors import DecodeError

from .base import Entry, KeyValue, mod_of

T = TypeVar("T")

LEFT_OUT = "it is left out"
WRITTEN_ANEW = "a new value replaces it"
_MAX_KNOWN = 500
logger = logging.getLogger("peerjob.store")


class Unreadable:
    """The unreadable values that one store has met. Records of instances are set aside instead (`set_aside`)."""

    def __init__(self) -> None:
        self._known: dict[str, int] = {}
        """Key → revision of the value that could not be read."""
        self._left_out: set[str] = set()
        """Those keys that no reader writes anew."""

    async def count(self, kv: KeyValue) -> int:
        """How many values are left out now. Those that were written or deleted meanwhile count no more."""
        keys = sorted(self._left_out)
        if keys:
            for key, entry in zip(keys, await kv.get(keys), strict=True):
                if mod_of(entry) != self._known.get(key):
                    self.replaced(key)
        return len(self._left_out)

    def read(self, key: str, entry: Entry, decode: Callable[[bytes], T], effect: str = LEFT_OUT) -> T | None:
        """Decode a value; None if it cannot be read. `effect` tells in the log what becomes of the value."""
        try:
            value = decode(entry.value)
        except DecodeError as error:
            self.report(key, entry.mod, error, effect)
            return None
        if self._known:
            self.replaced(key)
        return value

    def report(self, key: str, mod: int, problem: object, effect: str = LEFT_OUT) -> None:
        """Report and count an unreadable value, unless the same one was reported before."""
        if self._known.get(key) == mod:
            return
        if len(self._known) >= _MAX_KNOWN:
            self._known.clear()
            self._left_out.clear()
        self._known[key] = mod
        if effect == LEFT_OUT:
            self._left_out.add(key)
        logger.error("%s: %s; %s", key, problem, effect)

    def replaced(self, key: str) -> None:
        """Remember that a good value was written, or that the key was deleted."""
        self._known.pop(key, None)
        self._left_out.discard(key)
