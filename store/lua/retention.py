"""Verbs that remove: retention, and clearing by hand."""

from __future__ import annotations

from peerjob.clock import Clock
from peerjob.query import Filter
from peerjob.record import MAX_BATCH, StoreLimits

from .driver import Driver
from .reading import id_bounds
from .verbs import Verbs, report_asides


class RetentionVerbs(Verbs):
    """What makes room, in bounded steps."""

    def __init__(self, driver: Driver, *, namespace: str, clock: Clock, limits: StoreLimits, retry_for: float) -> None:
        super().__init__(driver, namespace=namespace, clock=clock, limits=limits, retry_for=retry_for)
        self._clock = clock

    async def expire(self, limit: int) -> int:
        removed = await self._run(self._scripts.expire, min(limit, MAX_BATCH), self._limits.max_final_per_kind)
        return int(removed)

    async def clear_instances(self, filter: Filter, *, limit: int = MAX_BATCH) -> int:
        cleared, _ = await self._clear_final("instances", filter, None, min(limit, MAX_BATCH))
        return cleared

    async def clear_history(self, filter: Filter, *, cursor: str | None = None) -> tuple[int, str | None]:
        return await self._clear_final("history", filter, cursor, MAX_BATCH)

    async def clear_logs(self, filter: Filter, *, cursor: str | None = None) -> tuple[int, str | None]:
        return await self._clear_final("logs", filter, cursor, MAX_BATCH)

    async def clear(self) -> None:
        while (await self._run_durably((self._scripts.clear, (MAX_BATCH,))))[0]:
            pass

    async def _clear_final(self, what: str, filter: Filter, cursor: str | None, limit: int) -> tuple[int, str | None]:
        first, last = id_bounds(*filter.bounds_us(self._clock.time_us()))
        if cursor is not None:
            first = f"({cursor}"
        arguments = (what, first, last, limit)
        ((cleared, after, asides),) = await self._run_durably((self._scripts.clear_final, arguments))
        report_asides(asides)
        return cleared, after.decode() if after else None
