"""Commands of limits: what nodes publish, what operators set, and what both read."""

from __future__ import annotations

import struct
from collections.abc import Sequence

from peerjob.model.record import MAX_BATCH, check_batch
from peerjob.model.stored_limit import (
    MAX_CONCURRENCY,
    MAX_HOLDERS,
    KeyLimitPage,
    KeyLimitView,
    KindLimits,
    LimitKey,
    LimitNumbers,
    LimitPage,
    LimitSetting,
    LimitView,
)
from peerjob.store.calls import LOGGER
from peerjob.store.lua.client.driver import check_cursor, log_set_aside
from peerjob.store.lua.scripts.script import Argument, Reply
from peerjob.store.rules import LIMITS_LAYOUT, check_kinds_of_limit

from .gate_commands import LuaGateCommands

_ENTRY = struct.Struct(">c16sI")
_PAGE_CURSOR = r"(?s:[01].*)"
_SCAN_CURSOR = r"\d{1,20}"
_CHECK_CURSOR = r"(?s:\d{1,20}:.*)"
_OPENED_KEYS = 500
_LOOKED_AT = 1_000


class LuaLimitCommands(LuaGateCommands):
    """Commands that write and read limits."""

    async def publish_limits(self, limits: Sequence[KindLimits]) -> None:
        check_batch(len(limits))
        has_limits = any(of_kind.shared or of_kind.key_concurrency for of_kind in limits)
        if not limits or (not has_limits and self._layout < LIMITS_LAYOUT):
            return
        arguments: list[Argument] = []
        for of_kind in limits:
            arguments += (of_kind.kind, of_kind.key_concurrency, len(of_kind.shared))
            for limit in of_kind.shared:
                arguments += (limit.name, *_fields(limit.numbers))
        ((layout, refusing, name, kinds),) = await self._run_durably(("publish_limits", arguments))
        self._check_readers(refusing)
        self._layout = int(layout)
        check_kinds_of_limit(name.decode(), kinds)

    async def set_limit(self, setting: LimitSetting) -> bool:
        arguments = (setting.name, setting.kind, *_fields(setting.numbers), setting.note)
        ((done, refusing),) = await self._run_durably(("set_limit", arguments))
        self._check_readers(refusing)
        cursor: Argument = "0"
        is_over = not (done and setting.kind)
        while not is_over:
            ((cursor, is_over),) = await self._run_durably(("open_keys", (setting.kind, cursor, _OPENED_KEYS)))
        return bool(done)

    async def pause_kind(self, kind: str, paused: bool, note: str = "") -> None:
        (refusing,) = await self._run_durably(("pause_kind", (kind, int(paused), note)))
        self._check_readers(refusing)

    async def throttle(self, name: str, delay_us: int, *, shorten: bool = False) -> bool:
        return bool(await self._run("throttle", name, delay_us, int(shorten)))

    async def limits(self, *, kind: str | None = None, cursor: str | None = None, limit: int = 100) -> LimitPage:
        after = "" if cursor is None else check_cursor(cursor, _PAGE_CURSOR)
        now, last, *rows = await self._run("limits", kind or "", after, limit)
        return LimitPage(tuple(_view(row, int(now)) for row in rows), last.decode() or None)

    async def key_limits(
        self,
        kind: str,
        *,
        prefix: str = "",
        waiting_only: bool = False,
        cursor: str | None = None,
        limit: int = 500,
    ) -> KeyLimitPage:
        at = "0" if cursor is None else check_cursor(cursor, _SCAN_CURSOR)
        arguments = (kind, at, limit, prefix, int(waiting_only))
        after, bare, *fields = await self._run("key_limits", *arguments)
        of_keys = zip(*[iter(fields)] * 4, strict=True)
        views = [
            KeyLimitView(key=key.decode(), concurrency=concurrency, admitted=admitted, waiting=waiting)
            for key, concurrency, admitted, waiting in of_keys
        ]
        if bare and not prefix and not waiting_only and cursor is None:
            views.insert(0, KeyLimitView(key="", admitted=bare))
        return KeyLimitPage(tuple(views), after.decode() if after != b"0" else None)

    async def limit_keys(self, ids: Sequence[str]) -> list[LimitKey | None]:
        check_batch(len(ids))
        entries = await self._run("limit_keys", *ids)
        return [_limit_key(entry) for entry in entries] or [None] * len(ids)

    async def key_holders(self, kind: str, key: str) -> list[str]:
        holders: list[bytes] = []
        cursor: Argument = "0"
        while len(holders) < MAX_HOLDERS:
            cursor, *some = await self._run("key_holders", kind, key, cursor, _LOOKED_AT)
            holders += some
            if cursor == b"0":
                break
        return [holder.decode() for holder in dict.fromkeys(holders)][:MAX_HOLDERS]

    async def check_limits(self, cursor: str | None = None) -> tuple[int, str | None]:
        at, _, kind = check_cursor(cursor or "0:", _CHECK_CURSOR).partition(":")
        arguments = (self._limits.kinds_kept_us, kind, at, MAX_BATCH)
        freed, kind_bytes, at_bytes, damaged = await self._run("check_limits", *arguments)
        log_set_aside(damaged)
        if freed:
            LOGGER.error("freed %d admissions that belonged to no instance", freed)
        return int(freed), f"{at_bytes.decode()}:{kind_bytes.decode()}" if kind_bytes else None


def _limit_key(entry: bytes) -> LimitKey | None:
    """The key in an entry of `g:`, as gates.lua has it."""
    if len(entry) <= _ENTRY.size:
        return None
    letter, _, concurrency = _ENTRY.unpack_from(entry)
    return LimitKey(key=entry[_ENTRY.size :].decode(), concurrency=concurrency, waiting=letter in b"wW")


def _fields(numbers: LimitNumbers) -> tuple[int, int, int]:
    return numbers.concurrency, numbers.period_us, numbers.burst


def _remaining(left: bytes) -> int | None:
    return int(left) if int(left) < MAX_CONCURRENCY else None


def _view(row: Reply, now: int) -> LimitView:
    """The view of an entry in the reply of limits.lua."""
    what, name, *rest = row
    if what == b"k":
        paused, concurrency, running, waiting, is_set, note, left = rest
        return LimitView(
            kinds=(name.decode(),),
            concurrency=concurrency or None,
            running=running,
            waiting=waiting,
            remaining=_remaining(left),
            paused=paused == b"1",
            note=note.decode(),
            source="setting" if is_set else "code",
        )
    concurrency, period_us, burst, tat, closed, running, waiting, is_set, note, left, kinds = rest
    numbers = LimitNumbers(concurrency=concurrency, period_us=period_us, burst=burst)
    opens_us = max(0 if numbers.starts_at(int(tat), now) else numbers.opens_us(int(tat)), int(closed))
    return LimitView(
        name=name.decode(),
        kinds=tuple(map(bytes.decode, kinds)),
        concurrency=concurrency or None,
        period_us=period_us,
        burst=burst if period_us else None,
        running=running,
        waiting=waiting,
        remaining=_remaining(left),
        opens_us=opens_us if opens_us > now else 0,
        note=note.decode(),
        source="setting" if is_set else "code",
    )
