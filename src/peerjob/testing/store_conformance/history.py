"""LEGAL-HISTORY: states follow the arrows, time does not go back, a final state is final."""

import pytest

from peerjob.model.record import FINAL_STATE, MAX_HISTORY, Ack, Action
from peerjob.model.state import State
from peerjob.store.base import Store
from peerjob.testing.factories import outcome

from .suite import PLAIN_ACTIONS, StoreSuite, states

QUEUED = [State.CREATED, State.SCHEDULED]


class HistoryRules(StoreSuite):
    """Rules of states and histories; they also apply to every record that any test reads."""

    async def test_a_history_is_the_sequence_of_states(self, store: Store) -> None:
        await store.enqueue(self.make.instances(1))
        peer = await self.join(store)
        for action in (Action.RETRY, Action.SNOOZE, Action.HAND_BACK, Action.RETRY):
            await peer.end(await peer.take_one(), action)
        claim = await peer.take_one()
        await peer.report(claim, started=True, progress=b"half")
        await peer.end(claim)
        record = await self.read(store, claim.id)
        assert states(record) == [
            *QUEUED, *[State.PROCESSING, State.SCHEDULED] * 4, State.PROCESSING, State.COMPLETED,
        ]  # fmt: skip

    @pytest.mark.parametrize("action", FINAL_STATE)
    async def test_a_final_state_is_final(self, store: Store, action: Action) -> None:
        await store.enqueue(self.make.instances(1))
        peer = await self.join(store)
        claim = await peer.take_one()
        await peer.end(claim, action, result=b"first", error=b"first")
        before = await self.everything(store, claim.id)

        for later in PLAIN_ACTIONS:
            said = outcome(
                claim, later, result=b"no", error=b"no", progress=b"no", started=True, logs=(self.make.line("no"),)
            )
            (ack,) = await peer.commit(said)
            assert ack is Ack.LOST, later
        assert await store.cancel([claim.id], request=self.make.request()) == [FINAL_STATE[action]]
        assert await peer.take() == ()
        assert await self.everything(store, claim.id) == before

    async def test_a_cancelled_instance_stays_cancelled(self, store: Store) -> None:
        (new,) = self.make.instances(1)
        await store.enqueue([new])
        peer = await self.join(store)
        await store.cancel([new.id], request=self.make.request())
        before = await self.everything(store, new.id)
        assert await peer.take() == ()
        assert await store.cancel([new.id], request=self.make.request()) == [State.CANCELLED]
        assert await self.everything(store, new.id) == before

    async def test_a_long_history_is_folded(self, store: Store) -> None:
        await store.enqueue(self.make.instances(1))
        peer = await self.join(store)
        for _ in range(MAX_HISTORY):
            await peer.end(await peer.take_one(), Action.RETRY)
        claim = await peer.take_one()
        await peer.end(claim)

        record = await self.read(store, claim.id)
        assert len(record.history) <= MAX_HISTORY + 1
        assert record.history[0].count > 1
        assert sum(entry.count for entry in record.history) == 2 + 2 * MAX_HISTORY + 2
        tail = states(record)[1:]
        pattern = [State.PROCESSING, State.SCHEDULED] * MAX_HISTORY
        assert tail[-2:] == [State.PROCESSING, State.COMPLETED]
        assert tail[:-2] in (
            pattern[: len(tail) - 2],
            pattern[1:][: len(tail) - 2],
        )
        assert record.attempts == MAX_HISTORY + 1

    async def test_a_history_that_fits_is_whole(self, store: Store) -> None:
        await store.enqueue(self.make.instances(1))
        peer = await self.join(store)
        for _ in range((MAX_HISTORY - 2) // 2):
            await peer.end(await peer.take_one(), Action.RETRY)
        (record,) = (await self.first_page(store)).records
        assert len(record.history) == MAX_HISTORY
        assert {entry.count for entry in record.history} == {1}

    async def test_the_history_names_node_and_reason(self, store: Store) -> None:
        new = self.make.instance()
        await store.enqueue([new], node="sender")
        worker = await self.join(store, "worker")
        await worker.end(await worker.take_one(), Action.RETRY, note="retry 1 in 0s")
        other = await self.join(store, "other")
        await other.take_one()
        await store.cancel([new.id], node="operator", request=self.make.request())

        history = (await self.read(store, new.id)).history
        assert [(entry.state, entry.node) for entry in history] == [
            (State.CREATED, "sender"),
            (State.SCHEDULED, "sender"),
            (State.PROCESSING, "worker"),
            (State.SCHEDULED, "worker"),
            (State.PROCESSING, "other"),
            (State.CANCELLED, "operator"),
        ]
        assert history[3].note == "retry 1 in 0s"

    async def test_equal_records_end_each_in_its_own_way(self, store: Store) -> None:
        await store.enqueue(self.make.instances(7))
        peer = await self.join(store)
        claims = await peer.take()
        ways: list[tuple[Action, bytes | None, bytes | None, str]] = [
            (Action.COMPLETE, b"one", None, ""),
            (Action.COMPLETE, b"two", None, ""),
            (Action.COMPLETE, None, None, ""),
            (Action.TERMINATE, None, b"bad", "first"),
            (Action.TERMINATE, None, b"worse", "second"),
            (Action.TIME_OUT, None, b"late", "second"),
            (Action.RETRY, None, b"again", "second"),
        ]
        acks = await peer.commit(
            *(
                outcome(claim, action, result=result, error=error, note=note)
                for claim, (action, result, error, note) in zip(claims, ways, strict=True)
            )
        )
        assert set(acks) == {Ack.DONE}
        for claim, (action, result, error, note) in zip(claims, ways, strict=True):
            record = await self.read(store, claim.id)
            state = FINAL_STATE.get(action, State.SCHEDULED)
            assert (record.state, record.result, record.error) == (state, result, error)
            assert states(record) == [State.CREATED, State.SCHEDULED, State.PROCESSING, state]
            assert record.history[-1].note == note

        await store.enqueue(self.make.instances(2))
        attempts = {claim.id: claim.attempts for claim in await peer.take()}
        assert sorted(attempts.values()) == [1, 1, 2]
        assert attempts[claims[-1].id] == 2

    async def test_times_do_not_go_back(self, store: Store) -> None:
        await store.enqueue(self.make.instances(20))
        peer = await self.join(store)
        for _ in range(5):
            claims = await peer.take()
            await peer.commit(*(outcome(claim, Action.SNOOZE) for claim in claims))
        page = await self.first_page(store)
        for record in page.records:
            times = [entry.at_us for entry in record.history]
            assert times == sorted(times)
            assert len(times) == 12
