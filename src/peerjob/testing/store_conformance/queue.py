"""Claims take instances from the queue, and commits end their runs."""

import pytest

from peerjob.model.query import Query
from peerjob.model.record import FINAL_STATE, Ack, Action, Claimed
from peerjob.model.state import State
from peerjob.store.base import Store
from peerjob.testing.factories import outcome

from .suite import StoreSuite, ids_of, states

STRANGE_KINDS = (
    "a", "ab", "A", "a:b", "a.b", "a/b", "a b", "a*", "a?", "[a]", "{a}", "}a{", "a}b", "%61", "a%", "a\\b",
    "a\nb", "ä", "a\u0308", "日本", "🦊", "a'b", 'a"b', "-", "0", "null", "a" * 200,
)  # fmt: skip


class QueueRules(StoreSuite):
    """Rules of `claim`, `commit` and `turn`."""

    async def test_a_claim_owns_its_instance(self, store: Store) -> None:
        new = self.make.instance(spec=b"what to do", priority=3)
        await store.enqueue([new])
        peer = await self.join(store, "worker")
        queued = await self.read(store, new.id)
        claimed = await peer.claim()

        (claim,) = claimed.claims
        assert (claim.id, claim.kind, claim.spec, claim.priority) == (new.id, "work", b"what to do", 3)
        assert (claim.due_us, claim.attempts, claim.crashes, claim.losses) == (queued.due_us, 1, 0, 0)
        assert claim.fence > 0
        assert claim.at_us >= claim.due_us
        assert claimed.now_us >= peer.joined_us
        assert not claimed.dead
        record = await self.read(store, new.id)
        assert (record.state, record.owner, record.fence) == (
            State.PROCESSING,
            peer.incarnation,
            claim.fence,
        )
        assert record.attempts == 1
        assert states(record) == [State.CREATED, State.SCHEDULED, State.PROCESSING]
        assert (record.history[-1].node, record.history[-1].at_us) == ("worker", claim.at_us)

    async def test_a_claim_knows_the_key_and_the_tags(self, store: Store) -> None:
        batch = [
            self.make.instance(),
            self.make.instance(key="k", tags=("a", "b:ü")),
            self.make.instance(tags=("a",)),
            self.make.instance(key=""),
        ]
        await store.enqueue(batch)
        peer = await self.join(store)
        first, again = await peer.claim(request="the same"), await peer.claim(request="the same")
        assert again.claims == first.claims
        assert {claim.id: (claim.key, sorted(claim.tags)) for claim in first.claims} == {
            new.id: (new.key, sorted(new.tags)) for new in batch
        }

    async def test_a_claimed_instance_is_not_claimed_again(self, store: Store) -> None:
        await store.enqueue(self.make.instances(2))
        peer, other = await self.join(store, "one"), await self.join(store, "other")
        first = await peer.take(1)
        second = await other.take()
        assert len(first) == len(second) == 1
        assert first[0].id != second[0].id
        assert await peer.take() == ()

    async def test_a_claim_keeps_its_limit(self, store: Store) -> None:
        await store.enqueue(self.make.instances(5))
        peer = await self.join(store)
        assert (await peer.claim(peer.want(0))).claims == ()
        assert len(await peer.take(2)) == 2
        assert len(await peer.take(2)) == 2
        assert len(await peer.take(2)) == 1
        assert await peer.take(2) == ()

    async def test_only_kinds_that_were_asked_for_are_claimed(self, store: Store) -> None:
        batch = {kind: self.make.instance(kind=kind) for kind in STRANGE_KINDS}
        await store.enqueue(list(batch.values()))
        peer = await self.join(store, kinds=STRANGE_KINDS)
        for kind, new in batch.items():
            claimed = await peer.claim(peer.want(50, {kind: 50}))
            assert [(claim.kind, claim.id) for claim in claimed.claims] == [(kind, new.id)]
        for kind, new in batch.items():
            assert (await self.read(store, new.id)).kind == kind

    async def test_each_kind_has_its_own_limit(self, store: Store) -> None:
        for kind in ("a", "b", "c"):
            await store.enqueue(self.make.instances(5, kind=kind))
        peer = await self.join(store, kinds=("a", "b", "c"))
        claimed = await peer.claim(peer.want(10, {"a": 2, "b": 0, "c": 4}))
        assert [claim.kind for claim in claimed.claims] == ["a", "a", "c", "c", "c", "c"]
        claimed = await peer.claim(peer.want(3, {"a": 2, "b": 2}))
        assert [claim.kind for claim in claimed.claims] == ["a", "a", "b"]

    async def test_no_kinds_find_nothing(self, store: Store) -> None:
        await store.enqueue(self.make.instances(1))
        peer = await self.join(store)
        claimed = await peer.claim(peer.want(10, {}))
        assert (claimed.claims, claimed.dead) == ((), False)

    async def test_an_unknown_incarnation_claims_nothing(self, store: Store) -> None:
        await store.enqueue(self.make.instances(1))
        claimed = await store.claim(self.make.id(), (await self.join(store)).want(), request=self.make.request())
        assert claimed.dead
        assert claimed.claims == ()
        assert await self.counts(store) == {State.SCHEDULED: 1}

    # -- delayed instances

    async def test_a_delayed_instance_waits_for_its_time(self, store: Store) -> None:
        peer = await self.join(store)
        later, sooner = self.make.instance(delay_us=300_000), self.make.instance(delay_us=150_000)
        await store.enqueue([later, sooner])
        due = {new.id: (await self.read(store, new.id)).due_us for new in (sooner, later)}
        while due:
            claimed = await peer.claim()
            assert ids_of(claimed.claims) == [id for id, due_us in due.items() if due_us <= claimed.now_us]
            if claimed.claims == ():
                assert claimed.next_due_us == min(due.values())
                await self.pass_time((min(due.values()) - claimed.now_us) / 1_000_000 + 0.01)
            for claim in claimed.claims:
                del due[claim.id]
        assert (await peer.claim()).next_due_us is None

    async def test_due_us_may_lie_ahead(self, store: Store) -> None:
        peer = await self.join(store)
        due_us = peer.joined_us + 3_600_000_000
        new = self.make.instance(due_us=due_us)
        await store.enqueue([new])
        claimed = await peer.claim()
        assert (claimed.claims, claimed.next_due_us) == ((), due_us)
        assert (await self.read(store, new.id)).due_us == due_us

    async def test_falling_due_leaves_no_trace_in_the_history(self, store: Store) -> None:
        peer = await self.join(store)
        await store.enqueue([self.make.instance(delay_us=20_000)])
        await self.pass_time(0.04)
        record = await self.read(store, (await peer.take_one()).id)
        assert states(record) == [State.CREATED, State.SCHEDULED, State.PROCESSING]

    async def test_an_instance_is_found_behind_more_due_ones_than_a_claim_moves(self, store: Store) -> None:
        peer = await self.join(store)
        soon_us = peer.joined_us + 3_000_000
        others = [self.make.instance(kind="other", due_us=soon_us) for _ in range(600)]
        mine = self.make.instance(due_us=soon_us + 1_000)
        await store.enqueue(others[:300])
        await store.enqueue([*others[300:], mine])
        await self.pass_time(3.1)

        claimed = await peer.claim()
        assert claimed.claims == ()
        assert claimed.next_due_us is not None
        assert claimed.next_due_us <= claimed.now_us
        assert ids_of((await peer.claim()).claims) == [mine.id]

    # -- outcomes

    @pytest.mark.parametrize("action", FINAL_STATE)
    async def test_an_outcome_can_be_final(self, store: Store, action: Action) -> None:
        await store.enqueue(self.make.instances(1))
        peer = await self.join(store, "worker")
        claim = await peer.take_one()
        ack = await peer.end(claim, action, result=b"result", error=b"error", progress=b"all", note="why")

        assert ack is Ack.DONE
        record = await self.read(store, claim.id)
        assert record.state == FINAL_STATE[action]
        assert (record.result, record.error, record.progress) == (b"result", b"error", b"all")
        assert (record.owner, record.attempts, record.fence) == (peer.incarnation, 1, claim.fence)
        assert (record.history[-1].node, record.history[-1].note) == ("worker", "why")
        assert await self.counts(store) == {record.state: 1}
        assert await peer.take() == ()

    @pytest.mark.parametrize(("action", "counted"), [(Action.RETRY, 1), (Action.SNOOZE, 0), (Action.HAND_BACK, 0)])
    async def test_an_outcome_can_give_it_back(self, store: Store, action: Action, counted: int) -> None:
        await store.enqueue(self.make.instances(1))
        peer = await self.join(store, "worker")
        claim = await peer.take_one()
        assert await peer.end(claim, action, note="why") is Ack.DONE

        record = await self.read(store, claim.id)
        assert (record.state, record.owner, record.attempts) == (State.SCHEDULED, "", counted)
        assert (record.crashes, record.losses, record.fence) == (0, 0, claim.fence)
        assert (record.history[-1].node, record.history[-1].note) == ("worker", "why")
        again = await peer.take_one()
        assert (again.id, again.attempts) == (claim.id, counted + 1)
        assert again.fence > claim.fence

    @pytest.mark.parametrize("action", [Action.RETRY, Action.SNOOZE])
    async def test_a_retry_waits_for_its_delay(self, store: Store, action: Action) -> None:
        await store.enqueue(self.make.instances(1))
        peer = await self.join(store)
        claim = await peer.take_one()
        await peer.end(claim, action, delay_us=100_000)

        due_us = (await self.read(store, claim.id)).due_us
        assert claim.at_us + 100_000 <= due_us
        while not (claimed := await peer.claim()).claims:
            assert claimed.next_due_us == due_us
            assert claimed.now_us < due_us <= claimed.now_us + 100_000
            await self.pass_time((due_us - claimed.now_us) / 1_000_000 + 0.01)
        assert claimed.now_us >= due_us
        assert ids_of(claimed.claims) == [claim.id]

    async def test_what_is_handed_back_is_due_as_before(self, store: Store) -> None:
        peer = await self.join(store)
        await store.enqueue([self.make.instance(due_us=peer.joined_us - 5_000_000)])
        claim = await peer.take_one()
        await peer.end(claim, Action.HAND_BACK)
        assert (await self.read(store, claim.id)).due_us == peer.joined_us - 5_000_000

    async def test_a_retry_after_hand_backs_counts_runs_only(self, store: Store) -> None:
        (new,) = self.make.instances(1)
        await store.enqueue([new])
        peer = await self.join(store)
        counted = [
            (Action.HAND_BACK, 1), (Action.RETRY, 1), (Action.SNOOZE, 2), (Action.HAND_BACK, 2),
            (Action.RETRY, 2), (Action.COMPLETE, 3),
        ]  # fmt: skip
        for action, attempts in counted:
            claim = await peer.take_one()
            assert claim.attempts == attempts
            await peer.end(claim, action)
        assert (await self.read(store, new.id)).attempts == 3

    async def test_a_report_changes_no_state(self, store: Store) -> None:
        await store.enqueue(self.make.instances(1))
        peer = await self.join(store)
        claim = await peer.take_one()
        before = await self.read(store, claim.id)
        assert await peer.report(claim, started=True) is Ack.DONE
        assert await peer.report(claim, progress=b"half") is Ack.DONE
        assert await peer.report(claim, logs=(self.make.line("hello"),)) is Ack.DONE

        record = await self.read(store, claim.id)
        assert record.progress == b"half"
        assert record.history == before.history
        assert (record.state, record.owner, record.fence) == (
            before.state,
            before.owner,
            before.fence,
        )
        assert [line.message for line in await self.lines(store, claim.id)] == ["hello"]

    async def test_an_outcome_without_payloads_leaves_progress(self, store: Store) -> None:
        await store.enqueue(self.make.instances(1))
        peer = await self.join(store)
        claim = await peer.take_one()
        await peer.report(claim, progress=b"half")
        await peer.end(claim)
        assert (await self.read(store, claim.id)).progress == b"half"

    async def test_later_outcomes_leave_progress_in_a_page_of_many(self, store: Store) -> None:
        """A store can read many records in another way than one."""
        await store.enqueue(self.make.instances(24))
        peer = await self.join(store)
        claims = await peer.take()
        await peer.commit(*(outcome(claim, Action.REPORT, progress=b"half", started=True) for claim in claims))
        line = self.make.line("line")
        await peer.commit(*(outcome(claim, Action.REPORT, logs=(line,)) for claim in claims[:8]))
        await peer.commit(*(outcome(claim) for claim in claims[8:16]))
        await peer.commit(*(outcome(claim, Action.RETRY, delay_us=60_000_000) for claim in claims[16:]))
        for records in (
            await store.get([claim.id for claim in claims]),
            (await store.lookup(Query(limit=100))).records,
        ):
            assert [record and record.progress for record in records] == [b"half"] * 24

    async def test_the_logs_of_an_outcome_are_kept(self, store: Store) -> None:
        await store.enqueue(self.make.instances(1))
        peer = await self.join(store)
        claim = await peer.take_one()
        await peer.report(claim, logs=(self.make.line("first"),))
        await peer.end(claim, Action.RETRY, logs=(self.make.line("second"), self.make.line("third")))
        await peer.end(await peer.take_one(), logs=(self.make.line("fourth"),))
        messages = [line.message for line in await self.lines(store, claim.id)]
        assert messages == ["first", "second", "third", "fourth"]

    async def test_a_batch_answers_for_each_in_order(self, store: Store) -> None:
        await store.enqueue(self.make.instances(4))
        peer = await self.join(store)
        first, second, third, fourth = await peer.take()
        await store.cancel([third.id], request=self.make.request())
        acks = await peer.commit(
            outcome(first),
            outcome(second, Action.RETRY, delay_us=60_000_000),
            outcome(third),
            outcome(fourth, Action.REPORT),
            outcome(fourth),
            outcome(first),
        )
        assert acks == [Ack.DONE, Ack.DONE, Ack.CANCELLED, Ack.DONE, Ack.DONE, Ack.LOST]
        assert await self.counts(store) == {
            State.COMPLETED: 2,
            State.SCHEDULED: 1,
            State.CANCELLED: 1,
        }

    async def test_an_empty_commit_has_an_empty_answer(self, store: Store) -> None:
        assert await (await self.join(store)).commit() == []

    # -- turns

    async def test_a_turn_commits_then_claims(self, store: Store) -> None:
        await store.enqueue(self.make.instances(1))
        peer = await self.join(store)
        claim = await peer.take_one()
        acks, claimed = await store.turn(
            peer.incarnation,
            [outcome(claim, Action.RETRY)],
            peer.want(),
            request=self.make.request(),
        )
        assert acks == [Ack.DONE]
        assert [(again.id, again.attempts) for again in claimed.claims] == [(claim.id, 2)]

    async def test_a_turn_may_want_nothing(self, store: Store) -> None:
        await store.enqueue(self.make.instances(2))
        peer = await self.join(store)
        claim = await peer.take_one()
        acks, claimed = await store.turn(peer.incarnation, [outcome(claim)], None, request=self.make.request())
        assert acks == [Ack.DONE]
        assert isinstance(claimed, Claimed)
        assert claimed.claims == ()
        assert await self.counts(store) == {State.COMPLETED: 1, State.SCHEDULED: 1}

    async def test_a_turn_may_have_nothing_to_commit(self, store: Store) -> None:
        await store.enqueue(self.make.instances(2))
        peer = await self.join(store)
        acks, claimed = await store.turn(peer.incarnation, [], peer.want(1), request=self.make.request())
        assert acks == []
        assert len(claimed.claims) == 1
