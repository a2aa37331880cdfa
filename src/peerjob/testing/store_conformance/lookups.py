"""Lookups: every criterion, every page, each instance once."""

import itertools
from datetime import timedelta
from typing import Any, Literal

import pytest

from peerjob.model.clock import to_datetime
from peerjob.model.query import Query
from peerjob.model.record import FINAL_STATE, MAX_BATCH, Action, NewInstance, Page, Record
from peerjob.model.state import SINGLE, State
from peerjob.store.base import Store
from peerjob.testing.factories import outcome

from .suite import StoreSuite

Order = Literal["asc", "desc"]

LARGE = b"large" * 40_000


class ReadingRules(StoreSuite):
    """Rules of `get`, `lookup` and `health`."""

    async def every_state(self, store: Store, kind: str) -> dict[State, NewInstance]:
        """One instance of a kind in each lasting state."""
        batch = self.make.instances(6, kind=kind, tags=(f"of {kind}",))
        await store.enqueue(batch[:5])
        peer = await self.join(store, kinds=(kind,))
        claims = await peer.take(5)
        await store.enqueue(batch[5:])
        endings = dict(zip(FINAL_STATE, claims, strict=False))
        await peer.commit(*(outcome(claim, action) for action, claim in endings.items()))
        in_order = [FINAL_STATE[action] for action in endings]
        return dict(zip([*in_order, State.PROCESSING, State.SCHEDULED], batch, strict=True))

    async def test_get_answers_by_id(self, store: Store) -> None:
        first, second = self.make.instances(2)
        await store.enqueue([first, second])
        unknown = self.make.id()
        records = await store.get([second.id, unknown, first.id, second.id])
        assert [record and record.id for record in records] == [
            second.id,
            None,
            first.id,
            second.id,
        ]
        assert await store.get([]) == []

    async def test_large_records_come_whole_from_each_command(self, store: Store) -> None:
        """The records together exceed the size limit of a store's reply, so each command must split them."""
        peer, waiter = await self.join(store, "peer"), await self.join(store, "waiter")
        batch = self.make.instances(40, spec=LARGE)
        for new in batch:
            await store.enqueue([new])
        ids = [new.id for new in batch]
        assert await store.watch_final(waiter.incarnation, ids) == [State.SCHEDULED] * 40
        while claims := await peer.take(10):
            for claim in claims:
                assert claim.spec == LARGE
                await peer.end(claim, result=claim.id.encode() * 2_000)
        records = await store.get(ids)
        assert [record and (record.spec, record.result) for record in records] == [
            (LARGE, id.encode() * 2_000) for id in ids
        ]
        answers = await store.watch_final(waiter.incarnation, [*ids, self.make.id()])
        assert answers.pop() is None
        assert [answer.state if isinstance(answer, Record) else answer for answer in answers] == [State.COMPLETED] * 40
        assert answers[0] == records[0]
        assert await self.found(store, Query(limit=40)) == ids

    async def test_an_empty_store_has_one_empty_page(self, store: Store) -> None:
        assert await store.lookup(Query()) == Page((), None)
        assert await store.lookup(Query(kind="work", state="Final", tag="t")) == Page((), None)
        assert (await store.health()).counts == {}

    async def test_a_lookup_gives_whole_records(self, store: Store) -> None:
        new = self.make.instance(tags=("t",), key="k")
        await store.enqueue([new])
        peer = await self.join(store)
        await peer.end(await peer.take_one(), result=b"r")
        page = await self.first_page(store)
        assert [*page.records] == await store.get([new.id])

    async def test_instances_are_found_by_every_state(self, store: Store) -> None:
        mail, film = await self.every_state(store, "mail"), await self.every_state(store, "film")
        composites = [State.ACTIVE, State.FINAL, State.ERROR, State.ALL, State.ERROR | State.SCHEDULED]
        for wanted in (*SINGLE, *composites):
            for kind, instances in (("mail", mail), ("film", film)):
                ids = sorted(new.id for state, new in instances.items() if state & wanted)
                assert await self.found(store, Query(state=wanted, kind=kind)) == ids
                assert await self.found(store, Query(state=wanted, tag=f"of {kind}")) == ids
            both = [*mail.items(), *film.items()]
            ids = sorted(new.id for state, new in both if state & wanted)
            assert await self.found(store, Query(state=wanted)) == ids
            assert await self.found(store, Query(state=wanted, limit=1, order="desc")) == ids[::-1]

    async def test_instances_are_found_by_kind(self, store: Store) -> None:
        kinds = ("a", "a:b", "ab", "A", "ä", "a*", "{a}", "a\nb")
        for kind in kinds:
            await store.enqueue(self.make.instances(2, kind=kind))
        for kind in kinds:
            page = await store.lookup(Query(kind=kind))
            assert [record.kind for record in page.records] == [kind, kind]
        assert await self.found(store, Query(kind="b")) == []
        assert len(await self.found(store, Query())) == 2 * len(kinds)

    async def test_instances_are_found_by_tag(self, store: Store) -> None:
        both = self.make.instance(tags=("red", "round"))
        red = self.make.instance(tags=("red",), kind="other")
        strange = self.make.instance(tags=("re", "red:round", "{red}", "*", "röd\n"))
        await store.enqueue([both, red, strange, self.make.instance()])
        assert await self.found(store, Query(tag="red")) == [both.id, red.id]
        assert await self.found(store, Query(tag="red", kind="other")) == [red.id]
        assert await self.found(store, Query(tag="round")) == [both.id]
        assert await self.found(store, Query(tag="missing")) == []
        for tag in strange.tags:
            assert await self.found(store, Query(tag=tag)) == [strange.id]

    async def test_an_instance_is_found_by_its_id(self, store: Store) -> None:
        first, second = self.make.instances(2, tags=("t",))
        await store.enqueue([first, second])
        assert await self.found(store, Query(uuid=second.id)) == [second.id]
        assert await self.found(store, Query(instance=first.id)) == [first.id]
        assert await self.found(store, Query(uuid=self.make.id())) == []
        matching = Query(uuid=first.id, kind="work", state=State.ACTIVE, tag="t")
        assert await self.found(store, matching) == [first.id]
        assert await self.found(store, Query(uuid=first.id, kind="other")) == []
        assert await self.found(store, Query(uuid=first.id, state=State.FINAL)) == []
        assert await self.found(store, Query(uuid=first.id, tag="other")) == []

    @pytest.mark.parametrize("criteria", [{}, {"kind": "work"}, {"tag": "t"}, {"state": "Active"}])
    async def test_instances_are_found_by_their_time(self, store: Store, criteria: dict[str, str]) -> None:
        noon = self.clock.time_us() // 1000 * 1000 - 86_400_000_000
        hour, tick = 3_600_000_000, 1000
        batch = [
            self.make.instance(id=self.make.id(noon + offset), tags=("t",))
            for offset in (-hour, -tick, 0, 0, tick, hour)
        ]
        await store.enqueue(batch[::-1])
        ids = [new.id for new in batch]

        async def found(**bounds: int) -> list[str]:
            times = {name: to_datetime(noon + offset) for name, offset in bounds.items()}
            return await self.found(store, Query(**criteria, **times))  # type: ignore[arg-type]

        assert await found() == sorted(ids)
        assert await found(after=0) == sorted(ids[2:])
        assert await found(before=0) == ids[:2]
        assert await found(after=tick) == ids[4:]
        assert await found(before=tick) == sorted(ids[:4])
        assert await found(after=-tick, before=tick) == sorted(ids[1:4])
        assert await found(after=0, before=0) == []
        assert await found(before=-hour) == []
        assert await found(after=hour + tick) == []
        day = to_datetime(noon) - timedelta(days=36_500)
        assert await self.found(store, Query(after=day)) == sorted(ids)

    async def test_each_pair_of_criteria_joins(self, store: Store) -> None:
        hour, now = 3_600_000_000, self.clock.time_us() // 1000 * 1000
        times = [now - number * hour for number in range(8, 0, -1)]
        batch = [
            self.make.instance(
                id=self.make.id(at), kind=("mail", "film")[number % 2], tags=(("red", "blue")[number // 2 % 2],)
            )
            for number, at in enumerate(times)
        ]
        await store.enqueue(batch)
        await store.cancel([new.id for new in batch[4:]], request=self.make.request())
        matching: list[tuple[str, Any, set[str]]] = [
            ("kind", "mail", {new.id for new in batch if new.kind == "mail"}),
            ("tag", "red", {new.id for new in batch if "red" in new.tags}),
            ("state", State.SCHEDULED, {new.id for new in batch[:4]}),
            ("state", State.FINAL, {new.id for new in batch[4:]}),
            ("after", to_datetime(times[2]), {new.id for new in batch[2:]}),
            ("before", to_datetime(times[6]), {new.id for new in batch[:6]}),
            ("uuid", batch[4].id, {batch[4].id}),
        ]
        for first, second in itertools.combinations(matching, 2):
            if first[0] != second[0]:
                expected = sorted(first[2] & second[2])
                criteria = {first[0]: first[1], second[0]: second[1]}
                assert await self.found(store, Query(**criteria, limit=2)) == expected, criteria
                assert await self.found(store, Query(**criteria, order="desc")) == expected[::-1], criteria

    @pytest.mark.parametrize("order", ["asc", "desc"])
    @pytest.mark.parametrize("limit", [1, 2, 7, 40])
    async def test_pages_cover_each_instance_once(self, store: Store, order: Order, limit: int) -> None:
        batch = self.make.instances(40, tags=("t",))
        await store.enqueue(batch)
        ids = [new.id for new in batch]
        wanted = ids if order == "asc" else ids[::-1]
        for query in (Query(), Query(kind="work"), Query(tag="t"), Query(state="Scheduled")):
            paged = Query(kind=query.kind, tag=query.tag, state=query.state, order=order, limit=limit)
            assert await self.found(store, paged) == wanted

    @pytest.mark.parametrize("order", ["asc", "desc"])
    async def test_pages_hold_while_others_come_and_go(self, store: Store, order: Order) -> None:
        mixed = [self.make.instance(priority=number % 2) for number in range(30)]
        staying = mixed[1::2]
        await store.enqueue(mixed)
        peer = await self.join(store)
        seen: list[str] = []
        query = Query(state=State.SCHEDULED, limit=4, order=order)
        while True:
            page = await store.lookup(query)
            seen += [record.id for record in page.records]
            if page.cursor is None:
                break
            query = query.at(page.cursor)
            if len(seen) < 20:
                await store.enqueue(self.make.instances(2))
                await peer.end(await peer.take_one())
        assert len(seen) == len(set(seen))
        assert {new.id for new in staying} <= set(seen)

    async def test_a_cursor_outlives_its_instance(self, store: Store) -> None:
        batch = self.make.instances(6)
        await store.enqueue(batch)
        page = await store.lookup(Query(state=State.SCHEDULED, limit=3))
        assert page.cursor is not None
        await store.cancel([record.id for record in page.records], request=self.make.request())
        rest = await self.found(store, Query(state=State.SCHEDULED, limit=3, cursor=page.cursor))
        assert rest == [new.id for new in batch[3:]]

    # -- counts

    async def test_counts_follow_every_transition(self, store: Store) -> None:
        peer = await self.join(store, kinds=("a", "b"))
        await store.enqueue(self.make.instances(5, kind="a"))
        await store.enqueue(self.make.instances(2, kind="b", delay_us=60_000_000))
        assert await self.counts(store, "a") == {State.SCHEDULED: 5}
        assert await self.counts(store, "b") == {State.SCHEDULED: 2}
        assert (await store.health()).delayed == 2

        claims = await peer.take(4)
        assert await self.counts(store, "a") == {State.SCHEDULED: 1, State.PROCESSING: 4}
        await peer.commit(
            outcome(claims[0]),
            outcome(claims[1], Action.TERMINATE),
            outcome(claims[2], Action.RETRY, delay_us=60_000_000),
        )
        await store.cancel([claims[3].id], request=self.make.request())
        assert await self.counts(store, "a") == {
            State.SCHEDULED: 2,
            State.COMPLETED: 1,
            State.TERMINATED: 1,
            State.CANCELLED: 1,
        }
        assert (await store.health()).delayed == 3

    async def test_what_is_due_is_told_by_kind(self, store: Store) -> None:
        peer = await self.join(store, kinds=("a", "b"))
        assert await store.due() == {}
        await store.enqueue(self.make.instances(5, kind="a"))
        await store.enqueue(self.make.instances(3, kind="a:b"))
        await store.enqueue(self.make.instances(2, kind="b", delay_us=60_000_000))
        assert await store.due() == {"a": 5, "a:b": 3}
        assert await store.due(["a:b", "b", "unknown"]) == {"a:b": 3}

        first, second, *_ = await peer.take(4)
        assert await store.due(["a"]) == {"a": 1}
        assert await store.due(["a", *(f"none-{number}" for number in range(MAX_BATCH))]) == {"a": 1}
        await peer.commit(outcome(first), outcome(second, Action.RETRY))
        assert await store.due(["a"]) == {"a": 2}

    async def test_due_instances_count_even_if_no_node_claims(self, store: Store) -> None:
        soon = self.make.instances(3, kind="soon", delay_us=3_000_000)
        await store.enqueue([*soon, *self.make.instances(2, kind="late", delay_us=600_000_000)])
        assert await store.due() == {}
        await self.pass_time(3.1)
        assert await store.due() == {"soon": 3}

        await store.cancel([soon[0].id], request=self.make.request())
        # the claim moves the due instances from the delayed ones to their queue
        await (await self.join(store, kinds=("late",))).take(1)
        assert await store.due() == {"soon": 2}

    async def test_health_is_calm(self, store: Store) -> None:
        await self.join(store)
        await store.enqueue(self.make.instances(3))
        health = await store.health()
        assert (health.nodes, health.undecodable, health.delayed) == (1, 0, 0)

    async def test_a_store_tells_what_it_promises(self, store: Store) -> None:
        promised = store.capabilities
        assert promised.engine
        assert promised.durability in ("fsync", "everysec", "replicated", "os", "none")
        assert promised.order in ("strict", "windowed")
        assert promised.clock in ("server", "nodes")
        assert promised.max_payload >= 1 << 20
        assert "://" in store.url
