"""Cursors of lookups for callers that may see some kinds only: none contains the id of an instance of another kind.

A cursor is the id of the last instance that was read, which can be of another kind. Such a caller continues after the
last instance that it sees. If it sees none, it continues at the beginning of the millisecond in the cursor. Either way,
some instances of other kinds are read again, and none is left out.
"""

from __future__ import annotations

from typing import Literal
from uuid import UUID

_REST = 80
"""The bits of a UUIDv7 after its milliseconds."""


def own_cursor(cursor: str, seen: str | None, given: str | None, order: Literal["asc", "desc"]) -> str | None:
    """The cursor to show instead of `cursor`; None if a page from it would be the same again: then more must be read.

    `seen` is the last instance on the page that the caller may see, and `given` the cursor with which it asked.
    """
    if seen is not None:
        return seen
    millis = UUID(cursor).int >> _REST
    # before all ids of the millisecond, in the order of the lookup
    edge = str(UUID(int=millis << _REST | (0 if order == "asc" else (1 << _REST) - 1)))
    if given is None:
        return edge
    return edge if (edge > given if order == "asc" else edge < given) else None
