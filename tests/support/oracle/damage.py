"""Damage: the stored records of some instances become unreadable, as after a stray write.

An engine finds that at the next read, and sets the instance aside. What a record no longer tells stays where it was:
entries in queues until a claim comes to them, and a unique key until an enqueue with that key.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

import redis.asyncio
from msgspec.structs import replace

from peerjob.model.ids import hashed_id
from peerjob.model.record import Claimed, Renewed
from peerjob.model.state import State
from peerjob.model.stored_limit import LimitView
from peerjob.store.base import Store
from peerjob.store.kv.format.base import Put, Transaction
from peerjob.store.kv.format.keys import Keys
from peerjob.store.kv.index.counts import DELAYED
from peerjob.store.kv.store import KVStore
from peerjob.store.lua.client.driver import prefix
from peerjob.store.reference.state import InstanceData

UNREADABLE = b"\xff\xfe"
APART_US = 500_000
"""Different due times of a program are further apart, by the clock of any engine."""
NAMED_BY_ID = ("ready/", "due/", "expiry/")
"""Beginnings of the keys of the key-value engine whose last part is the id of an instance."""


async def damage(store: Store, id: str) -> None:
    """Replace the record of an instance by bytes that nothing can read."""
    private: Any = store
    if isinstance(store, KVStore):
        kv, keys = private._context.kv, private._context.keys
        await kv.txn([Transaction([], [Put(keys.state + id, UNREADABLE)])])
        return
    async with _server_of(store) as client:
        await client.set(f"{prefix(private._driver.namespace)}i:{id}", UNREADABLE)


async def stray(store: Store, limit: LimitView, kind: str) -> None:
    """Fill a shared limit with claims that belong to no instance: as many as it has left."""
    private: Any = store
    ids = [hashed_id(0, f"stray {number}") for number in range(limit.remaining or 0)]
    if isinstance(store, KVStore):
        kv, keys = private._context.kv, private._context.keys
        permits = [keys.permit(limit.name, number) for number in range(limit.concurrency or 0)]
        free = [key for key, entry in zip(permits, await kv.get(permits), strict=True) if entry is None]
        await kv.txn([Transaction([], [Put(key, id.encode()) for key, id in zip(free, ids, strict=False)])])
        return
    async with _server_of(store) as client:
        await client.sadd(f"{prefix(private._driver.namespace)}r:{kind}", *ids)


def _server_of(store: Store) -> redis.asyncio.Redis:
    host = store.url.partition("://")[2].partition("?")[0]  # the options are those of peerjob
    return redis.asyncio.Redis.from_url(f"redis://{host}")


@dataclass
class Damaged:
    """The instances that were set aside, and what their entries can still change in the answers of an engine."""

    ids: set[str] = field(default_factory=set[str])
    waiting: Counter[str] = field(default_factory=Counter[str])
    """Kind → number of those that were Scheduled, so that a claim can come to their entries."""
    _due_us: set[int] = field(default_factory=set[int])
    _uniques: set[str] = field(default_factory=set[str])
    _counters: set[str] = field(default_factory=set[str])
    """The counters of delayed instances: a recount takes the entries of queues from the Scheduled instances."""

    def add(self, instance: InstanceData) -> None:
        """Note an instance that is about to be set aside."""
        self.ids.add(instance.id)
        if instance.state is State.SCHEDULED:
            self.waiting[instance.kind] += 1
            self._counters.add(f"counter/{Keys('').kind(instance.kind)}/{DELAYED}/")
            self._due_us.add(instance.due_us)
        if instance.key is not None:
            keys = Keys("")
            self._uniques.add(keys.unique(instance.kind, instance.key).removeprefix(keys.root))

    def due(self, ours: dict[str, int], theirs: dict[str, int]) -> dict[str, int]:
        """What the engine counts as due. *Choice*: a damaged instance counts until a claim comes to its entry."""
        counts = {
            kind: wanted if (wanted := ours.get(kind, 0)) <= count <= wanted + self.waiting[kind] else count
            for kind, count in theirs.items()
        }
        return {kind: count for kind, count in counts.items() if count}

    def claimed(self, ours: Claimed, theirs: Claimed) -> Claimed:
        """A claim of the engine.

        *Choice*: one that comes to entries of damaged instances need not tell when the next instance is due, or tells
        when a damaged one was due.
        """
        due_us = theirs.next_due_us
        if self.waiting and (due_us is None or any(abs(due_us - one) < APART_US for one in self._due_us)):
            return replace(theirs, next_due_us=ours.next_due_us)
        return theirs

    def renewed(self, ours: Renewed, theirs: Renewed, sent: Collection[str]) -> tuple[Renewed, Renewed]:
        """Two renewals of a node that names the claims `sent`.

        *Choice*: the claim of a damaged instance ends with its record, or with the outcome of the run.
        """
        if ours.dead or theirs.dead or not self.ids:
            return ours, theirs
        return self._without(ours, sent), self._without(theirs, sent)

    def _without(self, renewed: Renewed, sent: Collection[str]) -> Renewed:
        held = sent if renewed.held is None else [one.id for one in renewed.held]
        # the ids stand in the place of the cancelled ones: a difference of the fences alone would not be seen here
        ids = sorted(f"holds {id}" for id in held if id not in self.ids)
        cancelled = [id for id in renewed.cancelled if id not in self.ids]
        return replace(renewed, held=None, cancelled=(*cancelled, *ids))

    def left(self, entries: Sequence[str]) -> list[str]:
        """The leftovers that no damaged record has left behind."""
        return [one for one in entries if not self._is_own(one)]

    def _is_own(self, entry: str) -> bool:
        return (
            entry in self._uniques
            or entry.startswith(tuple(self._counters))
            or (entry.startswith(NAMED_BY_ID) and entry.rpartition("/")[2] in self.ids)
        )
