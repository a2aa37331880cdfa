"""Commands that remove instances: retention, and the clear commands."""

from __future__ import annotations

from peerjob.model.durable import MAX_SETTLED
from peerjob.model.query import Filter
from peerjob.model.record import MAX_BATCH
from peerjob.store.lua.client.driver import MAX_LOOKUPS, LuaCommands, check_cursor, log_set_aside
from peerjob.store.lua.scripts.script import Argument

from .read_commands import id_bounds

_MAX_CLEARED = 150
"""One script clears at most this many instances, and looks at about this many kinds."""
_FINAL_STATES = 4
_CURSOR = r"\d{1,20}\.[0-9a-f-]{0,36}"


class LuaRetentionCommands(LuaCommands):
    """Commands that remove instances, in bounded transactions."""

    async def expire(self, limit: int) -> int:
        while await self._run("forget", MAX_BATCH):
            pass
        removed = 0
        cursor: Argument = "0"
        while removed < limit:
            at_most = min(limit - removed, MAX_BATCH)
            count, cursor = await self._run(
                "expire", at_most, self._limits.max_final_per_kind, cursor, MAX_LOOKUPS // 6
            )
            removed += int(count)
            if cursor == b"0":
                break
        return removed

    async def clear_instances(self, filter: Filter, *, limit: int = MAX_BATCH) -> int:
        cleared, cursor = await self._clear_final("instances", filter, None, min(limit, _MAX_CLEARED))
        # Continue after a page that cleared nothing: cancelled instances that still run stay, and can fill a whole
        # page.
        while cleared < limit and cursor is not None:
            more, cursor = await self._clear_final("instances", filter, cursor, min(limit - cleared, _MAX_CLEARED))
            cleared += more
        return cleared

    async def clear_history(self, filter: Filter, *, cursor: str | None = None) -> tuple[int, str | None]:
        return await self._clear_final("history", filter, cursor, MAX_BATCH)

    async def clear_logs(self, filter: Filter, *, cursor: str | None = None) -> tuple[int, str | None]:
        return await self._clear_final("logs", filter, cursor, MAX_BATCH)

    async def clear(self) -> None:
        cursor: Argument = "0"
        while True:
            arguments = (_MAX_CLEARED, cursor, _MAX_CLEARED)
            ((removed, cursor),) = await self._run_durably(("clear", arguments))
            if not removed and cursor == b"0":
                break
        for what in ("delayed", "slots", "watched"):
            cursor = "0"
            while cursor != b"0":
                (cursor,) = await self._run_durably(("sweep", (what, cursor, _MAX_CLEARED)))
        while True:
            (left,) = await self._run_durably(("clear_aside", (_MAX_CLEARED,)))
            if not left:
                break
        # What needs a removed instance, and the children of one, are removed as well: only the edges are left.
        while (await self._run("settle", MAX_SETTLED, self._limits.retention_us))[0]:
            pass

    async def _clear_final(self, what: str, filter: Filter, cursor: str | None, limit: int) -> tuple[int, str | None]:
        """Clear one page.

        The cursor has two parts: the cursor of the kinds, and the last id that was looked at in those kinds, if any.
        """
        first, last = id_bounds(*filter.bounds_us(self._clock.time_us()))
        scanned, _, after = check_cursor(cursor or "0.", _CURSOR).partition(".")
        arguments = (what, f"({after}" if after else first, last, limit, scanned, MAX_LOOKUPS // _FINAL_STATES)
        ((cleared, set_aside, scanned, after),) = await self._run_durably(("clear_final", arguments))
        log_set_aside(set_aside)
        return cleared, None if (scanned, after) == (b"0", b"") else f"{scanned.decode()}.{after.decode()}"
