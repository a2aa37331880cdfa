"""Commands that remove: retention, and clearing by hand."""

from __future__ import annotations

from peerjob.model.clock import Clock
from peerjob.model.query import Filter
from peerjob.model.record import MAX_BATCH, StoreLimits

from .commands import LuaCommands, check_cursor, report_asides
from .driver import Driver
from .kind_commands import LOOKS_AT_ONCE
from .read_commands import id_bounds
from .script import Argument

_CLEARED_AT_ONCE = 150
"""Instances that one script removes by hand, and kinds of which it does."""
_FINAL_STATES = 4
_CURSOR = r"\d{1,20}\.[0-9a-f-]{0,36}"


class LuaRetentionCommands(LuaCommands):
    """What makes room, in bounded steps."""

    def __init__(self, driver: Driver, *, namespace: str, clock: Clock, limits: StoreLimits, retry_for: float) -> None:
        super().__init__(driver, namespace=namespace, clock=clock, limits=limits, retry_for=retry_for)
        self._clock = clock

    async def expire(self, limit: int) -> int:
        while await self._run(self._scripts.forget, MAX_BATCH):
            pass
        removed = 0
        cursor: Argument = "0"
        while removed < limit:
            most = min(limit - removed, MAX_BATCH)
            count, cursor = await self._run(
                self._scripts.expire, most, self._limits.max_final_per_kind, cursor, LOOKS_AT_ONCE // 6
            )
            removed += int(count)
            if cursor == b"0":
                break
        return removed

    async def clear_instances(self, filter: Filter, *, limit: int = MAX_BATCH) -> int:
        cleared, cursor = await self._clear_final("instances", filter, None, min(limit, _CLEARED_AT_ONCE))
        # a page may hold nothing but instances that are cancelled and still run, which stay
        while cleared < limit and cursor is not None:
            more, cursor = await self._clear_final("instances", filter, cursor, min(limit - cleared, _CLEARED_AT_ONCE))
            cleared += more
        return cleared

    async def clear_history(self, filter: Filter, *, cursor: str | None = None) -> tuple[int, str | None]:
        return await self._clear_final("history", filter, cursor, MAX_BATCH)

    async def clear_logs(self, filter: Filter, *, cursor: str | None = None) -> tuple[int, str | None]:
        return await self._clear_final("logs", filter, cursor, MAX_BATCH)

    async def clear(self) -> None:
        cursor: Argument = "0"
        while True:
            arguments = (_CLEARED_AT_ONCE, cursor, _CLEARED_AT_ONCE)
            ((removed, cursor),) = await self._run_durably((self._scripts.clear, arguments))
            if not removed and cursor == b"0":
                break
        for what in ("delayed", "slots", "watched"):
            cursor = "0"
            while cursor != b"0":
                (cursor,) = await self._run_durably((self._scripts.sweep, (what, cursor, _CLEARED_AT_ONCE)))

    async def _clear_final(self, what: str, filter: Filter, cursor: str | None, limit: int) -> tuple[int, str | None]:
        """A cursor is that of the kinds, and the last id of these, or nothing."""
        first, last = id_bounds(*filter.bounds_us(self._clock.time_us()))
        scanned, _, after = check_cursor(cursor or "0.", _CURSOR).partition(".")
        arguments = (what, f"({after}" if after else first, last, limit, scanned, LOOKS_AT_ONCE // _FINAL_STATES)
        ((cleared, asides, scanned, after),) = await self._run_durably((self._scripts.clear_final, arguments))
        report_asides(asides)
        return cleared, None if (scanned, after) == (b"0", b"") else f"{scanned.decode()}.{after.decode()}"
