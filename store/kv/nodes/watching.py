"""The verbs that wait: for hints to a node, and for the end or the changes of instances."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from peerjob.model.errors import StoreUnavailableError
from peerjob.model.record import Hint, Record, check_batch
from peerjob.model.state import State
from peerjob.store.kv.format.base import Compare, Delete, Put, Range, Transaction, Watch, apply_all
from peerjob.store.kv.format.keys import below
from peerjob.store.kv.queue.reading import FIRST_RECORDS, ReadCommands
from peerjob.store.kv.write.context import KVContext, retried

_MAX_FETCHED = 1000
_WATCH_BATCH = 20
_DELETED_TOGETHER = 50
"""Hints that were read, and registrations of ended instances, are deleted so many at a time. Until then, a watch that
missed some reads these hints again. A lease deletes what is left."""


class WatchCommands(ReadCommands):
    """The verbs `next_hints`, `watch_final` and `watch_changes`."""

    def __init__(self, context: KVContext) -> None:
        super().__init__(context)
        self._own = context.own_hints
        self._hints_read: dict[str, None] = {}
        """Keys of hints that were read."""
        self._over: dict[str, int] = {}
        """Registrations that are needed no more, and the revision: the incarnation can wait for the instance again."""

    @retried
    async def next_hints(self, incarnation: str, timeout: float) -> list[Hint]:
        try:
            return await self._fetch_hints(incarnation, timeout)
        except StoreUnavailableError:
            # hints that the watch has reported may still be stored, so the next call opens a new watch and reads all
            # stored hints
            self._stop_watch(incarnation)
            raise

    async def _fetch_hints(self, incarnation: str, timeout: float) -> list[Hint]:
        prefix = self._keys.hint(incarnation)
        watch = self._own.watches.get(incarnation)
        if watch is None:
            # changed schedules and the end of a lease concern all nodes, so each node watches the keys of all nodes
            # instead of hints of its own
            ends = (self._keys.live,) if self._kv.reports_ends else ()
            watch = self._own.watches[incarnation] = self._kv.watch(prefix, self._keys.schedules, ends=ends)
            stored = await self._stored_hints(prefix)
        else:
            stored = await self._changed_keys(watch, prefix, 0)
        await self._delete_read(incarnation, stored)
        loop = asyncio.get_running_loop()
        until = loop.time() + timeout
        while not (stored or self._own.has(incarnation)) and (left := until - loop.time()) > 0:
            stored = await self._changed_keys(watch, prefix, left)
        own = [key for key in stored if key.startswith(prefix)]
        self._hints_read.update(dict.fromkeys(own))
        told = [prefix + hint for hint in self._own.take(incarnation)]
        hints = [Hint("schedule", "")] if self._keys.revisions in stored else []
        if any(key.startswith(self._keys.live) for key in stored):
            hints.append(Hint("dead", ""))
        for key in dict.fromkeys((*own, *told)):
            topic, _, id = key[len(prefix) :].partition("/")
            if topic == "final":
                self._own.forget(id)
            elif topic == "work" and key in stored:
                self._own.is_woken(incarnation)
            hints.append(Hint(topic, self._keys.unescaped(id)))
        return hints

    async def _delete_read(self, incarnation: str, new: Sequence[str]) -> None:
        """Delete the hints that were read, except new ones with the same key."""
        if len(self._hints_read) < _DELETED_TOGETHER:
            return
        read, self._hints_read = self._hints_read.keys() - set(new), {}
        try:
            await self._writer.plain([Delete(key) for key in sorted(read)])
        except BaseException:
            # the watch does not report the new ones again
            self._stop_watch(incarnation)
            raise

    async def _delete_over(self) -> None:
        if len(self._over) >= _DELETED_TOGETHER:
            over, self._over = self._over, {}
            deletions = [Transaction([Compare(key, mod=mod)], [Delete(key)]) for key, mod in over.items()]
            await apply_all(self._kv, deletions)

    async def _changed_keys(self, watch: Watch, prefix: str, timeout: float) -> list[str]:
        changes = await watch.changed(timeout)
        if changes is None:
            return [*await self._stored_hints(prefix), self._keys.revisions, self._keys.live]
        return [*changes]

    async def _stored_hints(self, prefix: str) -> list[str]:
        (answer,) = await self._kv.read([below(prefix, _MAX_FETCHED, keys_only=True)])
        return [key for key, _ in answer.items]

    def _stop_watches(self) -> None:
        for incarnation in list(self._own.watches):
            self._stop_watch(incarnation)

    def _stop_watch(self, incarnation: str) -> None:
        watch = self._own.watches.pop(incarnation, None)
        if watch is not None:
            watch.close()

    @retried
    async def watch_final(self, incarnation: str, ids: Sequence[str]) -> list[Record | State | None]:
        keys = self._keys
        check_batch(len(ids))
        unique = list(dict.fromkeys(ids))
        states: dict[str, State | None] = {}
        # a waiting node registers again each second; the lease deletes the registration of a node that has died
        lease = await self._writer.short_lease()
        for at in range(0, len(unique), _WATCH_BATCH):
            part = unique[at : at + _WATCH_BATCH]
            # one transaction registers the node and reads the state, so that an end of the instance between
            # registration and read is not missed
            transactions = [
                Transaction([], [Put(keys.watch(id) + incarnation, b"", lease)], [Range(keys.state + id)])
                for id in part
            ]
            applied = await self._kv.txn(transactions)
            self._own.take_records(part)  # so that none is given after the next end of the same id
            for id, answers in zip(part, applied.answers, strict=True):
                rows = [answer.items[0][1] for answer in answers or () if answer.items]
                row = await self._context.row_of(id, rows[0]) if rows else None
                states[id] = None if row is None else row.state
            for id in part:
                if (state := states[id]) is None or state.is_final:
                    # a final or unknown instance causes no further hint
                    self._over[keys.watch(id) + incarnation] = applied.revision
                else:
                    self._own.waits(id, incarnation)
        await self._delete_over()
        final = [id for id, state in states.items() if state is not None and state.is_final][:FIRST_RECORDS]
        shown: dict[str, Record | State | None] = {
            **states,
            **dict(zip(final, await self._read_records(final), strict=True)),
        }
        return [shown[id] for id in ids]

    async def get_ended(self, ids: Sequence[str]) -> list[Record | None]:
        known = self._own.take_records(ids)
        missing = [id for id in ids if id not in known]
        read = await self.get(missing) if missing else []
        known.update(zip(missing, read, strict=True))
        return [known[id] for id in ids]

    @retried
    async def watch_changes(self, incarnation: str, ttl: float) -> None:
        ttl_us = round(ttl * 1_000_000)
        until = str(self._clock.time_us() + ttl_us).encode()
        # the stored time ends the registration, and the lease only deletes the key later: some servers have coarser
        # leases than `ttl`
        lease = await self._kv.grant(ttl_us)
        await self._kv.txn([Transaction([], [Put(self._keys.changes + incarnation, until, lease)])])
