"""Crashes and losses: which instances are charged when a node dies, and the end of a poison job."""

import pytest

from peerjob.model.record import SUSPECT_AFTER, Ack, Claim, Enqueued, NewInstance, Reaped, StoreLimits
from peerjob.model.state import State
from peerjob.store.base import Store
from peerjob.testing.factories import Peer

from .suite import StoreSuite, ids_of, states


class SuspectRules(StoreSuite):
    """Rules of `reap`, `claim` and `join` for instances of a dead node."""

    async def lose(self, store: Store, reaper: Peer, *, started: bool) -> list[Reaped]:
        """Let a peer claim all queued instances and die, before or after it reported the starts."""
        mortal = await self.join_briefly(store)
        for claim in await mortal.take():
            if started:
                await mortal.report(claim, started=True)
        return await self.reap_all(reaper)

    async def make_suspects(self, store: Store, reaper: Peer, batch: list[NewInstance]) -> None:
        """Enqueue instances and lose them until they are suspects."""
        await store.enqueue(batch)
        for _ in range(SUSPECT_AFTER):
            assert len(await self.lose(store, reaper, started=False)) == len(batch)

    async def charges(self, store: Store, id: str) -> tuple[int, int]:
        """Crashes and losses of an instance."""
        record = await self.read(store, id)
        return record.crashes, record.losses

    async def test_suspects_count_as_due(self, store: Store) -> None:
        await store.enqueue([self.make.instance(losses=SUSPECT_AFTER), *self.make.instances(2)])
        assert await store.due() == await store.due(["work"]) == {"work": 3}
        peer = await self.join(store)
        assert len((await peer.claim(peer.want(suspects=False))).claims) == 2
        assert await store.due() == await store.due(["work"]) == {"work": 1}

    # -- charges of a crash or a loss

    async def test_a_started_body_counts_as_a_crash_others_as_losses(self, store: Store) -> None:
        started, waiting = self.make.instances(2)
        await store.enqueue([started, waiting])
        mortal, reaper = await self.join_briefly(store), await self.join(store)
        claim, _ = await mortal.take()
        await mortal.report(claim, started=True)
        await self.reap(reaper)
        assert await self.charges(store, started.id) == (1, 0)
        assert await self.charges(store, waiting.id) == (0, 1)
        assert (await self.read(store, started.id)).attempts == 0

    async def test_a_start_counts_for_its_own_claim_only(self, store: Store) -> None:
        (new,) = self.make.instances(1)
        await store.enqueue([new])
        peer, reaper = await self.join(store), await self.join(store)
        claim = await peer.take_one()
        await peer.report(claim, started=True)
        await store.leave(peer.incarnation)
        await self.lose(store, reaper, started=False)
        assert await self.charges(store, new.id) == (0, 1)

    async def test_a_later_report_does_not_take_the_start_back(self, store: Store) -> None:
        first, second, third = self.make.instances(3)
        await store.enqueue([first, second, third])
        mortal, reaper = await self.join_briefly(store), await self.join(store)
        claims = await mortal.take()
        for claim in claims:
            await mortal.report(claim, started=True)
        await mortal.report(claims[0], progress=b"half")
        await mortal.report(claims[1], logs=(self.make.line("line"),))
        await mortal.report(claims[2])
        await self.reap(reaper)
        assert [await self.charges(store, started.id) for started in (first, second, third)] == [(1, 0)] * 3

    @pytest.mark.parametrize("limit", [1, 100])
    async def test_only_the_suspect_is_charged(self, store: Store, limit: int) -> None:
        reaper = await self.join(store)
        (suspect,) = self.make.instances(1, max_crashes=5)
        await self.make_suspects(store, reaper, [suspect])
        neighbours = self.make.instances(3)
        await store.enqueue(neighbours)

        mortal = await self.join_briefly(store)
        held = (await mortal.claim(mortal.want(suspects=False))).claims
        assert ids_of(held) == [new.id for new in neighbours]
        alone = await mortal.take()
        assert ids_of(alone) == [suspect.id]
        await mortal.report(alone[0], started=True)
        await mortal.report(held[0], started=True)

        reaped = await self.reap(reaper, limit)
        while more := await store.reap(limit, reaper=reaper.incarnation):
            reaped += more
        assert len(reaped) == 4
        assert await self.charges(store, suspect.id) == (1, SUSPECT_AFTER)
        for new in neighbours:
            assert await self.charges(store, new.id) == (0, 0)

    async def test_a_suspect_that_did_not_start_shields_no_instance(self, store: Store) -> None:
        reaper = await self.join(store)
        (suspect,) = self.make.instances(1)
        await self.make_suspects(store, reaper, [suspect])
        (neighbour,) = self.make.instances(1)
        await store.enqueue([neighbour])
        mortal = await self.join_briefly(store)
        (held,) = (await mortal.claim(mortal.want(suspects=False))).claims
        await mortal.take_one()
        await mortal.report(held, started=True)
        await self.reap(reaper)
        assert await self.charges(store, neighbour.id) == (1, 0)
        assert await self.charges(store, suspect.id) == (0, SUSPECT_AFTER + 1)

    async def test_a_cancelled_suspect_whose_body_runs_is_charged_alone(self, store: Store) -> None:
        reaper = await self.join(store)
        (suspect,) = self.make.instances(1, max_crashes=5)
        await self.make_suspects(store, reaper, [suspect])
        (neighbour,) = self.make.instances(1)
        await store.enqueue([neighbour])
        mortal = await self.join_briefly(store)
        (held,) = (await mortal.claim(mortal.want(suspects=False))).claims
        for claim in (held, await mortal.take_one()):
            await mortal.report(claim, started=True)
        await store.cancel([suspect.id], request=self.make.request())
        await self.reap(reaper)
        assert await self.charges(store, neighbour.id) == (0, 0)

    # -- how a suspect is claimed

    async def test_a_suspect_is_taken_alone(self, store: Store) -> None:
        reaper = await self.join(store)
        suspects = self.make.instances(2)
        await self.make_suspects(store, reaper, suspects)
        healthy = self.make.instances(2)
        await store.enqueue(healthy)

        first, second, rest = await reaper.take(), await reaper.take(), await reaper.take()
        assert ids_of(first) == [suspects[0].id]
        assert ids_of(second) == [suspects[1].id]
        assert ids_of(rest) == [new.id for new in healthy]
        assert (first[0].suspect, rest[0].suspect) == (True, False)
        assert (first[0].crashes, first[0].losses, first[0].attempts) == (0, SUSPECT_AFTER, 1)

    async def test_a_suspect_waits_for_those_before_it(self, store: Store) -> None:
        reaper = await self.join(store)
        (suspect,) = self.make.instances(1)
        await self.make_suspects(store, reaper, [suspect])
        urgent, patient = self.make.instance(priority=0), self.make.instance(priority=9)
        await store.enqueue([patient, urgent])

        got: list[tuple[Claim, ...]] = []
        while claims := await reaper.take():
            got.append(claims)
        assert got[0][0].id == urgent.id
        assert [ids_of(claims) for claims in got if suspect.id in ids_of(claims)] == [[suspect.id]]
        assert sum(len(claims) for claims in got) == 3

    async def test_one_loss_is_no_suspicion(self, store: Store) -> None:
        reaper = await self.join(store)
        batch = self.make.instances(3)
        await store.enqueue(batch)
        for _ in range(SUSPECT_AFTER - 1):
            await self.lose(store, reaper, started=False)
        assert len(await reaper.take()) == 3

    async def test_suspects_hide_no_other_instance(self, store: Store) -> None:
        reaper = await self.join(store)
        suspects = self.make.instances(230, priority=0)
        await self.make_suspects(store, reaper, suspects)
        healthy = self.make.instances(3, priority=9)
        await store.enqueue(healthy)
        for new in healthy:
            claimed = await reaper.claim(reaper.want(1, suspects=False))
            assert ids_of(claimed.claims) == [new.id]
        assert (await reaper.claim(reaper.want(suspects=False))).claims == ()
        assert len(await reaper.take()) == 1

    async def test_suspects_keep_their_order(self, store: Store) -> None:
        reaper = await self.join(store)
        suspects = [self.make.instance(priority=priority) for priority in (3, 1, 2)]
        await self.make_suspects(store, reaper, suspects)
        got = [(await reaper.take())[0].priority for _ in suspects]
        assert got == [1, 2, 3]

    # -- instances that crash too often

    async def test_too_many_crashes_park_it(self, store: Store) -> None:
        (poison,) = self.make.instances(1, key="k", max_crashes=1)
        await store.enqueue([poison])
        reaper = await self.join(store)
        (first,) = await self.lose(store, reaper, started=True)
        assert first.state == State.SCHEDULED
        (second,) = await self.lose(store, reaper, started=True)
        assert (second.id, second.state, second.node) == (poison.id, State.TERMINATED, "mortal")

        record = await self.read(store, poison.id)
        assert (record.state, record.owner, record.crashes) == (State.TERMINATED, "", 2)
        assert "poison" in record.history[-1].note
        assert await reaper.take() == ()
        assert await self.counts(store) == {State.TERMINATED: 1}
        (successor,) = self.make.instances(1, key="k")
        assert await store.enqueue([successor]) == [Enqueued(successor.id, True)]

    async def test_what_a_reap_parks_counts_among_the_final_ones(self, store: Store) -> None:
        few = await self.open(StoreLimits(max_final_per_kind=2))
        reaper = await self.join(few)
        batch = self.make.instances(2)
        for new in batch:
            await few.enqueue([new])
            await reaper.end(await reaper.take_one())
        poison = self.make.instance(max_crashes=0)
        await few.enqueue([poison])
        await self.lose(few, reaper, started=True)
        assert (await self.read(few, poison.id)).state == State.TERMINATED
        assert (await few.get([batch[0].id])) == [None]

    async def test_losses_park_nothing(self, store: Store) -> None:
        (new,) = self.make.instances(1, max_crashes=0)
        await store.enqueue([new])
        reaper = await self.join(store)
        for _ in range(SUSPECT_AFTER + 2):
            (reaped,) = await self.lose(store, reaper, started=False)
            assert reaped.state == State.SCHEDULED
        assert await self.charges(store, new.id) == (0, SUSPECT_AFTER + 2)

    async def test_a_suspect_can_complete(self, store: Store) -> None:
        reaper = await self.join(store)
        (suspect,) = self.make.instances(1)
        await self.make_suspects(store, reaper, [suspect])
        claim = await reaper.take_one()
        assert await reaper.end(claim) is Ack.DONE
        record = await self.read(store, suspect.id)
        assert states(record)[2:] == [
            *[State.PROCESSING, State.SCHEDULED] * SUSPECT_AFTER,
            State.PROCESSING,
            State.COMPLETED,
        ]

    # -- an expired lease without a crash

    async def test_a_return_turns_crashes_into_losses(self, store: Store) -> None:
        started, waiting = self.make.instances(2)
        await store.enqueue([started, waiting])
        reaper = await self.join(store)
        lapsed = await self.join_briefly(store, "lapsed")
        claims = await lapsed.take()
        await lapsed.report(claims[0], started=True)
        await self.reap(reaper)
        assert await self.charges(store, started.id) == (1, 0)

        await self.join(store, "lapsed", previous=lapsed.incarnation)
        assert await self.charges(store, started.id) == (0, 1)
        assert await self.charges(store, waiting.id) == (0, 1)

    async def test_a_return_turns_later_crashes_into_losses_too(self, store: Store) -> None:
        """The reap takes back one claim before the return, and the others after it."""
        batch = self.make.instances(3)
        await store.enqueue(batch)
        reaper = await self.join(store)
        lapsed = await self.join_briefly(store, "lapsed")
        for claim in await lapsed.take():
            await lapsed.report(claim, started=True)
        assert len(await self.reap(reaper, 1)) == 1
        await self.join(store, "lapsed", previous=lapsed.incarnation)
        assert len(await self.reap_all(reaper)) == 2
        assert [await self.charges(store, new.id) for new in batch] == [(0, 1)] * 3

    async def test_a_return_changes_no_final_instance(self, store: Store) -> None:
        await store.enqueue(self.make.instances(1))
        reaper = await self.join(store)
        lapsed = await self.join_briefly(store, "lapsed")
        claim = await lapsed.take_one()
        await lapsed.report(claim, started=True)
        await self.reap(reaper)
        await reaper.end(await reaper.take_one())
        before = await self.read(store, claim.id)

        await self.join(store, "lapsed", previous=lapsed.incarnation)
        assert await self.read(store, claim.id) == before
        assert await self.charges(store, claim.id) == (1, 0)

    async def test_a_previous_life_that_was_not_reaped_changes_nothing(self, store: Store) -> None:
        await store.enqueue(self.make.instances(1))
        peer = await self.join(store)
        claim = await peer.take_one()
        await peer.report(claim, started=True)
        await self.join(store, previous=self.make.id())
        assert await self.charges(store, claim.id) == (0, 0)
