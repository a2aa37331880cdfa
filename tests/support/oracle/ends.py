"""The end of a program: each instance ends and is removed as by a user.

`clear` removes more than each verb does, so it hides what an end leaves behind.
"""

from __future__ import annotations

from collections.abc import Sequence

from peerjob.model.query import Filter
from peerjob.store.base import Store

from .flow_calls import settle

_BATCH = 100


async def end_instances(store: Store, ids: Sequence[str], request: str) -> None:
    """Cancel these instances, and remove all final ones."""
    for start in range(0, len(ids), _BATCH):
        await store.cancel(ids[start : start + _BATCH], request=f"{request} {start}")
    await settle(store)
    while await store.clear_instances(Filter()):
        await settle(store)
