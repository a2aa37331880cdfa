"""Who is told what: waking idle nodes, and hints that wait for an incarnation to fetch them.

A hint is a key below the incarnation's own prefix, so that two of a kind are one, and one that nobody fetches goes
with its lease. An idle node is woken by whoever takes its registration away, so that each one is woken once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence

import msgspec

from peerjob.model.clock import Clock
from peerjob.model.errors import DecodeError, StoreUnavailableError
from peerjob.model.record import Hint

from .base import Compare, Delete, Entry, KeyValue, Op, Put, Range, Step, Watch
from .keys import Keys, prefix_end, time_text
from .queues import Queues
from .rows import decode_idle, number_of
from .slots import StepPlan
from .writer import ROUNDS, Writer, Written

_MAX_STEPS = 50
_MAX_FETCHED = 1000
_GROUP = "\0"
"""Stands before the name of a group, where no kind has it."""
_GROUPED_US = 5_000_000
_MAX_GROUPED = 50_000


class Wakeups(msgspec.Struct):
    """What a verb has to tell, gathered while it works."""

    ready: dict[str, int] = {}
    """Kind → instances that can be claimed now."""
    delayed: list[tuple[int, str]] = []
    """Due time and kind of new delayed instances."""
    any_of: tuple[str, ...] = ()
    """Kinds of due work that a full claim left; wakes one node."""
    changed: list[str] = []
    cancelled: set[str] = set()
    """Owners of running instances that were cancelled."""
    but: str = ""
    """An incarnation that need not be woken."""

    def add_queued(self, plan: StepPlan) -> None:
        """These are in their queues now."""
        for kind in plan.ready:
            self.ready[kind] = self.ready.get(kind, 0) + 1
        self.delayed += plan.delayed


class Hints:
    """Sends and fetches hints."""

    def __init__(self, kv: KeyValue, keys: Keys, clock: Clock, writer: Writer, queues: Queues) -> None:
        self._kv = kv
        self._queues = queues
        self._keys = keys
        self._clock = clock
        self._writer = writer
        self._watches: dict[str, Watch] = {}
        self._idle_kinds: dict[bytes, frozenset[str]] = {}
        self._group_of: dict[str, str] = {}
        """Kind → its group. An older one wakes a node in vain, or lets it find the work with its next poll."""
        self._group_until_us = 0

    # -- sending --------------------------------------------------------------------------------------------------

    async def send(self, wakeups: Wakeups, written: Written) -> None:
        """Tell everybody whom it concerns, as of what was written."""
        wakes = bool(written.idle and (wakeups.ready or wakeups.delayed or wakeups.any_of))
        listeners = self._listeners(written.listeners) if wakeups.changed and written.listeners else []
        watchers = await self._watchers(written)
        if not (wakes or listeners or watchers or wakeups.cancelled):
            return
        lease = await self._writer.short_lease(self._clock.time_us())
        whats = {self._keys.hint(owner) + "cancel/" for owner in wakeups.cancelled}
        whats.update(f"{self._keys.hint(watcher)}final/{id}" for id, watcher in watchers)
        whats.update(f"{self._keys.hint(to)}change/{id}" for to in listeners for id in wakeups.changed)
        ops: list[Op] = [Put(key, b"", lease) for key in sorted(whats)]
        ops.extend(Delete(self._keys.watch(id) + watcher) for id, watcher in watchers)
        await self._writer.plain(ops)
        if wakes:
            await self._wake(wakeups, written.idle, lease)

    async def _watchers(self, written: Written) -> list[tuple[str, str]]:
        """What has ended, and which incarnation waits for that."""
        if not any(found.count for found in written.watched):
            return []
        watched = written.watched
        if any(found.count > len(found.items) for found in watched):
            prefixes = [self._keys.watch(id) for id in written.ended]
            watched = await self._kv.read([Range(prefix, prefix_end(prefix), keys_only=True) for prefix in prefixes])
        ended, cut = set(written.ended), len(self._keys.watched)
        pairs = [key[cut:].split("/") for found in watched for key, _ in found.items]
        return [(id, watcher) for id, watcher in pairs if id in ended]

    def _listeners(self, entries: Sequence[tuple[str, Entry]]) -> list[str]:
        now_us, cut = self._clock.time_us(), len(self._keys.changes)
        return [key[cut:] for key, entry in entries if number_of(entry.value) > now_us]

    async def _wake(self, wakeups: Wakeups, idle: Sequence[tuple[str, Entry]], lease: int) -> None:
        """Wake one idle node for each instance that is due, one for what a full claim left, one for a new earliest."""
        wanted = [({kind}, count) for kind, count in wakeups.ready.items()]
        if wakeups.any_of:
            wanted.append((set(wakeups.any_of), 1))
        if wakeups.delayed and await self._is_earliest(*min(wakeups.delayed)):
            wanted.append(({min(wakeups.delayed)[1]}, 1))
        if any(_GROUP in kinds for kinds in (self._kinds(entry) for _, entry in idle)):
            wanted = [(kinds | await self._groups(kinds), count) for kinds, count in wanted]
        for _ in range(ROUNDS):
            waiting = [
                (key, entry, self._kinds(entry))
                for key, entry in sorted(idle, key=lambda item: item[1].mod)
                if key[len(self._keys.idle) :] != wakeups.but
            ]
            chosen: list[tuple[str, Entry]] = []
            reasons: list[int] = []
            for reason, (kinds, count) in enumerate(wanted):
                able = [one for one in waiting if not one[2].isdisjoint(kinds)][:count]
                chosen.extend((key, entry) for key, entry, _ in able)
                reasons.extend(reason for _ in able)
                waiting = [one for one in waiting if one not in able]
            missed = await self._take_out(chosen, lease)
            if not any(missed):
                return
            short = [reason for reason, miss in zip(reasons, missed, strict=True) if miss]
            wanted = [(wanted[reason][0], short.count(reason)) for reason in sorted(set(short))]
            (found,) = await self._kv.read([Range(self._keys.idle, prefix_end(self._keys.idle))])
            idle = found.items

    async def _is_earliest(self, due_us: int, _kind: str) -> bool:
        (found,) = await self._kv.read([self._queues.delayed_heads()])
        return await self._queues.earliest(self._queues.heads(found)) >= time_text(due_us)

    async def _take_out(self, chosen: Sequence[tuple[str, Entry]], lease: int) -> list[bool]:
        """Wake these; per node whether somebody else took it out first."""
        steps = [
            Step(
                [Compare(key, mod=entry.mod)],
                [Delete(key), Put(self._keys.hint(key[len(self._keys.idle) :]) + "work/", b"", lease)],
            )
            for key, entry in chosen
        ]
        missed: list[bool] = []
        for at in range(0, len(steps), _MAX_STEPS):
            applied = await self._kv.txn(steps[at : at + _MAX_STEPS])
            missed += [answer is None for answer in applied.steps]
        return missed

    def _kinds(self, entry: Entry) -> frozenset[str]:
        known = self._idle_kinds.get(entry.value)
        if known is None:
            if len(self._idle_kinds) > 1000:
                self._idle_kinds.clear()
            known = self._idle_kinds[entry.value] = _kinds_of(entry.value)
        return known

    async def _groups(self, kinds: Iterable[str]) -> set[str]:
        """The groups of some kinds, as they stand among the kinds of an idle node."""
        now_us = self._clock.time_us()
        if now_us >= self._group_until_us or len(self._group_of) > _MAX_GROUPED:
            self._group_of.clear()
            self._group_until_us = now_us + _GROUPED_US
        # another call may forget what is known while this one reads
        known = {kind: self._group_of[kind] for kind in kinds if kind in self._group_of}
        if missing := [kind for kind in kinds if kind not in known]:
            entries = await self._kv.get([self._keys.group_of(kind) for kind in missing])
            found = zip(missing, entries, strict=True)
            read = {kind: entry.value.decode(errors="replace") for kind, entry in found if entry is not None}
            known |= read
            self._group_of |= read
        return {_GROUP + group for group in known.values()}

    # -- fetching -------------------------------------------------------------------------------------------------

    async def fetch(self, incarnation: str, timeout: float) -> list[Hint]:
        """Wait for hints, and take those that are there."""
        try:
            return await self._fetch(incarnation, timeout)
        except StoreUnavailableError:
            # what the watch has told may not have been taken: read again the next time
            self.close(incarnation)
            raise

    async def _fetch(self, incarnation: str, timeout: float) -> list[Hint]:
        prefix = self._keys.hint(incarnation)
        watch = self._watches.get(incarnation)
        if watch is None:
            # a hint to all is no key to each: every node watches what changes
            watch = self._watches[incarnation] = self._kv.watch(prefix, self._keys.schedules)
            found = await self._waiting(prefix)
        else:
            found = await self._changed(watch, prefix, 0)
        loop = asyncio.get_running_loop()
        until = loop.time() + timeout
        while not found and (left := until - loop.time()) > 0:
            found = await self._changed(watch, prefix, left)
        own = [key for key in found if key.startswith(prefix)]
        await self._writer.plain([Delete(key) for key in own])
        hints = [Hint("schedule", "")] if len(own) < len(found) else []
        for key in own:
            what, _, id = key[len(prefix) :].partition("/")
            hints.append(Hint(what, self._keys.unescaped(id)))
        return hints

    async def _changed(self, watch: Watch, prefix: str, timeout: float) -> list[str]:
        found = await watch.changed(timeout)
        return [*await self._waiting(prefix), self._keys.revisions] if found is None else [*found]

    async def _waiting(self, prefix: str) -> list[str]:
        (found,) = await self._kv.read([Range(prefix, prefix_end(prefix), limit=_MAX_FETCHED, keys_only=True)])
        return [key for key, _ in found.items]

    def close(self, incarnation: str | None = None) -> None:
        """Stop listening for one incarnation, or for all."""
        for one in [incarnation] if incarnation is not None else list(self._watches):
            watch = self._watches.pop(one, None)
            if watch is not None:
                watch.close()


def _kinds_of(idle: bytes) -> frozenset[str]:
    """The kinds of an idle node; none for an entry that cannot be read, which its node writes again."""
    try:
        one = decode_idle(idle)
    except DecodeError:
        return frozenset()
    groups = {_GROUP, *(_GROUP + group for group in one.groups)} if one.groups else set[str]()
    return frozenset((*one.kinds, *groups))
