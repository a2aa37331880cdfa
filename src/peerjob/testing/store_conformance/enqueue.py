"""New instances: each is added once, completely, and one at a time per key."""

from collections.abc import Sequence

import msgspec
import pytest

from peerjob.model.query import Query
from peerjob.model.record import MAX_BATCH, MAX_PRIORITY, MIN_PRIORITY, Action, Enqueued
from peerjob.model.state import State
from peerjob.store.base import Store
from peerjob.testing.factories import outcome

from .suite import StoreSuite, states

ENDINGS = [Action.COMPLETE, Action.TERMINATE, Action.TIME_OUT, Action.CANCEL]


def again(answers: Sequence[Enqueued]) -> list[Enqueued]:
    """What a store answers when the same instances are enqueued again."""
    return [msgspec.structs.replace(answer, repeated=answer.is_new) for answer in answers]


class EnqueueRules(StoreSuite):
    """Rules of `enqueue`."""

    async def test_an_enqueued_instance_is_scheduled(self, store: Store) -> None:
        before = (await self.join(store)).joined_us
        new = self.make.instance(kind="mail", spec=b"\x00\xff args", priority=-3, key="k", tags=("a", "b:ü"))
        assert await store.enqueue([new], node="origin") == [Enqueued(new.id, True)]
        after = (await self.join(store)).joined_us

        record = await self.read(store, new.id)
        assert (record.id, record.kind, record.spec) == (new.id, "mail", b"\x00\xff args")
        assert (record.priority, record.key) == (-3, "k")
        assert sorted(record.tags) == ["a", "b:ü"]
        assert record.state == State.SCHEDULED
        assert states(record) == [State.CREATED, State.SCHEDULED]
        assert record.history[0].at_us == record.history[1].at_us
        assert {entry.node for entry in record.history} == {"origin"}
        assert (record.attempts, record.crashes, record.losses, record.fence) == (0, 0, 0, 0)
        assert record.owner == ""
        assert (record.result, record.error, record.progress) == (None, None, None)
        assert before <= record.due_us <= after

    async def test_an_instance_brings_its_counts_from_another_store(self, store: Store) -> None:
        tried, plain = (
            self.make.instance(attempts=3, losses=1, retention_us=7_000_000, max_crashes=9),
            self.make.instance(),
        )
        lone = self.make.instance(kind="lone", attempts=2)
        await store.enqueue([tried, plain])
        await store.enqueue([lone])
        record = await self.read(store, tried.id)
        assert (record.attempts, record.crashes, record.losses) == (3, 0, 1)
        assert (record.retention_us, record.max_crashes) == (7_000_000, 9)
        other = await self.read(store, plain.id)
        assert (other.attempts, other.losses, other.retention_us, other.max_crashes) == (0, 0, None, 3)
        peer = await self.join(store, kinds=("work", "lone"))
        claims = {claim.id: claim for claim in await peer.take()}
        assert [claims[new.id].attempts for new in (tried, plain, lone)] == [4, 1, 3]

    @pytest.mark.parametrize("together", [True, False])
    async def test_a_suspect_of_another_store_is_claimed_alone(self, store: Store, together: bool) -> None:
        suspect, plain = self.make.instance(crashes=1, losses=1), self.make.instance()
        for batch in [[suspect, plain]] if together else [[suspect], [plain]]:
            await store.enqueue(batch)
        peer = await self.join(store)
        first, second = (await peer.claim(peer.want())).claims, (await peer.claim(peer.want())).claims
        assert [[claim.id for claim in claims] for claims in (first, second)] == [[suspect.id], [plain.id]]
        assert first[0].suspect

    async def test_an_empty_batch_has_an_empty_answer(self, store: Store) -> None:
        assert await store.enqueue([]) == []

    async def test_the_same_call_again_gives_the_first_answer(self, store: Store) -> None:
        batch = [
            self.make.instance(key="k"),
            self.make.instance(key="k"),
            self.make.instance(delay_us=60_000_000),
            self.make.instance(),
        ]
        first = await store.enqueue(batch)
        before = await self.everything(store, batch[0].id, batch[2].id, batch[3].id)

        assert await store.enqueue(batch) == again(first)
        assert await self.everything(store, batch[0].id, batch[2].id, batch[3].id) == before
        assert await self.counts(store) == {State.SCHEDULED: 3}
        peer = await self.join(store)
        assert [claim.id for claim in await peer.take()] == [batch[0].id, batch[3].id]

    async def test_sending_again_does_not_bring_back_what_is_under_way_or_done(self, store: Store) -> None:
        peer = await self.join(store)
        running, done = self.make.instances(2)
        first = await store.enqueue([running, done])
        claims = await peer.take()
        await peer.end(claims[1])
        before = await self.everything(store, running.id, done.id)

        assert await store.enqueue([running, done]) == again(first)
        assert await self.everything(store, running.id, done.id) == before
        assert await peer.take() == ()

    async def test_only_what_an_earlier_call_added_is_repeated(self, store: Store) -> None:
        old, new = self.make.instances(2)
        assert await store.enqueue([old]) == [Enqueued(old.id, True)]
        assert await store.enqueue([old]) == [Enqueued(old.id, True, repeated=True)]
        other = msgspec.structs.replace(old, spec=b"other arguments")
        assert await store.enqueue([other, new, new]) == [
            Enqueued(old.id, True, repeated=True),
            Enqueued(new.id, True),
            Enqueued(new.id, True, repeated=True),
        ]
        assert (await self.read(store, old.id)).spec == old.spec

    @pytest.mark.parametrize("limit_key", ["", "k"])
    async def test_an_id_that_comes_twice_in_a_new_batch_is_one_instance(self, store: Store, limit_key: str) -> None:
        new, other = self.make.instances(2, limit_key=limit_key, key_concurrency=2)
        assert await store.enqueue([new, other, new]) == [
            Enqueued(new.id, True),
            Enqueued(other.id, True),
            Enqueued(new.id, True, repeated=True),
        ]
        assert await self.counts(store) == {State.SCHEDULED: 2}
        peer = await self.join(store)
        claims = await peer.take()
        assert [claim.id for claim in claims] == [new.id, other.id]
        await peer.commit(*map(outcome, claims))
        assert await peer.take() == ()
        assert (await store.key_limits("work")).views == ()

    async def test_an_id_alone_decides_what_is_repeated(self, store: Store) -> None:
        """Not its kind nor its content: the first instance with an id stays as it is."""
        first = self.make.instance(tags=("red",), key="k")
        await store.enqueue([first])
        before = await self.read(store, first.id)
        plain = self.make.instance(id=first.id, kind="other", spec=b"other")
        for other in (plain, self.make.instance(id=first.id, priority=-9, tags=("blue",), key="l", delay_us=10**9)):
            assert await store.enqueue([other]) == [Enqueued(first.id, True, repeated=True)]
            assert await store.enqueue([self.make.instance(kind="more"), other]) == [
                Enqueued((await self.found(store, Query(kind="more")))[-1], True),
                Enqueued(first.id, True, repeated=True),
            ]
        assert await self.read(store, first.id) == before
        assert await self.found(store, Query(tag="red")) == [first.id]
        assert await self.found(store, Query(tag="blue")) == await self.found(store, Query(kind="other")) == []
        assert await self.counts(store) == {State.SCHEDULED: 1}

    async def test_a_taken_key_answers_with_its_holder(self, store: Store) -> None:
        first, second = self.make.instances(2, key="only one")
        await store.enqueue([first])
        assert await store.enqueue([second]) == [Enqueued(first.id, False)]
        assert await store.get([second.id]) == [None]
        assert await self.counts(store) == {State.SCHEDULED: 1}

    async def test_within_a_batch_the_first_of_a_key_wins(self, store: Store) -> None:
        first, second, third = self.make.instances(3, key="k")
        other = self.make.instance(key="l")
        assert await store.enqueue([first, second, other, third]) == [
            Enqueued(first.id, True),
            Enqueued(first.id, False),
            Enqueued(other.id, True),
            Enqueued(first.id, False),
        ]

    async def test_a_key_belongs_to_a_kind(self, store: Store) -> None:
        pairs = [
            ("a", "b:c"), ("a:b", "c"), ("a", "b"), ("ab", ""), ("a", "{b}"), ("A", "b"), ("a", "b\n"),
            ("a/b", "c"), ("a", "b/c"), ("ü", "ü"), ("ü", "u\u0308"), ("*", "?"), ("a b", "c"), ("a", " b c"),
        ]  # fmt: skip
        batch = [self.make.instance(kind=kind, key=key) for kind, key in pairs]
        assert await store.enqueue(batch) == [Enqueued(new.id, True) for new in batch]

    @pytest.mark.parametrize("ending", ENDINGS)
    async def test_an_end_frees_the_key(self, store: Store, ending: Action) -> None:
        peer = await self.join(store)
        first, second = self.make.instances(2, key="k")
        await store.enqueue([first])
        await peer.end(await peer.take_one(), ending)
        assert await store.enqueue([second]) == [Enqueued(second.id, True)]

    async def test_cancelling_a_queued_instance_frees_the_key(self, store: Store) -> None:
        for options in ({}, {"delay_us": 60_000_000}):
            first = self.make.instance(key="k", delay_us=options.get("delay_us"))
            (answer,) = await store.enqueue([first])
            assert answer.is_new
            await store.cancel([first.id], request=self.make.request())

    @pytest.mark.parametrize("action", [Action.RETRY, Action.SNOOZE, Action.HAND_BACK, Action.REPORT])
    async def test_an_instance_that_goes_on_keeps_its_key(self, store: Store, action: Action) -> None:
        peer = await self.join(store)
        first, second = self.make.instances(2, key="k")
        await store.enqueue([first])
        await peer.end(await peer.take_one(), action)
        assert await store.enqueue([second]) == [Enqueued(first.id, False)]

    async def test_the_key_of_a_successor_outlives_its_predecessor(self, store: Store) -> None:
        peer = await self.join(store)
        first, second, third = self.make.instances(3, key="k")
        await store.enqueue([first])
        claim = await peer.take_one()
        request = self.make.request()
        await peer.commit(outcome(claim), request=request)
        await store.enqueue([second])
        await peer.commit(outcome(claim), request=request)
        await peer.end(claim)
        await store.cancel([first.id], request=self.make.request())
        assert await store.enqueue([third]) == [Enqueued(second.id, False)]

    async def test_priorities_reach_to_the_ends_of_their_range(self, store: Store) -> None:
        ends = [self.make.instance(priority=edge) for edge in (MAX_PRIORITY, 0, MIN_PRIORITY)]
        await store.enqueue(ends)
        peer = await self.join(store)
        assert [claim.priority for claim in await peer.take()] == [MIN_PRIORITY, 0, MAX_PRIORITY]

    @pytest.mark.parametrize("size", [0, 1, 70_000, 1 << 20])
    async def test_a_payload_comes_back_as_it_was(self, store: Store, size: int) -> None:
        payload = bytes(range(256)) * (size // 256) + b"\x00\xff\xfe"[: size % 256]
        new = self.make.instance(spec=payload)
        await store.enqueue([new])
        assert (await self.read(store, new.id)).spec == payload
        peer = await self.join(store)
        claim = await peer.take_one()
        assert claim.spec == payload
        await peer.end(claim, result=payload, progress=payload[:100])
        record = await self.read(store, new.id)
        assert (record.result, record.progress) == (payload, payload[:100])

    async def test_a_full_batch_is_taken(self, store: Store) -> None:
        batch = self.make.instances(MAX_BATCH)
        assert await store.enqueue(batch) == [Enqueued(new.id, True) for new in batch]
        peer = await self.join(store)
        claims = await peer.take(MAX_BATCH)
        assert [claim.id for claim in claims] == [new.id for new in batch]
        assert set(await peer.commit(*map(outcome, claims))) == {"done"}
        assert await self.counts(store) == {State.COMPLETED: MAX_BATCH}

    async def test_more_than_a_full_batch_is_refused(self, store: Store) -> None:
        peer = await self.join(store)
        batch = self.make.instances(MAX_BATCH + 1)
        too_many = [new.id for new in batch]
        with pytest.raises(ValueError, match=str(MAX_BATCH)):
            await store.enqueue(batch)
        assert await self.counts(store) == {}

        await store.enqueue(batch[:1])
        claim = await peer.take_one()
        with pytest.raises(ValueError, match=str(MAX_BATCH)):
            await peer.commit(*[outcome(claim)] * (MAX_BATCH + 1))
        with pytest.raises(ValueError, match=str(MAX_BATCH)):
            await store.cancel(too_many, request=self.make.request())
        with pytest.raises(ValueError, match=str(MAX_BATCH)):
            await store.get(too_many)
        with pytest.raises(ValueError, match=str(MAX_BATCH)):
            await store.watch_final(peer.incarnation, too_many)
        with pytest.raises(ValueError, match=str(MAX_BATCH)):
            await peer.claim(peer.want(MAX_BATCH + 1))
        assert await self.counts(store) == {State.PROCESSING: 1}
