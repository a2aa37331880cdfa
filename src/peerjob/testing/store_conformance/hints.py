"""HINTS: the right number of idle nodes is woken, and no idle node misses work."""

import asyncio
import random  # noqa: TID251  # seeded, so that a failed walk can be repeated

import pytest

from peerjob.model.record import Action, Hint, Record
from peerjob.model.state import State
from peerjob.store.base import Store
from peerjob.testing.factories import Peer, outcome

from .suite import PLAIN_ACTIONS, StoreSuite


class HintRules(StoreSuite):
    """Rules of wake-ups and watches."""

    async def idle(self, store: Store, name: str = "idle", kinds: tuple[str, ...] = ("work",)) -> Peer:
        """A peer that found nothing to claim."""
        peer = await self.join(store, name, kinds)
        assert (await peer.claim()).claims == ()
        return peer

    # -- which nodes are woken

    async def test_one_instance_wakes_one_able_sleeper(self, store: Store) -> None:
        able = [await self.idle(store, f"able {number}") for number in range(3)]
        unable = [await self.idle(store, f"unable {number}", ("other",)) for number in range(2)]
        await store.enqueue(self.make.instances(1))
        woken = await self.woken([*able, *unable], 1)
        assert len(woken) == 1
        assert woken[0].startswith("able")

        await store.enqueue(self.make.instances(1))
        again = await self.woken([*able, *unable], 1)
        assert len(again) == 1
        assert again != woken

    async def test_as_many_are_woken_as_there_is_work(self, store: Store) -> None:
        peers = [await self.idle(store, str(number)) for number in range(4)]
        await store.enqueue(self.make.instances(3))
        assert len(await self.woken(peers, 3)) == 3
        await store.enqueue(self.make.instances(3))
        assert len(await self.woken(peers, 1)) == 1

    async def test_each_kind_wakes_nodes_that_can_run_it(self, store: Store) -> None:
        peers = [
            await self.idle(store, "a", ("a",)),
            await self.idle(store, "b", ("b",)),
            await self.idle(store, "c", ("c", "d")),
        ]
        await store.enqueue([self.make.instance(kind="b"), self.make.instance(kind="d")])
        assert await self.woken(peers, 2) == ["b", "c"]

    async def test_a_busy_node_is_not_woken(self, store: Store) -> None:
        await store.enqueue(self.make.instances(1))
        busy = await self.join(store, "busy")
        await busy.take_one()
        deaf = await self.join(store, "deaf")
        await deaf.claim(deaf.want(idle=False))
        full = await self.join(store, "full")
        await full.claim(full.want(0))
        await store.enqueue(self.make.instances(3))
        assert await self.woken([busy, deaf, full]) == []

    async def test_a_node_without_room_is_not_woken_as_by_its_claim_before(self, store: Store) -> None:
        full, free = [await self.idle(store, name) for name in ("full", "free")]
        assert (await full.claim(full.want(2, {"work": 0}))).claims == ()
        await store.enqueue(self.make.instances(1))
        assert await self.woken([full, free], 1) == ["free"]

    async def test_a_node_that_found_work_is_no_longer_idle(self, store: Store) -> None:
        peers = {name: await self.idle(store, name) for name in ("0", "1")}
        await store.enqueue(self.make.instances(1))
        [woken] = await self.woken(list(peers.values()), 1)
        [sleeper] = [peer for name, peer in peers.items() if name != woken]
        await sleeper.take_one()
        await store.enqueue(self.make.instances(1))
        assert await self.woken(list(peers.values())) == []

    async def test_a_node_woken_for_one_kind_is_not_idle_for_another(self, store: Store) -> None:
        for _ in range(4):
            peers = [await self.idle(store, str(number), ("a", "b")) for number in range(2)]
            await store.enqueue(self.make.instances(1, kind="a"))
            await store.enqueue(self.make.instances(1, kind="b"))
            assert await self.woken(peers, 2) == ["0", "1"]
            assert len(await peers[0].take()) == 2

    async def test_two_kinds_wake_two_sleepers(self, store: Store) -> None:
        for _ in range(4):
            peers = [await self.idle(store, str(number), ("a", "b")) for number in range(2)]
            await store.enqueue([self.make.instance(kind="a"), self.make.instance(kind="b")])
            assert await self.woken(peers, 2) == ["0", "1"]
            assert len(await peers[0].take()) == 2

    async def test_two_senders_at_once_wake_two_sleepers(self, store: Store) -> None:
        """Both can choose the same one."""
        senders, others = [store, await self.open()], [await self.open() for _ in range(2)]
        for _ in range(8):
            sleepers = [await self.idle(other, str(number)) for number, other in enumerate(others)]
            await self.in_time(asyncio.gather(*(sender.enqueue(self.make.instances(1)) for sender in senders)))
            assert await self.woken(sleepers, 2) == ["0", "1"]
            claims = await sleepers[0].take()
            assert len(claims) == 2
            await sleepers[0].commit(*map(outcome, claims))
            for sleeper in sleepers:
                await store.leave(sleeper.incarnation)

    async def test_one_idle_node_is_found_among_many_woken_ones(self, store: Store) -> None:
        both = [await self.idle(store, f"both {number}", ("a", "b")) for number in range(40)]
        await store.enqueue(self.make.instances(40, kind="a"))
        assert len(await self.woken(both, 40)) == 40
        for _ in range(3):
            sleeper = await self.idle(store, "sleeper", ("b",))
            await store.enqueue(self.make.instances(1, kind="b"))
            assert await self.woken([sleeper], 1) == ["sleeper"]
            await sleeper.end(await sleeper.take_one())

    async def test_a_repeated_or_refused_instance_wakes_no_node(self, store: Store) -> None:
        (new,) = self.make.instances(1, key="k")
        await store.enqueue([new])
        sleeper = await self.join(store)
        await sleeper.take_one()
        assert await sleeper.take() == ()
        await store.enqueue([new])
        await store.enqueue(self.make.instances(1, key="k"))
        assert await self.woken([sleeper]) == []

    async def test_a_node_that_left_is_not_woken_instead_of_others(self, store: Store) -> None:
        peers = [await self.idle(store, str(number)) for number in range(3)]
        await store.leave(peers[0].incarnation)
        await store.leave(peers[2].incarnation)
        await store.enqueue(self.make.instances(1))
        assert await self.woken([peers[1]], 1) == ["1"]

    async def test_the_earliest_delayed_wakes_one(self, store: Store) -> None:
        peers = [await self.idle(store, str(number)) for number in range(3)]
        await store.enqueue(self.make.instances(1, delay_us=60_000_000))
        assert len(await self.woken(peers, 1)) == 1
        await store.enqueue(self.make.instances(1, delay_us=90_000_000))
        assert await self.woken(peers) == []
        await store.enqueue(self.make.instances(1, delay_us=30_000_000))
        assert len(await self.woken(peers, 1)) == 1

    async def test_the_earliest_delayed_of_a_batch_wakes_one(self, store: Store) -> None:
        await store.enqueue(self.make.instances(1, delay_us=60_000_000))
        peers = [await self.idle(store, str(number)) for number in range(2)]
        await store.enqueue(
            [self.make.instance(delay_us=delay_us) for delay_us in (90_000_000, 30_000_000, 95_000_000)]
        )
        assert len(await self.woken(peers, 1)) == 1

    async def test_what_falls_due_in_a_claim_of_another_kind_wakes_another_node(self, store: Store) -> None:
        """The claiming node is registered as idle for all kinds, and is the first in the list."""
        others = [f"other {number}" for number in range(4)]
        claiming = await self.join(store, "claiming", kinds=("work", *others))
        sleepers = [await self.join(store, kind, kinds=("work", kind)) for kind in others]
        await store.enqueue([self.make.instance(kind=kind, delay_us=3_000_000) for kind in others])
        for peer in (claiming, *sleepers):
            assert (await peer.claim(peer.want(kinds=dict.fromkeys(peer.info.kinds, 1)))).claims == ()
        await self.pass_time(3.1)
        none = dict.fromkeys(others, 0)
        assert (await claiming.claim(claiming.want(kinds={"work": 1, **none}))).claims == ()
        assert sorted(await self.woken(sleepers, 4)) == others

    @pytest.mark.parametrize("action", [Action.HAND_BACK, Action.RETRY, Action.SNOOZE])
    async def test_what_is_given_back_wakes_one(self, store: Store, action: Action) -> None:
        await store.enqueue(self.make.instances(1))
        holder = await self.join(store, "holder")
        claim = await holder.take_one()
        sleepers = [await self.idle(store, str(number)) for number in range(2)]
        await holder.end(claim, action)
        assert len(await self.woken(sleepers, 1)) == 1

    async def test_what_a_leaver_held_wakes_others(self, store: Store) -> None:
        await store.enqueue(self.make.instances(2))
        leaver = await self.join(store, "leaver")
        await leaver.take()
        sleepers = [await self.idle(store, str(number)) for number in range(3)]
        await store.leave(leaver.incarnation)
        assert len(await self.woken(sleepers, 2)) == 2

    async def test_what_is_reaped_wakes_others(self, store: Store) -> None:
        await store.enqueue(self.make.instances(2))
        await (await self.join_briefly(store)).take()
        sleepers = [await self.idle(store, str(number)) for number in range(3)]
        reaper = await self.join(store, "reaper")
        await self.reap(reaper)
        assert len(await self.woken(sleepers, 2)) == 2

    async def test_a_full_claim_that_leaves_work_wakes_one_more(self, store: Store) -> None:
        await store.enqueue(self.make.instances(6, delay_us=3_000_000))
        sleepers = [await self.idle(store, str(number)) for number in range(2)]
        await self.pass_time(3.05)
        busy = await self.join(store, "busy")
        assert len(await busy.take(4)) == 4
        assert len(await self.woken(sleepers, 1)) == 1
        assert len(await busy.take(2)) == 2
        assert await self.woken(sleepers) == []

    # -- no idle node is forgotten

    async def test_a_hint_waits_for_its_reader(self, store: Store) -> None:
        peer = await self.idle(store)
        assert await self.hints(peer, 0) == []
        await store.enqueue(self.make.instances(1))
        assert [hint.what for hint in await self.hints(peer, self.patience)] == ["work"]
        assert await self.hints(peer) == []

    async def test_a_hint_ends_the_wait(self, store: Store) -> None:
        peer = await self.idle(store)
        waiting = asyncio.create_task(store.next_hints(peer.incarnation, 30))
        await asyncio.sleep(0)
        await (await self.open()).enqueue(self.make.instances(1))
        async with asyncio.timeout(self.patience):
            assert [hint.what for hint in await waiting] == ["work"]

    async def test_no_hint_ends_with_the_time(self, store: Store) -> None:
        peer = await self.idle(store)
        began = self.clock.elapsed()
        assert await self.hints(peer, 0.2) == []
        assert 0.15 < self.clock.elapsed() - began < self.patience

    async def test_a_cancelled_wait_swallows_no_hint(self, store: Store) -> None:
        for _ in range(5):
            peer = await self.idle(store)
            waiting = asyncio.create_task(store.next_hints(peer.incarnation, 30))
            await self.pass_time(0.01)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            await self.wait_given_up()
            await store.enqueue(self.make.instances(1))
            assert await self.hinted(peer, "work")
            await peer.end(await peer.take_one())
            await store.leave(peer.incarnation)

    @pytest.mark.parametrize("seed", range(3))
    async def test_work_that_comes_while_peers_fall_asleep(self, store: Store, seed: int) -> None:
        chance = random.Random(seed)
        stores = [store, await self.open(), await self.open()]
        sender = await self.open()
        for _ in range(15):
            peers = [await self.join(store) for store in stores]
            got = 0

            async def send(count: int) -> None:
                for new in self.make.instances(count):
                    await sender.enqueue([new])

            async def claim(peer: Peer) -> None:
                nonlocal got
                for _ in range(chance.randint(1, 3)):
                    claims = await peer.take(1)
                    got += len(claims)
                    await peer.commit(*map(outcome, claims))

            count = chance.randint(1, 2)
            steps = [send(count), *map(claim, peers)]
            chance.shuffle(steps)
            await self.in_time(asyncio.gather(*steps))
            looks = round(self.patience / self.hint_wait)
            while got < count:
                for peer in peers:
                    if await self.hints(peer):
                        await claim(peer)
                        break
                else:
                    looks -= 1
                    assert looks, "work is waiting, and all sleep"
            for peer in peers:
                await store.leave(peer.incarnation)

    # -- watches

    @pytest.mark.parametrize("ending", ["complete", "terminate", "time_out", "cancel", "user"])
    async def test_an_end_is_hinted(self, store: Store, ending: str) -> None:
        await store.enqueue(self.make.instances(1))
        worker, waiter = await self.join(store, "worker"), await self.join(store, "waiter")
        claim = await worker.take_one()
        assert await store.watch_final(waiter.incarnation, [claim.id]) == [State.PROCESSING]
        if ending == "user":
            await store.cancel([claim.id], request=self.make.request())
        else:
            await worker.end(claim, Action(ending))
        assert await self.hinted(waiter, "final", claim.id)
        assert await store.get_ended([claim.id, self.make.id()]) == [*await store.get([claim.id]), None]

    async def test_a_poisoned_end_is_hinted(self, store: Store) -> None:
        await store.enqueue(self.make.instances(1, max_crashes=0))
        waiter, mortal = await self.join(store, "waiter"), await self.join_briefly(store)
        claim = await mortal.take_one()
        await mortal.report(claim, started=True)
        await store.watch_final(waiter.incarnation, [claim.id])
        await self.reap(waiter)
        assert await self.hinted(waiter, "final", claim.id)

    async def test_every_waiter_is_told(self, store: Store) -> None:
        first, second = self.make.instances(2)
        await store.enqueue([first, second])
        waiters = [await self.join(await self.open(), str(number)) for number in range(3)]
        for waiter in waiters:
            await waiter.store.watch_final(waiter.incarnation, [first.id, second.id])
        worker = await self.join(store)
        await worker.commit(*map(outcome, await worker.take()))
        for waiter in waiters:
            finals: set[str] = set()
            for _ in range(round(self.patience / self.hint_wait)):
                finals |= {hint.id for hint in await self.hints(waiter) if hint.what == "final"}
                if len(finals) == 2:
                    break
            assert finals == {first.id, second.id}

    async def test_what_is_final_already_is_read(self, store: Store) -> None:
        await store.enqueue(self.make.instances(1))
        peer = await self.join(store)
        claim = await peer.take_one()
        await peer.end(claim, result=b"result")
        unknown = self.make.id()
        record, nothing = await store.watch_final(peer.incarnation, [claim.id, unknown])
        assert isinstance(record, Record)
        assert (record.state, record.result) == (State.COMPLETED, b"result")
        assert nothing is None

    async def test_a_retry_is_no_end(self, store: Store) -> None:
        await store.enqueue(self.make.instances(1))
        worker, waiter = await self.join(store, "worker"), await self.join(store, "waiter")
        claim = await worker.take_one()
        await store.watch_final(waiter.incarnation, [claim.id])
        await worker.end(claim, Action.RETRY)
        assert Hint("final", claim.id) not in await self.hints(waiter)
        await worker.end(await worker.take_one())
        assert await self.hinted(waiter, "final", claim.id)

    async def test_an_end_while_a_waiter_registers_is_not_missed(self, store: Store) -> None:
        worker = await self.join(await self.open())
        for _ in range(20):
            waiter = await self.join(store)
            await store.enqueue(self.make.instances(1))
            claim = await worker.take_one()
            (hint,), _ = await self.in_time(
                asyncio.gather(store.watch_final(waiter.incarnation, [claim.id]), worker.end(claim))
            )
            assert isinstance(hint, Record) or await self.hinted(waiter, "final", claim.id)

    async def test_a_watcher_sees_every_change(self, store: Store) -> None:
        watcher, worker = await self.join(store, "watcher"), await self.join(store, "worker")
        await store.watch_changes(watcher.incarnation, 60)
        (new,) = self.make.instances(1)
        await store.enqueue([new])
        assert await self.hinted(watcher, "change", new.id)
        claim = await worker.take_one()
        assert await self.hinted(watcher, "change", new.id)
        await worker.report(claim, progress=b"half")
        assert await self.hinted(watcher, "change", new.id)
        await worker.report(claim, logs=(self.make.line("line"),))
        assert await self.hinted(watcher, "change", new.id)
        await worker.end(claim, Action.RETRY)
        assert await self.hinted(watcher, "change", new.id)
        await store.cancel([new.id], request=self.make.request())
        assert await self.hinted(watcher, "change", new.id)

    @pytest.mark.parametrize(
        "change",
        [
            *("add_lines", "turn", "cancel by the user", "leave", "reap"),
            *(action.value for action in PLAIN_ACTIONS if action is not Action.RELEASE),
        ],
    )
    async def test_a_watcher_sees_each_change_of_what_runs(self, store: Store, change: str) -> None:
        watcher = await self.join(store, "watcher")
        worker = await (self.join_briefly if change == "reap" else self.join)(store, "worker")
        await store.enqueue(self.make.instances(1))
        claim = await worker.take_one()
        await store.watch_changes(watcher.incarnation, 60)
        match change:
            case "add_lines":
                await store.add_lines(claim.id, [self.make.line("line")])
            case "turn":
                await store.turn(worker.incarnation, [outcome(claim)], worker.want(1), request=self.make.request())
            case "cancel by the user":
                await store.cancel([claim.id], request=self.make.request())
            case "leave":
                await store.leave(worker.incarnation)
            case "reap":
                await self.reap(watcher)
            case _:
                await worker.end(claim, Action(change), logs=(self.make.line("line"),))
        assert await self.hinted(watcher, "change", claim.id)

    async def test_a_watch_ends(self, store: Store) -> None:
        watcher = await self.join(store)
        await store.watch_changes(watcher.incarnation, 0.05)
        await self.pass_time(0.1)
        await store.enqueue(self.make.instances(1))
        assert await self.hints(watcher) == []

    async def test_nothing_is_left_of_a_watch(self, store: Store) -> None:
        """Neither of one that comes late, after its node has left."""
        watcher = await self.join(store, kinds=())
        await store.watch_changes(watcher.incarnation, 60)
        await store.leave(watcher.incarnation)
        await store.watch_changes(watcher.incarnation, 60)
        await self.assert_nothing_left(store)

    async def test_a_look_at_many_ends_is_bounded(self, store: Store) -> None:
        """A long reply has only the states of the last instances: otherwise one call would block the store."""
        worker, waiter = await self.join(store, "worker"), await self.join(store, "waiter")
        batch = self.make.instances(24, spec=bytes(400_000))
        for new in batch:
            await store.enqueue([new])
        taken = 0
        while claims := await worker.take():
            taken += len(claims)
            await worker.commit(*map(outcome, claims))
        assert taken == len(batch)
        answers = await store.watch_final(waiter.incarnation, [new.id for new in batch])
        records = [answer for answer in answers if isinstance(answer, Record)]
        assert all(answer.state is State.COMPLETED for answer in records)
        assert [answer for answer in answers if not isinstance(answer, Record)] == [State.COMPLETED] * (
            len(batch) - len(records)
        )
        assert 1 <= len(records) < len(batch)
