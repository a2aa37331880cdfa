"""The command `check_needs`, in several scripts: each reads a bounded number of children and edges."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from peerjob.store.lua.client.driver import MAX_LOOKUPS, LuaCommands, check_cursor, log_set_aside
from peerjob.store.lua.scripts.script import Argument

_PAGE = 200
"""Scheduled instances that one script looks at."""
_LOOKED_AT = 500
"""Children and edges that one script looks at."""
_MAX_WAITERS = 2_000
"""A call reads further pages up to this number of instances that wait: most of them can have one parent."""
_MAX_PAGES = 10
_MENDED = 200
"""Ends and needs that one script mends: 2,000 took 32 ms."""
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
    over: int = 0
    """How many children were over."""
    failed: tuple[bytes, int] = (b"", 0)
    """Id and state of a child that did not complete."""
    stray_ends: list[Argument] = []


class LuaNeedChecks(LuaCommands):
    """The command `check_needs`."""

    async def check_needs(self, cursor: str | None = None) -> tuple[int, str | None]:
        families: dict[bytes, list[_Waiter]] = {}
        after = cursor
        for _ in range(_MAX_PAGES):
            waiting, after, is_full = await self._waiting(after)
            for parent, waiter in waiting:
                families.setdefault(parent, []).append(waiter)
            if after is None or is_full or sum(map(len, families.values())) >= _MAX_WAITERS:
                break
        mended = 0
        for parent, waiters in families.items():
            mended += await self._mend(parent, waiters)
        return mended, after

    async def _waiting(self, cursor: str | None) -> tuple[list[tuple[bytes, _Waiter]], str | None, bool]:
        """A page of instances that wait, each with the parent of what it needs; whether it ended early."""
        scanned, _, after = check_cursor(cursor or "0.", _CURSOR).partition(".")
        bound = f"({after}" if after else "-"
        next_kinds, last, is_full, *waiting = await self._run("waiting", bound, _PAGE, scanned, MAX_LOOKUPS)
        rows = zip(*[iter(waiting)] * 4, strict=True)
        page = [(parent, _Waiter(id, fence, needs)) for id, fence, needs, parent in rows]
        if last:
            return page, f"{scanned}.{last.decode()}", bool(is_full)
        return page, None if next_kinds == b"0" else f"{next_kinds.decode()}.", False

    async def _mend(self, parent: bytes, waiters: Sequence[_Waiter]) -> int:
        """Mend what the children of one parent show; returns for how many instances."""
        seen = await self._look(parent, waiters)
        ends, needs = seen.stray_ends, list[Argument]()
        stuck = [waiter for waiter in waiters if waiter.needs > seen.edges[waiter.id]] if seen.is_whole else []
        for waiter in stuck:
            if waiter.id == parent:
                needs += [waiter.id, waiter.fence, seen.edges[waiter.id], b"", 0]
        siblings = [waiter for waiter in stuck if waiter.id != parent and not seen.edges[waiter.id]]
        # If two looks find no active child, and no child ended from one to the other, there was none between them.
        # Then no need can be of a child that still ends.
        looks = [await self._look(parent, siblings, for_active=True) for _ in range(2 if siblings else 0)]
        is_quiet = all(look.is_whole and not look.is_active and look.over == looks[0].over for look in looks)
        for waiter in siblings if is_quiet else ():
            needs += [waiter.id, waiter.fence, 0, *looks[1].failed]
        mended = 0
        for at in range(0, max(len(ends) // 2, len(needs) // 5), _MENDED):
            of_ends = ends[2 * at : 2 * (at + _MENDED)]
            of_needs = needs[5 * at : 5 * (at + _MENDED)]
            more, set_aside = await self._run(
                "mend_needs", self._limits.retention_us, len(of_ends) // 2, *of_ends, *of_needs
            )
            log_set_aside(set_aside)
            mended += int(more)
        return mended

    async def _look(self, parent: bytes, waiters: Sequence[_Waiter], *, for_active: bool = False) -> _Family:
        """Look at all children of a parent, and count the edges of some instances."""
        family = _Family({waiter.id: 0 for waiter in waiters}, stray_ends=[])
        names = [waiter.id + waiter.fence for waiter in waiters]
        child, edge = b"", b""
        while True:
            reply = await self._run("family", parent, child, edge, _LOOKED_AT, int(for_active), *names)
            child, edge, is_unknown, is_active, over, failed, state, stray_ends, *counts = reply
            family.is_whole &= not is_unknown
            family.is_active |= bool(is_active)
            family.over += over
            family.failed = (failed, state) if failed else family.failed
            family.stray_ends += stray_ends
            for waiter, count in zip(waiters, counts, strict=True):
                family.edges[waiter.id] += count
            if not child:
                return family
