"""The verbs that wait: for hints to a node, and for the end or the changes of instances."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from peerjob.model.errors import StoreUnavailableError
from peerjob.model.record import Hint, Record, check_batch
from peerjob.model.state import State
from peerjob.store.calls import both
from peerjob.store.kv.format.base import Delete, Put, Range, Transaction, Watch
from peerjob.store.kv.format.keys import below
from peerjob.store.kv.queue.reading import FIRST_RECORDS, ReadCommands
from peerjob.store.kv.write.context import KVContext, retried

_MAX_FETCHED = 1000
_WATCH_BATCH = 20


class WatchCommands(ReadCommands):
    """The verbs `next_hints`, `watch_final` and `watch_changes`."""

    def __init__(self, context: KVContext) -> None:
        super().__init__(context)
        self._watches: dict[str, Watch] = {}
        self._taken: dict[str, Sequence[str]] = {}
        """Incarnation → keys of the hints of its last call. The next call deletes them, so no hint waits for that."""

    @retried
    async def next_hints(self, incarnation: str, timeout: float) -> list[Hint]:
        try:
            taken, fetching = self._taken.pop(incarnation, ()), self._fetch_keys(incarnation, timeout)
            stored = (await both(fetching, self._drop(taken)))[0] if taken else await fetching
        except StoreUnavailableError:
            # hints that the watch has reported may still be stored, so the next call opens a new watch and reads all
            # stored hints
            self._stop_watch(incarnation)
            raise
        prefix = self._keys.hint(incarnation)
        own = self._taken[incarnation] = [key for key in stored if key.startswith(prefix)]
        hints = [Hint("schedule", "")] if self._keys.revisions in stored else []
        if any(key.startswith(self._keys.live) for key in stored):
            hints.append(Hint("dead", ""))
        for key in own:
            topic, _, id = key[len(prefix) :].partition("/")
            hints.append(Hint(topic, self._keys.unescaped(id)))
        return hints

    async def _drop(self, keys: Sequence[str]) -> None:
        await self._writer.plain([Delete(key) for key in keys])

    async def _fetch_keys(self, incarnation: str, timeout: float) -> Sequence[str]:
        prefix = self._keys.hint(incarnation)
        watch = self._watches.get(incarnation)
        if watch is None:
            # changed schedules and the end of a lease concern all nodes, so each node watches the keys of all nodes
            # instead of hints of its own
            ends = (self._keys.live,) if self._kv.reports_ends else ()
            watch = self._watches[incarnation] = self._kv.watch(prefix, self._keys.schedules, ends=ends)
            stored = await self._stored_hints(prefix)
        else:
            stored = await self._changed_keys(watch, prefix, 0)
        loop = asyncio.get_running_loop()
        until = loop.time() + timeout
        while not stored and (left := until - loop.time()) > 0:
            stored = await self._changed_keys(watch, prefix, left)
        return stored

    async def _changed_keys(self, watch: Watch, prefix: str, timeout: float) -> list[str]:
        changes = await watch.changed(timeout)
        if changes is None:
            return [*await self._stored_hints(prefix), self._keys.revisions, self._keys.live]
        return [*changes]

    async def _stored_hints(self, prefix: str) -> list[str]:
        (answer,) = await self._kv.read([below(prefix, _MAX_FETCHED, keys_only=True)])
        return [key for key, _ in answer.items]

    def _stop_watches(self) -> None:
        for incarnation in list(self._watches):
            self._stop_watch(incarnation)

    def _stop_watch(self, incarnation: str) -> None:
        self._taken.pop(incarnation, None)
        watch = self._watches.pop(incarnation, None)
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
            for id, answers in zip(part, applied.answers, strict=True):
                rows = [answer.items[0][1] for answer in answers or () if answer.items]
                row = await self._context.row_of(id, rows[0]) if rows else None
                states[id] = None if row is None else row.state
            # a final or unknown instance causes no further hint, so the registration is deleted again
            final = [id for id in part if (state := states[id]) is None or state.is_final]
            if final:
                await self._kv.txn([Transaction([], [Delete(keys.watch(id) + incarnation) for id in final])])
        final = [id for id, state in states.items() if state is not None and state.is_final][:FIRST_RECORDS]
        shown: dict[str, Record | State | None] = {
            **states,
            **dict(zip(final, await self._read_records(final), strict=True)),
        }
        return [shown[id] for id in ids]

    @retried
    async def watch_changes(self, incarnation: str, ttl: float) -> None:
        ttl_us = round(ttl * 1_000_000)
        until = str(self._clock.time_us() + ttl_us).encode()
        # the stored time ends the registration, and the lease only deletes the key later: some servers have coarser
        # leases than `ttl`
        lease = await self._kv.grant(ttl_us)
        await self._kv.txn([Transaction([], [Put(self._keys.changes + incarnation, until, lease)])])
