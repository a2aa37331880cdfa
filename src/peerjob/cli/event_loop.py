"""The event loop that the commands run on."""

from __future__ import annotations

import asyncio


def loop_factory() -> type[asyncio.AbstractEventLoop] | None:
    """The event loop to use: that of uvloop where there is one, else asyncio's own."""
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.Loop
