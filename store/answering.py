"""How long a call waits for the server."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator

from peerjob.errors import StoreUnavailableError


@contextlib.asynccontextmanager
async def answer_within(seconds: float, *, url: str) -> AsyncGenerator[None]:
    """Wait for the server at `url` no longer than this; raises StoreUnavailableError."""
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError as error:
        raise StoreUnavailableError(url, f"no answer within {seconds:g} s") from error
