"""The command `check_needs`, in several scripts: each reads a bounded number of children and edges."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from peerjob.store.lua.client.driver import MAX_LOOKUPS, LuaCommands, check_cursor, log_set_aside
from peerjob.store.lua.scripts.script import Argument

_PAGE = 200
"""Scheduled instances that one script looks at."""
_LOOKED_AT = 1_000
"""Children and edges that one script looks at."""
_CURSOR = r"\d{1,20}\.[0-9a-f-]{0,36}"


class _Waiter(msgspec.Struct, frozen=True):
    """An instance that waits for needs."""

    id: bytes
    fence: bytes
    needs: int


class _Family(msgspec.Struct):
    """What several scripts saw of the children of one parent. An edge that has gone meanwhile can be counted."""

    edges: dict[bytes, int]
    """By the id of a waiter."""
    is_whole: bool = True
    """Whether each child is known: an edge of another one was not counted."""
    is_active: bool = False
    """Whether a child was seen that can end without the end of another one."""
    failed: tuple[bytes, int] = (b"", 0)
    """Id and state of a child that did not complete."""
    stray_ends: list[Argument] = []


class LuaNeedChecks(LuaCommands):
    """The command `check_needs`."""

    async def check_needs(self, cursor: str | None = None) -> tuple[int, str | None]:
        scanned, _, after = check_cursor(cursor or "0.", _CURSOR).partition(".")
        bound = f"({after}" if after else "-"
        next_kinds, last, *waiting = await self._run("waiting", bound, _PAGE, scanned, MAX_LOOKUPS)
        families: dict[bytes, list[_Waiter]] = {}
        for id, fence, needs, parent in zip(*[iter(waiting)] * 4, strict=True):
            families.setdefault(parent, []).append(_Waiter(id, fence, needs))
        mended = 0
        for parent, waiters in families.items():
            mended += await self._mend(parent, waiters)
        if last:
            return mended, f"{scanned}.{last.decode()}"
        return mended, None if next_kinds == b"0" else f"{next_kinds.decode()}."

    async def _mend(self, parent: bytes, waiters: Sequence[_Waiter]) -> int:
        """Mend what the children of one parent show; returns for how many instances."""
        seen = await self._look(parent, waiters)
        arguments: list[Argument] = [self._limits.retention_us, len(seen.stray_ends) // 2, *seen.stray_ends]
        stuck = [waiter for waiter in waiters if waiter.needs > seen.edges[waiter.id]] if seen.is_whole else []
        siblings = [waiter for waiter in stuck if waiter.id != parent and not seen.edges[waiter.id]]
        # Between two looks that find no active child, there is none: then no need can be of a child that still ends.
        again = await self._look(parent, siblings) if siblings and not seen.is_active else seen
        for waiter in stuck:
            if waiter.id == parent:
                arguments += [waiter.id, waiter.fence, seen.edges[waiter.id], b"", 0]
            elif waiter in siblings and again.is_whole and not again.is_active:
                arguments += [waiter.id, waiter.fence, 0, *again.failed]
        if len(arguments) == 2:
            return 0
        mended, set_aside = await self._run("mend_needs", *arguments)
        log_set_aside(set_aside)
        return int(mended)

    async def _look(self, parent: bytes, waiters: Sequence[_Waiter]) -> _Family:
        """Look at all children of a parent, and count the edges of some instances."""
        family = _Family({waiter.id: 0 for waiter in waiters}, stray_ends=[])
        names = [waiter.id + waiter.fence for waiter in waiters]
        child, edge = b"", b""
        while True:
            reply = await self._run("family", parent, child, edge, _LOOKED_AT, *names)
            child, edge, is_unknown, is_active, failed, state, stray_ends, *counts = reply
            family.is_whole &= not is_unknown
            family.is_active |= bool(is_active)
            family.failed = (failed, state) if failed else family.failed
            family.stray_ends += stray_ends
            for waiter, count in zip(waiters, counts, strict=True):
                family.edges[waiter.id] += count
            if not child:
                return family
