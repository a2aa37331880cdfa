"""Every field of a schedule's row, and of a node's view, has its value after each command."""

from __future__ import annotations

from typing import Any

from msgspec.structs import replace

from peerjob.model.firing import FireOutcome, FireRecord, Overlap, ScheduleRow
from peerjob.model.record import Action, Instruction, NodeInfo, NodeView
from peerjob.store.base import Store
from peerjob.testing.factories import LONG_TTL_US, Peer

from .timetable import ScheduleSuite, nth


class RowFieldRules(ScheduleSuite):
    """Rules of the fields that a command sets, and of those that it keeps."""

    async def same(self, store: Store, before: ScheduleRow, **changed: Any) -> ScheduleRow:
        """The row of a schedule, in which only these fields have changed."""
        row = await self.row(store, before.name)
        assert row == replace(before, **changed)
        page = await store.changed_schedules(0)
        assert row in page.rows
        return row

    async def test_a_schedule_keeps_what_a_command_does_not_set(self, store: Store) -> None:
        peer = await self.join(store)
        row = await self.schedule(store, trimmed_us=nth(-9), note="first")
        assert row.created_us == row.updated_us > 0
        row = await self.same(store, row, kind="work", definition=b"definition", next_us=nth(0), note="first")
        assert (row.paused, row.last_us, row.trimmed_us, row.holder, row.parked) == (False, nth(-9), nth(-9), "", ())

        first = await self.fired(store, 0, overlap=Overlap.QUEUE, queue_limit=9)
        row = await self.same(store, row, next_us=nth(1), last_us=nth(0), holder=first.instance)
        second = await self.fired(store, 1, overlap=Overlap.QUEUE, queue_limit=9)
        row = await self.same(store, row, next_us=nth(2), last_us=nth(1), parked=(second.instance,))
        triggered = await self.fired(store, 50, FireOutcome.TRIGGERED, overlap=Overlap.QUEUE, queue_limit=9)
        row = await self.row(store)
        row = await self.same(store, row, next_us=nth(2), parked=(second.instance, triggered.instance))
        await self.done(store, self.stretch(row, 2, 5, reason="misfire skip"))
        row = await self.same(store, row, next_us=nth(6), last_us=max(row.last_us, nth(5)))

        claim = await peer.take_one()
        assert claim.id == first.instance
        await peer.end(claim, Action.RETRY)
        await self.same(store, row)
        await peer.end(await peer.take_one())
        row = await self.same(store, row, holder=second.instance, parked=(triggered.instance,))
        await self.cancel(store, second.instance)
        row = await self.same(store, row, holder=triggered.instance, parked=())

        await self.pass_time(0.002)
        paused = await self.put(store, row, paused=True, note="a pause")
        assert paused is not None
        assert (paused.revision > row.revision, paused.updated_us > row.updated_us) == (True, True)
        changed = {"revision": paused.revision, "updated_us": paused.updated_us}
        row = await self.same(store, row, paused=True, note="a pause", **changed)
        account = FireRecord(nominal_us=nth(6), outcome=FireOutcome.PAUSED, until_us=nth(7), count=2)
        resumed = await self.put(store, row, paused=False, note="", next_us=nth(8), account=account)
        assert resumed is not None
        changed = {"revision": resumed.revision, "updated_us": resumed.updated_us}
        await self.same(store, row, paused=False, note="", next_us=nth(8), last_us=resumed.last_us, **changed)

    async def view(self, store: Store, peer: Peer) -> NodeView:
        (view,) = [node for node in await store.nodes() if node.info.incarnation == peer.incarnation]
        assert view.age_us == 0  # the views of a manager have it
        return view

    async def test_a_node_is_shown_with_each_field(self, store: Store) -> None:
        peer = await self.join(store)
        peer.info = NodeInfo(
            name="the node",
            incarnation=peer.incarnation,
            kinds=("work", "other"),
            signatures={"work": "hash"},
            descriptors=bytes(16),
            workers=7,
            host="the host",
            pid=42,
            version="1.2.3",
            started_us=peer.joined_us - 5,
            intake="draining",
            ahead_us=-300_000,
        )
        joined_us = await store.join(peer.info, ttl_us=LONG_TTL_US)
        began = self.clock.elapsed()
        view = await self.view(await self.open(), peer)
        assert (view.info, view.running) == (peer.info, 0)
        # some servers tell the rest of a lease, in whole seconds, and it is older if the answer is late
        blur_us = 1_000_000 + round((self.clock.elapsed() - began) * 1_000_000)
        assert peer.joined_us - blur_us <= view.renewed_us <= joined_us + blur_us
        assert view.expires_us == view.renewed_us + LONG_TTL_US

        await store.enqueue(self.make.instances(3))
        claims = await peer.take(2)
        await self.pass_time(0.01)
        await peer.renew(*claims, ttl_us=2 * LONG_TTL_US)
        renewed = await self.view(await self.open(), peer)
        assert renewed.info == peer.info
        assert renewed.running == 2
        assert renewed.expires_us == renewed.renewed_us + 2 * LONG_TTL_US
        assert renewed.renewed_us >= view.renewed_us - blur_us
        await store.instruct(peer.incarnation, Instruction(self.make.request(), drain=True))
        await peer.end(claims[0])
        assert (await self.view(store, peer)).info == peer.info

        peer.info = replace(peer.info, workers=1, intake="drained")
        await store.join(peer.info, ttl_us=2 * LONG_TTL_US)
        shown = await self.view(await self.open(), peer)
        assert (shown.info, shown.running) == (peer.info, 2)
        await peer.renew(claims[1])
        assert (await self.view(store, peer)).running == 1
