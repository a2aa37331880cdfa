"""Every field of a record has its value after each transition: the expected record is compared as a whole."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from msgspec.structs import replace

from peerjob.model.query import Filter
from peerjob.model.record import FINAL_STATE, Ack, Action, Claim, NewInstance, Outcome, Record, Transition
from peerjob.model.state import State
from peerjob.store.base import Store
from peerjob.testing.factories import Peer

from .suite import StoreSuite

FIELDS = tuple(name for name in Record.__struct_fields__ if name not in ("history", "due_us"))
LARGE = 20_000
"""Bytes of a payload that an engine may store apart from the record."""


class Followed:
    """One instance with a value in each field, and its expected record."""

    def __init__(self, suite: StoreSuite, store: Store, new: NewInstance) -> None:
        self.suite = suite
        self.store = store
        self.new = new
        self.lines: list[str] = []
        self.expected = Record(
            id=new.id,
            kind=new.kind,
            state=State.SCHEDULED,
            spec=new.spec,
            priority=new.priority,
            due_us=new.due_us or 0,
            attempts=new.attempts,
            crashes=new.crashes,
            losses=new.losses,
            fence=0,
            owner="",
            history=(Transition(State.CREATED, 0, "sender"), Transition(State.SCHEDULED, 0, "sender")),
            key=new.key,
            tags=new.tags,
            retention_us=new.retention_us,
            max_crashes=new.max_crashes,
        )

    async def changed(self, state: State | None = None, node: str = "", note: str = "", **fields: Any) -> Record:
        """Expect these fields to have changed, and all others to be as before."""
        if state is not None:
            fields["state"] = state
            fields["history"] = (*self.expected.history, Transition(state, 0, node, note))
        self.expected = replace(self.expected, **fields)
        return await self.compare()

    async def compare(self) -> Record:
        record = await self.suite.read(self.store, self.new.id)
        told = {name: getattr(record, name) for name in FIELDS}
        assert told == {name: getattr(self.expected, name) for name in FIELDS}
        history = [(entry.state, entry.node, entry.note, entry.count) for entry in record.history]
        assert history == [(entry.state, entry.node, entry.note, entry.count) for entry in self.expected.history]
        assert [line.message for line in await self.suite.lines(self.store, self.new.id)] == self.lines
        if self.expected.due_us >= 0:
            assert record.due_us == self.expected.due_us
        return record

    async def claimed(self, peer: Peer) -> Claim:
        """Claim it, and compare each field of the claim."""
        claim = await peer.take_one()
        before = self.expected
        record = await self.changed(
            State.PROCESSING, peer.name, attempts=before.attempts + 1, fence=claim.fence, owner=peer.incarnation
        )
        assert claim.fence > before.fence
        for name in (
            "id",
            "kind",
            "fence",
            "spec",
            "priority",
            "due_us",
            "attempts",
            "crashes",
            "losses",
            "key",
            "tags",
        ):
            assert getattr(claim, name) == getattr(record, name), name
        assert claim.at_us == record.history[-1].at_us
        return claim

    async def said(self, peer: Peer, claim: Claim, action: Action, **fields: Any) -> None:
        """Commit an outcome with a log line."""
        if action in (Action.RETRY, Action.SNOOZE):
            await self.suite.pass_time(0.002)  # so that the due time moves
        self.lines.append(f"line {len(self.lines)}")
        logs = (self.suite.make.line(self.lines[-1]),)
        said = Outcome(id=claim.id, fence=claim.fence, action=action, logs=logs, **fields)
        assert await peer.commit(said) == [Ack.DONE]

    async def waits(self, peer: Peer, note: str, *, due_us: int | None = None, **fields: Any) -> None:
        """Expect it in the queue again, by an outcome of the peer; without `due_us`, due since a moment ago."""
        if due_us is None:
            record = await self.suite.read(self.store, self.new.id)
            assert record.due_us > self.expected.due_us
            due_us = record.due_us
        await self.changed(State.SCHEDULED, peer.name, note, due_us=due_us, owner="", **fields)


class FieldRules(StoreSuite):
    """Rules of the fields that a transition sets, and of those that it keeps."""

    async def followed(self, store: Store) -> Followed:
        now_us = (await self.join(store, "clock", ())).joined_us
        new = self.make.instance(
            spec=b"the spec",
            priority=-3,
            due_us=now_us - 5_000_000,
            key="the key",
            tags=("red", "round"),
            retention_us=3_600_000_000,
            max_crashes=7,
            attempts=4,
            crashes=1,
        )
        await store.enqueue([new], node="sender")
        followed = Followed(self, store, new)
        await followed.compare()
        return followed

    async def worked(self, store: Store, peer: Peer, size: int = 2) -> tuple[Followed, Claim]:
        """An instance that runs, after a retry and a report that left an error and a progress."""
        followed = await self.followed(store)
        claim = await followed.claimed(peer)
        await followed.said(peer, claim, Action.RETRY, error=b"e" * size, progress=b"half", note="retry 1")
        await followed.waits(peer, "retry 1", error=b"e" * size, progress=b"half")
        return followed, await followed.claimed(peer)

    @pytest.mark.parametrize("size", [2, LARGE])
    async def test_a_return_to_the_queue_keeps_what_it_does_not_set(self, store: Store, size: int) -> None:
        peer = await self.join(store, "worker")
        followed, claim = await self.worked(store, peer, size)
        attempts = followed.expected.attempts - 1

        await followed.said(peer, claim, Action.REPORT, started=True)
        await followed.compare()
        await followed.said(peer, claim, Action.REPORT, progress=b"three quarters")
        await followed.changed(progress=b"three quarters")
        await followed.said(peer, claim, Action.SNOOZE, note="snoozed")
        await followed.waits(peer, "snoozed", attempts=attempts)
        claim = await followed.claimed(peer)
        await followed.said(peer, claim, Action.HAND_BACK, note="handed back", progress=b"whole")
        await followed.waits(peer, "handed back", due_us=followed.expected.due_us, attempts=attempts, progress=b"whole")
        claim = await followed.claimed(peer)
        await followed.said(peer, claim, Action.RETRY, note="retry 2")
        await followed.waits(peer, "retry 2")
        claim = await followed.claimed(peer)
        await followed.said(peer, claim, Action.SNOOZE, error=b"f" * size, note="again")
        await followed.waits(peer, "again", attempts=attempts + 1, error=b"f" * size)
        again = [self.make.instance(key=followed.new.key)]
        assert [added.id for added in await store.enqueue(again)] == [followed.new.id]

    @pytest.mark.parametrize("size", [2, LARGE])
    @pytest.mark.parametrize("action", FINAL_STATE)
    async def test_an_end_sets_result_and_error(self, store: Store, action: Action, size: int) -> None:
        """Those of an earlier outcome do not stay."""
        peer = await self.join(store, "worker")
        for result, error in ((b"r" * size, None), (None, b"g" * size), (None, None)):
            followed, claim = await self.worked(store, peer, size)
            await followed.said(peer, claim, action, result=result, error=error, note="the end")
            await followed.changed(FINAL_STATE[action], "worker", "the end", result=result, error=error)
            again = [self.make.instance(key=followed.new.key)]
            assert (await store.enqueue(again))[0].is_new
            await store.cancel([again[0].id], request=self.make.request())

    @pytest.mark.parametrize("runs", [False, True])
    async def test_a_cancel_keeps_what_the_instance_has(self, store: Store, runs: bool) -> None:
        peer = await self.join(store, "worker")
        followed, claim = await self.worked(store, peer)
        if not runs:
            await followed.said(peer, claim, Action.HAND_BACK)
            await followed.waits(peer, "", due_us=followed.expected.due_us, attempts=followed.expected.attempts - 1)
        await store.cancel([claim.id], node="operator", request=self.make.request())
        owner = (await self.read(store, claim.id)).owner
        assert owner in ("", peer.incarnation if runs else "")
        await followed.changed(State.CANCELLED, "operator", "cancelled by user", owner=owner)
        assert await peer.end(claim, Action.RELEASE) is (Ack.CANCELLED if runs else Ack.LOST)
        await followed.changed(owner="")

    @pytest.mark.parametrize("started", [False, True])
    async def test_the_death_of_a_node_changes_the_charge(self, store: Store, started: bool) -> None:
        reaper, mortal = await self.join(store, "reaper"), await self.join_briefly(store, "mortal")
        followed, claim = await self.worked(store, mortal)
        if started:
            await followed.said(mortal, claim, Action.REPORT, started=True)
        await self.reap_all(reaper)
        before = followed.expected
        await followed.waits(
            reaper,
            "node lost",
            due_us=before.due_us,
            attempts=before.attempts - 1,
            crashes=before.crashes + started,
            losses=before.losses + (not started),
        )
        await followed.claimed(reaper)

    async def test_a_node_that_leaves_changes_no_charge(self, store: Store) -> None:
        leaver, other = await self.join(store, "leaver"), await self.join(store, "other")
        followed, claim = await self.worked(store, leaver)
        await followed.said(leaver, claim, Action.REPORT, started=True)
        assert await store.leave(leaver.incarnation) == 1
        await followed.waits(
            leaver, "handed back", due_us=followed.expected.due_us, attempts=followed.expected.attempts - 1
        )
        await followed.claimed(other)

    async def test_an_end_as_poison_keeps_what_the_instance_has(self, store: Store) -> None:
        reaper, mortal = await self.join(store, "reaper"), await self.join_briefly(store, "mortal")
        followed = Followed(self, store, self.make.instance(max_crashes=0, key="k", tags=("t",), due_us=1))
        await store.enqueue([followed.new], node="sender")
        claim = await followed.claimed(mortal)
        await followed.said(mortal, claim, Action.REPORT, started=True, progress=b"half")
        await self.reap_all(reaper)
        await followed.changed(State.TERMINATED, "reaper", "poison", attempts=0, crashes=1, owner="", progress=b"half")
        assert (await store.enqueue([self.make.instance(key="k")]))[0].is_new

    async def test_a_crash_that_becomes_a_loss_changes_nothing_else(self, store: Store) -> None:
        reaper, mortal = await self.join(store, "reaper"), await self.join_briefly(store, "mortal")
        followed, claim = await self.worked(store, mortal)
        await followed.said(mortal, claim, Action.REPORT, started=True)
        await self.reap_all(reaper)
        before = followed.expected
        await followed.waits(
            reaper, "node lost", due_us=before.due_us, attempts=before.attempts - 1, crashes=before.crashes + 1
        )
        await self.join(store, "mortal", previous=mortal.incarnation)
        await followed.changed(crashes=before.crashes, losses=before.losses + 1)

    @pytest.mark.parametrize("clear", ["clear_history", "clear_logs"])
    async def test_a_clear_changes_no_other_field(self, store: Store, clear: str) -> None:
        peer = await self.join(store, "worker")
        followed, claim = await self.worked(store, peer)
        await followed.said(peer, claim, Action.COMPLETE, result=b"r", error=b"g", note="done")
        await followed.changed(State.COMPLETED, "worker", "done", result=b"r", error=b"g")
        edit: Callable[..., Any] = getattr(store, clear)
        for _ in range(2):
            _, cursor = await edit(Filter())
            while cursor is not None:
                _, cursor = await edit(Filter(), cursor=cursor)
            if clear == "clear_logs":
                followed.lines.clear()
            else:
                last = followed.expected.history[-1]
                count = sum(entry.count for entry in followed.expected.history)
                followed.expected = replace(followed.expected, history=(replace(last, count=count),))
            await followed.compare()
