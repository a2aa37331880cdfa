"""Incarnations: they join, renew and leave; their claims outlive their lease until somebody takes them back."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from peerjob.model.clock import Clock
from peerjob.model.record import Held, NodeInfo, NodeView, Renewed, digest
from peerjob.store.layout import check_layout
from peerjob.store.timeouts import answer_within

from .base import Compare, Delete, Found, KeyValue, Op, Put, Range, Step
from .clock_skew import ClockSkew, PeerClocks
from .context import KVContext
from .keys import Keys, prefix_end
from .rows import Live, Row, encode, live_of, node_of, owned_of
from .writer import ROUNDS, Change


class KVLiveness:
    """Renews one lease, over a connection of its own."""

    def __init__(self, kv: KeyValue, *, url: str, keys: Keys, clock: Clock, clock_skew: ClockSkew) -> None:
        self._kv = kv
        self._url = url
        self._keys = keys
        self._clock = clock
        self._clock_skew = clock_skew
        self._clocks = PeerClocks(kv, keys, clock)

    async def open(self) -> None:
        await self._kv.open()
        self._clocks.start()

    async def close(self) -> None:
        await self._clocks.stop()
        await self._kv.close()

    async def renew(self, incarnation: str, *, ttl_us: int, running: int, count: int, fences_digest: int) -> Renewed:
        async with answer_within(ttl_us / 5_000_000, url=self._url):
            return await self._renew(incarnation, ttl_us, running, count, fences_digest)

    async def _renew(self, incarnation: str, ttl_us: int, running: int, count: int, fences_digest: int) -> Renewed:
        keys, now_us = self._keys, self._clock.time_us()
        found = await self._extend(incarnation, ttl_us, running)
        if found is None:
            return Renewed(dead=True, now_us=now_us)
        judgement = await self._clocks.judge()
        self._clock_skew.set(judgement)
        prefix = keys.owned(incarnation)
        claims = [(key[len(prefix) :], owned_of(entry.value)) for key, entry in found.items]
        fences = [owned.fence for _, owned in claims]
        same = len(fences) == count and digest(fences) == fences_digest
        return Renewed(
            now_us=now_us,
            held=None if same else tuple(Held(id, owned.fence) for id, owned in claims),
            cancelled=tuple(id for id, owned in claims if owned.releasing),
            ahead_us=judgement.ahead_us,
            clock_known=judgement.known,
        )

    async def _extend(self, incarnation: str, ttl_us: int, running: int) -> Found | None:
        """Extend the lease of an incarnation, or give it a fresh one; its claims, None when it is dead or unknown."""
        kv, keys = self._kv, self._keys
        self._clocks.speak_as(incarnation)
        singles = [Range(keys.node + incarnation), Range(keys.live + incarnation), Range(keys.layout)]
        prefix = keys.owned(incarnation)
        for _ in range(ROUNDS):
            *found, owned = await kv.read([*singles, Range(prefix, prefix_end(prefix))])
            node, live, layout = (one.items[0][1] if one.items else None for one in found)
            if layout is not None:
                # an extended lease is no transaction, which would compare it
                check_layout(layout.value.decode(errors="replace"), namespace=keys.root[:-1], url=self._url)
            if node is None or (row := node_of(node.value)).ended:
                return None
            old = None if live is None else live_of(live.value)
            lease = 0
            if old is not None and old.ttl_us == ttl_us and await kv.keepalive(old.lease):
                lease = old.lease
                if running == old.running and not self._clocks.must_tell:
                    return owned
            fresh = lease or await kv.grant(ttl_us)
            alive = Compare(keys.node + incarnation, mod=node.mod)
            ops: list[Op] = [Put(keys.live + incarnation, encode(Live(fresh, ttl_us, running, row.claims)), fresh)]
            told: Callable[[], None] | None = None
            if self._clocks.must_tell:
                clock, told = self._clocks.tell()
                ops.append(Put(keys.clocks + incarnation, encode(clock), fresh))
            applied = await kv.txn([Step([alive], ops)])
            if applied.steps[0] is not None:
                if told is not None:
                    told()
                if old is not None and old.lease != fresh:
                    await kv.revoke(old.lease)
                return owned
            if not lease:
                await kv.revoke(fresh)
        return None


class NodeCommands:
    """The verbs `join` and `nodes`."""

    def __init__(self, context: KVContext) -> None:
        self._context = context

    async def join(self, node: NodeInfo, *, ttl_us: int, previous: str | None = None) -> int:
        context, keys = self._context, self._context.keys
        node_key, live_key = keys.node + node.incarnation, keys.live + node.incarnation
        ended_key = keys.ended + node.incarnation
        for _ in range(ROUNDS):
            entry, live, ended = await context.kv.get([node_key, live_key, ended_key])
            if ended is not None or (entry is not None and node_of(entry.value).ended):
                return context.clock.time_us()
            old = None if live is None else live_of(live.value)
            lease = await context.kv.grant(ttl_us)
            running = 0 if old is None else old.running
            shown = Live(lease, ttl_us, running, claims=bool(node.kinds))
            row, stored = await context.kind_sets.stored(node)
            # in one step, since a reaper takes a node without a lease for dead
            ops = [Put(node_key, encode(row)), Put(live_key, encode(shown), lease)]
            same = Compare(node_key, mod=0 if entry is None else entry.mod)
            applied = await context.kv.txn([Step([same, Compare(ended_key), *stored], ops)])
            if applied.steps[0] is not None:
                if old is not None:
                    await context.kv.revoke(old.lease)
                break
            await context.kv.revoke(lease)
        context.learn_name(node.incarnation, node.name)
        if previous is not None and previous != node.incarnation:
            await self._forgive(previous)
        return context.clock.time_us()

    async def _forgive(self, previous: str) -> None:
        """Turn crashes that were charged to an incarnation that did not crash into losses."""
        context, keys = self._context, self._context.keys
        prefix = keys.charged(previous)
        for _ in range(ROUNDS):
            (found,) = await context.kv.read([Range(prefix, prefix_end(prefix), limit=500)])
            if not found.items:
                return
            charged = {key[len(prefix) :]: (key, entry.mod) for key, entry in found.items}
            rows = await context.rows(list(charged))
            changes = [_forgiven(keys.state + id, rows.get(id), *of_charge) for id, of_charge in charged.items()]
            await context.writer.write(changes, now_us=context.clock.time_us())
            context.drop(charged)

    async def nodes(self) -> list[NodeView]:
        context, keys = self._context, self._context.keys
        nodes, lives = await context.kv.read(
            [Range(keys.node, prefix_end(keys.node)), Range(keys.live, prefix_end(keys.live))]
        )
        alive = {key[len(keys.live) :]: live_of(entry.value) for key, entry in lives.items}
        left = await context.kv.remaining([live.lease for live in alive.values()])
        # callers compare with the clock that counts, and this node's own may be off
        now_us = context.clock_skew.median_us()
        ends = {inc: now_us + left_us for inc, left_us in zip(alive, left, strict=True)}
        rows = {key[len(keys.node) :]: node_of(entry.value) for key, entry in nodes.items}
        shown = {incarnation: row for incarnation, row in rows.items() if incarnation in alive and not row.ended}
        views: list[NodeView] = []
        for (incarnation, _), info in zip(shown.items(), await context.kind_sets.whole(shown.values()), strict=True):
            live = alive[incarnation]
            views.append(
                NodeView(
                    info=info,
                    running=live.running,
                    renewed_us=ends[incarnation] - live.ttl_us,
                    expires_us=ends[incarnation],
                )
            )
        return sorted(views, key=lambda view: (view.info.name, view.info.incarnation))


def _forgiven(state_key: str, stored: tuple[int, Row] | None, key: str, mod: int) -> Change:
    compares = [Compare(key, mod=mod)]
    ops: list[Op] = [Delete(key)]
    if stored is None or stored[1].crashes == 0 or stored[1].final:
        return Change(compares, ops)
    revision, row = stored
    forgiven = msgspec.structs.replace(row, crashes=row.crashes - 1, losses=row.losses + 1)
    return Change([*compares, Compare(state_key, mod=revision)], [*ops, Put(state_key, encode(forgiven))])
