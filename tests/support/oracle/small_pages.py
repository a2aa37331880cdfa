"""Small pages: what the key-value engine reads at once is so little that a short program needs several reads."""

from __future__ import annotations

import contextlib
from collections.abc import Generator
from types import ModuleType

from peerjob.store.kv.cron import firing, schedules
from peerjob.store.kv.index import counts, newest
from peerjob.store.kv.kinds import key_views, permit_checks
from peerjob.store.kv.queue import clearing, logs, reading

SIZES: tuple[tuple[ModuleType, str, int], ...] = (
    (reading, "_MAX_WHOLE_READ", 3),
    (reading, "_MAX_PAGE_READ", 3),
    (reading, "FIRST_RECORDS", 2),
    (newest, "_MAX_PARTS", 3),
    (counts, "_PAGE", 5),
    (clearing, "_PAGE", 2),
    (logs, "_CHUNKS_READ", 2),
    (key_views, "_PAGE", 3),
    (permit_checks, "_PAGE", 3),
    (firing, "_MAX_PAGE", 3),
    (schedules, "_READ_BATCH", 2),
)


@contextlib.contextmanager
def small_pages() -> Generator[None]:
    """Give the engine small pages for a while."""
    before = [(module, name, getattr(module, name)) for module, name, _ in SIZES]
    for module, name, size in SIZES:
        setattr(module, name, size)
    try:
        yield
    finally:
        for module, name, size in before:
            setattr(module, name, size)
