"""Reading page by page."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Protocol, TypeVar


class HasCursor(Protocol):
    """A page of a longer list."""

    @property
    def cursor(self) -> str | None:
        """The position of the next page; None on the last page."""
        ...


P = TypeVar("P", bound=HasCursor)


async def pages(read: Callable[[str | None], Awaitable[P]], cursor: str | None = None) -> AsyncGenerator[P]:
    """Yield each page from a position on; `read` gets the cursor of the page."""
    while True:
        page = await read(cursor)
        yield page
        if (cursor := page.cursor) is None:
            return
