"""The kinds that nodes of the namespace published, each under a key that ends with its lease."""

from __future__ import annotations

from collections.abc import Sequence

from .base import MAX_STEPS, Put, Step
from .context import KVContext
from .rows import number_of

_RENEWED_AFTER = 4
"""A kind is written again once this part of its time is over."""


class Catalogue:
    """The verbs `publish_kinds` and `published_kinds`."""

    def __init__(self, context: KVContext) -> None:
        self._context = context

    async def publish(self, kinds: Sequence[str]) -> None:
        kv, kept_us, now_us = self._context.kv, self._context.limits.kinds_kept_us, self._context.clock.time_us()
        keys = [self._context.keys.catalogued(kind) for kind in kinds]
        stale = [
            key
            for key, entry in zip(keys, await kv.get(keys), strict=True)
            if entry is None or number_of(entry.value) < now_us - kept_us // _RENEWED_AFTER
        ]
        if not stale:
            return
        lease = await kv.grant(kept_us)
        steps = [Step([], [Put(key, str(now_us).encode(), lease)]) for key in stale]
        for at in range(0, len(steps), MAX_STEPS):
            await kv.txn(steps[at : at + MAX_STEPS])

    async def published(self, kinds: Sequence[str]) -> list[bool]:
        entries = await self._context.kv.get([self._context.keys.catalogued(kind) for kind in kinds])
        return [entry is not None for entry in entries]
