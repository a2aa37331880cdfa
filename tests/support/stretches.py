"""How long an event loop keeps its thread busy at a stretch."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Generator
from typing import Any

import pytest


class Stretches:
    """The longest stretch of CPU that one callback of a loop took, and which it was."""

    def __init__(self) -> None:
        self.longest = 0.0
        self.what = ""

    def reset(self) -> None:
        self.longest, self.what = 0.0, ""


@contextlib.contextmanager
def measured(monkeypatch: pytest.MonkeyPatch) -> Generator[Stretches]:
    """Measure the callbacks of the loops of this thread."""
    found, thread = Stretches(), threading.get_ident()
    run: Any = asyncio.Handle._run

    def timed(handle: Any) -> None:
        before = time.thread_time()
        try:
            run(handle)
        finally:
            spent = time.thread_time() - before
            if spent > found.longest and threading.get_ident() == thread:
                found.longest, found.what = spent, repr(handle)[:300]

    with monkeypatch.context() as patch:
        patch.setattr(asyncio.Handle, "_run", timed)
        yield found
