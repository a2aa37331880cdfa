"""The verbs `leave` and `reap`: claims are taken back from a node that leaves or that died."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import replace

from peerjob.model.record import Reaped
from peerjob.model.state import State
from peerjob.store.kv.format.base import Compare, Delete, Entry, Op, Put, Range, Transaction
from peerjob.store.kv.format.keys import below, prefix_end
from peerjob.store.kv.format.rows import NodeRow, Row, encode, extended, node_of
from peerjob.store.kv.queue.retention import RetentionCommands
from peerjob.store.kv.write.context import retried
from peerjob.store.kv.write.gates import stamps
from peerjob.store.kv.write.hints import Wakeups
from peerjob.store.kv.write.transaction_plan import Change, TransactionPlan
from peerjob.store.kv.write.writer import ROUNDS

from .watching import WatchCommands

_LEAVE_STEP = 200


class RecoveryCommands(WatchCommands, RetentionCommands):
    """The verbs `leave` and `reap`."""

    @retried
    async def leave(self, incarnation: str) -> int:
        keys = self._keys
        self._stop_watch(incarnation)
        self._own.has_left(incarnation)
        while True:
            (node, live) = await self._kv.get([keys.node + incarnation, keys.live + incarnation])
            if node is None:
                return 0
            row = node_of(node.value)
            if row.ended:
                break
            row = replace(row, ended="left")
            if await self._mark_ended(incarnation, node, row):
                if live is not None:
                    await self._kv.revoke(live.lease)
                break
        count, more = 0, True
        while more:
            taken, more = await self._take_back(incarnation, row, _LEAVE_STEP, row.info.name)
            count += len(taken)
        return count

    async def reap(self, limit: int, *, reaper: str) -> list[Reaped]:
        # not retried: after an outage, the reaper's own lease may have expired, and a reaper without a lease must not
        # reap
        context, keys = self._context, self._keys
        # most calls come because a lease could have ended, and read two counts only: equal counts show that no node is
        # dead
        known, alive_now = await self._kv.read([below(prefix, 1, keys_only=True) for prefix in (keys.node, keys.live)])
        if known.count == alive_now.count:
            return []
        nodes, lives = await self._kv.read([below(prefix, keys_only=True) for prefix in (keys.node, keys.live)])
        alive = {key[len(keys.live) :]: entry.mod for key, entry in lives.items}
        own_mod = alive.get(reaper)
        # only a node without a lease can be dead, so only the rows of those few nodes are read
        silent = [key for key, _ in nodes.items if key[len(keys.node) :] not in alive]
        if not silent:
            return []
        entries = zip(silent, await self._kv.get(silent), strict=True)
        rows = {key[len(keys.node) :]: (entry, node_of(entry.value)) for key, entry in entries if entry is not None}
        by = await context.name_of(reaper) or reaper
        reaped: list[Reaped] = []
        for incarnation, (entry, stored) in rows.items():
            if len(reaped) >= limit:
                break
            row = stored
            if not stored.ended:
                row = await self._dead_row(incarnation, stored)
                own_mod, marked = await self._mark_dead(incarnation, entry, row, reaper, own_mod)
                if not marked:
                    continue
            more = True
            while more and len(reaped) < limit:
                taken, more = await self._take_back(incarnation, row, limit - len(reaped), by)
                reaped += taken
        return reaped

    async def _dead_row(self, incarnation: str, row: NodeRow) -> NodeRow:
        """The row that marks a node as dead. If a suspect ran on the node, only suspects are charged with the crash."""
        prefix = self._keys.owned(incarnation)
        (answer,) = await self._kv.read([below(prefix)])
        claims = await self._context.claim_index.claims(answer.items)
        rows = await self._context.rows([key[len(prefix) :] for key, owned in claims.items() if owned.suspect])
        ran = any(row.suspect and row.started and row.owner == incarnation for _, row in rows.values())
        return replace(row, ended="dead", suspect_ran=ran)

    async def _mark_dead(
        self, incarnation: str, node: Entry, row: NodeRow, reaper: str, own_mod: int | None
    ) -> tuple[int | None, bool]:
        """Mark an incarnation as dead, and return whether it is; False if its row has changed, or the reaper has ended.

        `own_mod` is that of the reaper's lease, which a renewal can write meanwhile; also returns the present one.
        """
        keys = self._keys
        for _ in range(ROUNDS):
            if own_mod is None:
                break
            dead = [Compare(keys.live + incarnation), Compare(keys.live + reaper, mod=own_mod)]
            # the node may have died before the counters of its last request, so all counters are compared
            if await self._mark_ended(incarnation, node, row, dead, [Delete(keys.counted)]):
                return own_mod, True
            (own,) = await self._kv.get([keys.live + reaper])
            before, own_mod = own_mod, None if own is None else own.mod
            if own_mod == before:
                break
        return own_mod, False

    async def _mark_ended(
        self, incarnation: str, node: Entry, row: NodeRow, guards: Sequence[Compare] = (), further: Sequence[Op] = ()
    ) -> bool:
        """Mark an incarnation as ended; False if the incarnation's record has changed since the last read."""
        keys = self._keys
        compares = [Compare(keys.node + incarnation, mod=node.mod), *guards]
        deletes = [Delete(prefix + incarnation) for prefix in (keys.live, keys.idle)]
        ops = [Put(keys.node + incarnation, encode(row)), *deletes, *further]
        applied = await self._kv.txn([Transaction(compares, ops)])
        return applied.answers[0] is not None

    async def _take_back(self, incarnation: str, node: NodeRow, limit: int, by: str) -> tuple[list[Reaped], bool]:
        """Take back up to `limit` claims, and return whether more are left. Without claims, delete the incarnation."""
        node_key, prefix = self._keys.node + incarnation, self._keys.owned(incarnation)
        taken: list[Reaped] = []
        for _ in range(ROUNDS):
            stored, held = await self._kv.read([Range(node_key), below(prefix, limit)])
            if not held.items:
                await self._delete_incarnation(incarnation)
                return taken, False
            # a return of the process changes the row, and with it what a claim is charged with
            guard = Compare(node_key, mod=stored.items[0][1].mod if stored.items else 0)
            row = node_of(stored.items[0][1].value) if stored.items else node
            owned = [key[len(prefix) :] for key, _ in held.items]
            taken += await self._take_back_claims(incarnation, row, owned, by, guard)
            if taken:
                break
        return taken, True

    async def _take_back_claims(
        self, incarnation: str, node: NodeRow, owned: Sequence[str], by: str, guard: Compare
    ) -> list[Reaped]:
        context, keys, now_us = self._context, self._keys, self._clock.time_us()
        rows = await context.rows(owned)
        lease = await self._writer.short_lease()
        wakeups = Wakeups(except_for=incarnation)
        changes: list[Change] = []
        planned: list[tuple[str, Row, Row]] = []
        stale: list[Op] = []
        slots = await context.slots.held_by(row for _, row in rows.values())
        taken = [(id, row) for id, (_, row) in rows.items()]
        gates = await context.gates.plan_of(taken, (held.slot for held in slots.values()))
        if gates is not None:
            gates.returning = set(gates.states)
        for id in owned:
            revision, row = rows.get(id, (0, None))
            if row is None or row.owner != incarnation or not row.keeps:
                stale.append(Delete(keys.owned(incarnation) + id))
                continue
            after = self._row_after_loss(row, node, now_us, by)
            plan = TransactionPlan.for_row(keys, now_us, row, slots, gates)
            plan.ops.append(Put(keys.state + id, encode(after)))
            plan.end_claim(id, row, after)
            if after.crashes > row.crashes:
                plan.ops.append(Put(keys.charged(incarnation) + id, b"", lease))
            changes.append(plan.change([Compare(keys.state + id, mod=revision)]))
            wakeups.add_queued(plan)
            planned.append((id, row, after))
        await self._writer.plain(stale)
        written = await self._writer.write(changes, guards=[guard, *stamps(gates)])
        context.uncache(owned)
        reaped: list[Reaped] = []
        ended: dict[str, int] = {}
        for (id, row, after), _ in written.applied(planned):
            reaped.append(Reaped(id=id, kind=row.kind, state=after.state, node=node.info.name))
            if not row.releasing:
                wakeups.changed.append(id)
                if after.final:
                    ended[row.kind] = ended.get(row.kind, 0) + 1
        await context.hints.send(wakeups, written)
        await self._remove_surplus(ended)
        return reaped

    def _row_after_loss(self, row: Row, node: NodeRow, now_us: int, by: str) -> Row:
        """The record of an instance after a reaper or a leaving node took back the claim."""
        if row.releasing:
            return replace(row, releasing=False, owner="")
        crashes, losses = row.crashes, row.losses
        if node.ended != "left" and (row.suspect or not node.suspect_ran):
            crashed = row.started and node.ended == "dead"
            crashes, losses = (crashes + 1, losses) if crashed else (crashes, losses + 1)
        poison = crashes > row.max_crashes
        state = State.TERMINATED if poison else State.SCHEDULED
        note = "poison" if poison else "handed back" if node.ended == "left" else "node lost"
        return replace(
            row,
            state=state,
            attempts=row.attempts - 1,
            crashes=crashes,
            losses=losses,
            owner="",
            expires_us=self._context.expires_us(row, now_us) if poison else 0,
            history=extended(row, state, now_us, by, note),
        )

    async def _delete_incarnation(self, incarnation: str) -> None:
        """Delete all keys of an incarnation that has no claims left."""
        self._kinds_may_be_unused()
        keys = self._keys
        ops: list[Op] = [
            Delete(prefix, prefix_end(prefix)) for prefix in (keys.hint(incarnation), keys.answers(incarnation))
        ]
        ops += [Delete(prefix + incarnation) for prefix in (keys.node, keys.live, keys.idle, keys.changes)]
        if lease := await self._writer.short_lease():
            # a join that arrives late or is repeated finds the key `ended`, and so does not bring the incarnation back
            ops.append(Put(keys.ended + incarnation, b"", lease))
        await self._kv.txn([Transaction([], ops)])
