"""The verbs `join`, `instruct` and `nodes`."""

from __future__ import annotations

import asyncio

from msgspec.structs import replace

from peerjob.model.errors import StoreUnavailableError
from peerjob.model.record import Instruction, NodeInfo, NodeView
from peerjob.store.kv.format.base import Compare, Delete, Op, Put, Transaction, mod_of
from peerjob.store.kv.format.keys import below
from peerjob.store.kv.format.rows import UNREADABLE_NODE, Live, Row, decode_node, encode, live_of, node_of
from peerjob.store.kv.write.context import KVCommands, retried
from peerjob.store.kv.write.transaction_plan import Change
from peerjob.store.kv.write.writer import ROUNDS

_MAX_CHARGES = 500
_MENDED_AFTER = 0.2
"""Seconds after which the unreadable record of a node is read again."""
_CHANGES = "the row of a node changes again and again"


class NodeCommands(KVCommands):
    """The verbs about nodes, besides those that end one."""

    @retried
    async def join(self, node: NodeInfo, *, ttl_us: int, previous: str | None = None) -> int:
        kv, keys = self._kv, self._keys
        node_key, live_key = keys.node + node.incarnation, keys.live + node.incarnation
        ended_key = keys.ended + node.incarnation
        for _ in range(ROUNDS):
            entry, live, ended = await kv.get([node_key, live_key, ended_key])
            before = None if entry is None else node_of(entry.value)
            if ended is not None or (before is not None and before.ended):
                return self._clock.time_us()
            old = None if live is None else live_of(live)
            lease = await kv.grant(ttl_us)
            row, stored = await self._context.kind_sets.stored(node)
            if before is not None:
                row = replace(row, extra=before.extra)
            new = Live(lease, ttl_us, 0 if old is None else max(0, old.running), claims=row.claims)
            # one transaction writes record and lease, because a reaper treats a node that has a record without a lease
            # as dead
            ops = [Put(node_key, encode(row)), Put(live_key, encode(new), lease)]
            same = [Compare(node_key, mod=mod_of(entry)), Compare(live_key, mod=mod_of(live)), Compare(ended_key)]
            applied = await kv.txn([Transaction([*same, *stored], ops)])
            if applied.answers[0] is not None:
                if old is not None:
                    await kv.revoke(old.lease)
                break
            await kv.revoke(lease)
        else:
            raise StoreUnavailableError(keys.root[:-1], _CHANGES)
        self._context.cache_name(node.incarnation, node.name)
        if previous is not None and previous != node.incarnation:
            await self._forgive(previous)
        return self._clock.time_us()

    @retried
    async def instruct(self, incarnation: str, instruction: Instruction) -> bool:
        kv, keys = self._kv, self._keys
        node_key, live_key = keys.node + incarnation, keys.live + incarnation
        for _ in range(ROUNDS):
            entry, live = await kv.get([node_key, live_key])
            if entry is None or live is None or (row := node_of(entry.value)).ended:
                return False
            if row is UNREADABLE_NODE:
                # the node writes its record anew with its next renewal
                await self._context.hints.renew(incarnation)
                await asyncio.sleep(_MENDED_AFTER)
                continue
            transaction = Transaction(
                [Compare(node_key, mod=entry.mod)], [Put(node_key, encode(row.instructed(instruction)))]
            )
            if (await kv.txn([transaction])).answers[0] is not None:
                await self._context.hints.renew(incarnation)
                return True
        raise StoreUnavailableError(keys.root[:-1], _CHANGES)

    async def _forgive(self, previous: str) -> None:
        """Make losses of the crashes that a reaper charged because of `previous`: the process did not crash."""
        keys = self._keys
        await self._mark_returned(keys.node + previous)
        prefix = keys.charged(previous)
        failures = 0
        while failures < ROUNDS:
            (answer,) = await self._kv.read([below(prefix, _MAX_CHARGES)])
            if not answer.items:
                return
            charged = {key[len(prefix) :]: Compare(key, mod=entry.mod) for key, entry in answer.items}
            rows = await self._context.rows(list(charged))
            changes = [_forgiven(keys.state + id, rows.get(id), charge) for id, charge in charged.items()]
            written = await self._writer.write(changes)
            failures += not any(written.revisions)
            self._context.uncache(charged)
        raise StoreUnavailableError(keys.root[:-1], "too many writers at once")

    async def _mark_returned(self, node_key: str) -> None:
        """Let reapers charge only losses for the claims that a dead incarnation still has."""
        for _ in range(ROUNDS):
            (entry,) = await self._kv.get([node_key])
            if entry is None or (row := node_of(entry.value)).ended != "dead":
                return
            transaction = Transaction(
                [Compare(node_key, mod=entry.mod)], [Put(node_key, encode(replace(row, ended="returned")))]
            )
            if (await self._kv.txn([transaction])).answers[0] is not None:
                return
        raise StoreUnavailableError(self._keys.root[:-1], _CHANGES)

    @retried
    async def nodes(self) -> list[NodeView]:
        keys = self._keys
        nodes, lives = await self._kv.read([below(keys.node), below(keys.live)])
        alive = {key[len(keys.live) :]: live_of(entry) for key, entry in lives.items}
        left = await self._kv.remaining([live.lease for live in alive.values()])
        # times are given by the median clock: callers compare them with the median clock, and this node's clock may be
        # off
        now_us = self._context.clock_skew.median_us()
        ends = {incarnation: now_us + left_us for incarnation, left_us in zip(alive, left, strict=True)}
        rows = {key[len(keys.node) :]: self._context.decoded(entry, key, decode_node) for key, entry in nodes.items}
        shown = {
            incarnation: row
            for incarnation, row in rows.items()
            if incarnation in alive and row is not None and not row.ended
        }
        infos = await self._context.kind_sets.whole(shown.values())
        views = [
            NodeView(
                info=info,
                running=max(0, alive[incarnation].running),
                renewed_us=ends[incarnation] - alive[incarnation].ttl_us,
                expires_us=ends[incarnation],
            )
            for incarnation, info in zip(shown, infos, strict=True)
        ]
        return sorted(views, key=lambda view: (view.info.name, view.info.incarnation))


def _forgiven(state_key: str, stored: tuple[int, Row] | None, charge: Compare) -> Change:
    compares, ops = [charge], list[Op]([Delete(charge.key)])
    if stored is not None and stored[1].crashes > 0 and not stored[1].final:
        revision, row = stored
        forgiven = replace(row, crashes=row.crashes - 1, losses=row.losses + 1)
        compares.append(Compare(state_key, mod=revision))
        ops.append(Put(state_key, encode(forgiven)))
    return Change(compares, ops)
