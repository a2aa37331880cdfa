"""Taking claims back: from a node that leaves in order, and from one that died."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from peerjob.model.record import Reaped
from peerjob.model.state import State

from .base import Compare, Delete, Entry, Op, Put, Range, Step
from .context import KVContext
from .hints import Wakeups
from .keys import prefix_end
from .retention import RetentionCommands
from .rows import NodeRow, Owned, Row, encode, extended, live_of, node_of, owned_of
from .slots import StepPlan
from .writer import ROUNDS, Change

_LEAVE_STEP = 200


class RecoveryCommands:
    """The verbs `leave` and `reap`."""

    def __init__(self, context: KVContext, retention: RetentionCommands) -> None:
        self._context = context
        self._retention = retention

    async def leave(self, incarnation: str) -> int:
        context, keys = self._context, self._context.keys
        context.hints.close(incarnation)
        (node, live) = await context.kv.get([keys.node + incarnation, keys.live + incarnation])
        if node is None:
            return 0
        row = node_of(node.value)
        if not row.ended:
            row = msgspec.structs.replace(row, ended="left")
            if not await self._mark(incarnation, node, row):
                return await self.leave(incarnation)
            if live is not None:
                await context.kv.revoke(live_of(live.value).lease)
        count = 0
        while True:
            taken, more = await self._take_back(incarnation, row, _LEAVE_STEP, row.info.name)
            count += len(taken)
            if not more:
                return count

    async def reap(self, limit: int, *, reaper: str) -> list[Reaped]:
        context, keys = self._context, self._context.keys
        prefixes = (keys.node, keys.live)
        # every node asks twice a second, and to count costs a server less than to tell each key
        known, alive_now = await context.kv.read([Range(one, prefix_end(one), 1, keys_only=True) for one in prefixes])
        if known.count == alive_now.count:
            return []
        nodes, lives = await context.kv.read([Range(one, prefix_end(one), keys_only=True) for one in prefixes])
        alive = {key[len(keys.live) :]: entry.mod for key, entry in lives.items}
        guards = [Compare(keys.live + reaper, mod=alive[reaper])] if reaper in alive else None
        # rows are read only of nodes without a lease, of which there are few
        silent = [key for key, _ in nodes.items if key[len(keys.node) :] not in alive]
        if not silent:
            return []
        entries = zip(silent, await context.kv.get(silent), strict=True)
        rows = {key[len(keys.node) :]: (entry, node_of(entry.value)) for key, entry in entries if entry is not None}
        by = await context.name_of(reaper) or reaper
        reaped: list[Reaped] = []
        for incarnation, (entry, seen) in rows.items():
            if len(reaped) >= limit:
                break
            row = seen
            if not seen.ended:
                if guards is None:
                    continue
                row = await self._dead(incarnation, seen)
                if not await self._mark(incarnation, entry, row, [Compare(keys.live + incarnation), *guards]):
                    continue
            more = True
            while more and len(reaped) < limit:
                taken, more = await self._take_back(incarnation, row, limit - len(reaped), by)
                reaped += taken
        return reaped

    async def _dead(self, incarnation: str, row: NodeRow) -> NodeRow:
        """How a node is marked as dead: whether a suspect was running decides who is charged."""
        context = self._context
        prefix = context.keys.owned(incarnation)
        (found,) = await context.kv.read([Range(prefix, prefix_end(prefix))])
        suspects = [key[len(prefix) :] for key, entry in found.items if owned_of(entry.value).suspect]
        rows = await context.rows(suspects)
        ran = any(one.started and one.owner == incarnation for _, one in rows.values())
        return msgspec.structs.replace(row, ended="dead", suspect_ran=ran)

    async def _mark(self, incarnation: str, node: Entry, row: NodeRow, guards: Sequence[Compare] = ()) -> bool:
        """Mark an incarnation as ended, in one step; False when it is not as it was read."""
        keys = self._context.keys
        compares = [Compare(keys.node + incarnation, mod=node.mod), *guards]
        singles = [Delete(prefix + incarnation) for prefix in (keys.live, keys.idle)]
        ops: list[Op] = [Put(keys.node + incarnation, encode(row)), *singles]
        applied = await self._context.kv.txn([Step(compares, ops)])
        return applied.steps[0] is not None

    async def _take_back(self, incarnation: str, node: NodeRow, limit: int, by: str) -> tuple[list[Reaped], bool]:
        """Take back up to `limit` claims; whether there are more. Forgets the incarnation after the last."""
        context, keys = self._context, self._context.keys
        prefix = keys.owned(incarnation)
        taken: list[Reaped] = []
        for _ in range(ROUNDS):
            (found,) = await context.kv.read([Range(prefix, prefix_end(prefix), limit=limit)])
            if not found.items:
                await self._forget(incarnation)
                return taken, False
            owned = {key[len(prefix) :]: owned_of(entry.value) for key, entry in found.items}
            taken += await self._back(incarnation, node, owned, by)
            if taken:
                break
        return taken, True

    async def _back(self, incarnation: str, node: NodeRow, owned: Mapping[str, Owned], by: str) -> list[Reaped]:
        context, keys = self._context, self._context.keys
        now_us = context.clock.time_us()
        rows = await context.rows(list(owned))
        lease = await context.writer.short_lease(now_us)
        wakeups = Wakeups(but=incarnation)
        changes: list[Change] = []
        planned: list[tuple[str, Row, Row]] = []
        stale: list[Op] = []
        slots = await context.slots.held_by(row for _, row in rows.values())
        for id in owned:
            revision, row = rows.get(id, (0, None))
            if row is None or row.owner != incarnation or not row.keeps:
                stale.append(Delete(keys.owned(incarnation) + id))
                continue
            after = self._after(row, node, now_us, by)
            ops: list[Op] = [Put(keys.state + id, encode(after))]
            plan = StepPlan(ops, [], [], slots={row.slot: slots[row.slot]} if row.slot else {})
            context.let_go(id, row, after, now_us, plan)
            if after.crashes > row.crashes:
                ops.append(Put(keys.charged(incarnation) + id, b"", lease))
            changes.append(context.change(plan, [Compare(keys.state + id, mod=revision)]))
            wakeups.add_queued(plan)
            planned.append((id, row, after))
        await context.writer.plain(stale)
        written = await context.writer.write(changes, now_us=now_us)
        context.drop(owned)
        reaped: list[Reaped] = []
        ended: dict[str, int] = {}
        for (id, row, after), revision in zip(planned, written.revisions, strict=True):
            if not revision:
                continue
            reaped.append(Reaped(id=id, kind=row.kind, state=after.state, node=node.info.name))
            if not row.releasing:
                wakeups.changed.append(id)
                if after.final:
                    ended[row.kind] = ended.get(row.kind, 0) + 1
        await context.hints.send(wakeups, written)
        await self._retention.tidy(ended)
        return reaped

    def _after(self, row: Row, node: NodeRow, now_us: int, by: str) -> Row:
        """What becomes of a claim that is taken back."""
        if row.releasing:
            return msgspec.structs.replace(row, releasing=False, owner="")
        crashes, losses = row.crashes, row.losses
        if node.ended == "dead" and (row.suspect or not node.suspect_ran):
            crashes, losses = (crashes + 1, losses) if row.started else (crashes, losses + 1)
        poison = crashes > row.max_crashes
        state = State.TERMINATED if poison else State.SCHEDULED
        note = "poison" if poison else "node lost" if node.ended == "dead" else "handed back"
        return msgspec.structs.replace(
            row,
            state=state,
            attempts=row.attempts - 1,
            crashes=crashes,
            losses=losses,
            owner="",
            started=False,
            expires_us=self._context.expires_us(row, now_us) if poison else 0,
            history=extended(row, state, now_us, by, note),
        )

    async def _forget(self, incarnation: str) -> None:
        """Remove what is left of an incarnation that has no claims."""
        keys = self._context.keys
        prefixes = [keys.hint(incarnation), keys.answers(incarnation)]
        singles = [keys.node, keys.live, keys.idle, keys.changes]
        ops: list[Op] = [Delete(prefix, prefix_end(prefix)) for prefix in prefixes]
        ops += [Delete(prefix + incarnation) for prefix in singles]
        if lease := await self._context.writer.short_lease(self._context.clock.time_us()):
            # a join that comes late, sent again or delayed, must not bring it back
            ops.append(Put(keys.ended + incarnation, b"", lease))
        await self._context.kv.txn([Step([], ops)])
