"""Signals: a value from outside under a name, of which the first one wins."""

from __future__ import annotations

import asyncio

import pytest
from msgspec.structs import replace

from peerjob.model.durable import (
    MAX_ALL_STEP_BYTES,
    MAX_SIGNALS,
    MAX_STEP_BYTES,
    SIGNAL_MARK,
    SignalAnswer,
    Wait,
)
from peerjob.model.record import Ack, Action, StoreLimits
from peerjob.model.state import State
from peerjob.store.base import Store
from peerjob.testing.factories import outcome

from .durable_suite import APPROVAL, HOUR_US, DurableSuite, signal_step, steps
from .suite import ids_of

ACCEPTED, SAME, OTHER = SignalAnswer.ACCEPTED, SignalAnswer.SAME, SignalAnswer.OTHER


class SignalRules(DurableSuite):
    """Rules of `signal`."""

    # -- the value

    async def test_the_first_value_wins(self, flows: Store) -> None:
        peer = await self.join(flows)
        claim = await self.running(flows, peer)
        before = await self.read(flows, claim.id)
        answers = [await flows.signal(claim.id, "approval", value) for value in (b"yes", b"yes", b"no", b"", b"yes")]
        assert answers == [ACCEPTED, SAME, OTHER, OTHER, SAME]
        assert await self.steps(flows, claim.id) == {f"{SIGNAL_MARK}approval": b"yes"}
        assert await self.read(flows, claim.id) == replace(before, has_steps=True)

    async def test_an_empty_value_is_a_value(self, flows: Store) -> None:
        peer = await self.join(flows)
        claim = await self.suspended(flows, peer)
        assert await flows.signal(claim.id, "approval", b"") is ACCEPTED
        assert await flows.signal(claim.id, "approval", b"no") is OTHER
        await self.assert_queued(flows, claim.id)

    async def test_signals_and_steps_have_names_apart(self, flows: Store) -> None:
        peer = await self.join(flows)
        claim = await self.running(flows, peer)
        await peer.report(claim, steps=steps(approval=b"1"))
        assert await flows.signal(claim.id, "approval", b"2") is ACCEPTED
        assert await flows.signal(claim.id, "ü/1 *", b"3") is ACCEPTED
        wanted = {"approval": b"1", f"{SIGNAL_MARK}approval": b"2", f"{SIGNAL_MARK}ü/1 *": b"3"}
        assert await self.steps(flows, claim.id) == wanted

    async def test_an_unknown_instance(self, flows: Store) -> None:
        assert await flows.signal(self.make.id(), "approval", b"yes") is SignalAnswer.UNKNOWN

    @pytest.mark.parametrize("action", [Action.COMPLETE, Action.TERMINATE, Action.CANCEL])
    async def test_a_final_instance_takes_none(self, flows: Store, action: Action) -> None:
        peer = await self.join(flows)
        claim = await self.running(flows, peer)
        await flows.signal(claim.id, "before", b"yes")
        await peer.end(claim, action)
        answers = [await flows.signal(claim.id, "before", value) for value in (b"yes", b"no")]
        assert answers == [SAME, OTHER]
        assert await flows.signal(claim.id, "approval", b"yes") is SignalAnswer.FINAL
        assert await self.steps(flows, claim.id) == {f"{SIGNAL_MARK}before": b"yes"}

    async def test_a_cancelled_instance_whose_body_runs_takes_none(self, flows: Store) -> None:
        peer = await self.join(flows)
        claim = await self.running(flows, peer)
        await flows.cancel([claim.id], request=self.make.request())
        assert await flows.signal(claim.id, "approval", b"yes") is SignalAnswer.FINAL
        assert await peer.end(claim, Action.RELEASE) is Ack.CANCELLED
        assert await self.steps(flows, claim.id) == {}

    async def test_an_instance_that_never_ran_keeps_it(self, flows: Store) -> None:
        new, later = self.make.instance(), self.make.instance(delay_us=HOUR_US)
        await flows.enqueue([new, later])
        for id in (new.id, later.id):
            before = await self.read(flows, id)
            assert await flows.signal(id, "approval", b"yes") is ACCEPTED
            assert await self.read(flows, id) == replace(before, has_steps=True)
        assert (await flows.health()).delayed == 1
        peer = await self.join(flows)
        (claim,) = await peer.take()
        assert (claim.id, claim.has_steps, claim.linked) == (new.id, True, True)
        assert await peer.suspend(claim, APPROVAL) is Ack.DONE
        await self.assert_queued(flows, new.id)

    async def test_one_of_many_callers_is_accepted(self, flows: Store) -> None:
        peer = await self.join(flows)
        claim = await self.suspended(flows, peer)
        stores = [flows, *[await self.opened() for _ in range(3)]]
        answers = await self.in_time(
            asyncio.gather(
                *(store.signal(claim.id, "approval", b"%d" % number) for number, store in enumerate(stores * 3))
            )
        )
        assert sorted(answers) == [ACCEPTED, *[OTHER] * 11]
        (value,) = (await self.steps(flows, claim.id)).values()
        assert answers[int(value)] is ACCEPTED
        assert ids_of(await peer.take()) == [claim.id]
        assert await peer.take() == ()

    async def test_a_change_is_hinted(self, flows: Store) -> None:
        peer = await self.join(flows)
        claim = await self.suspended(flows, peer)
        watcher = await self.join(flows, "watcher", ())
        await flows.watch_changes(watcher.incarnation, 60)
        await flows.signal(claim.id, "approval", b"yes")
        assert await self.hinted(watcher, "change", claim.id)

    # -- waits

    async def test_a_signal_ends_a_wait(self, flows: Store) -> None:
        peer, sleeper = await self.join(flows), await self.join(flows, "sleeper")
        claim = await self.suspended(flows, peer)
        await sleeper.claim()
        await self.hints(sleeper)
        before = await self.assert_waits(flows, claim.id)
        assert await flows.signal(claim.id, "other", b"yes") is ACCEPTED
        assert await self.assert_waits(flows, claim.id) == replace(before, has_steps=True)
        assert await flows.signal(claim.id, "approval", b"yes") is ACCEPTED
        assert await self.woken([sleeper], 1) == ["sleeper"]
        await self.assert_queued(flows, claim.id)
        record = await self.read(flows, claim.id)
        assert (record.due_us, record.history) == (claim.due_us, before.history)
        again = await sleeper.take_one()
        assert (again.id, again.due_us, again.attempts) == (claim.id, claim.due_us, 1)
        assert await sleeper.take() == ()

    @pytest.mark.parametrize("when", ["before the claim", "while it runs", "in the same outcome"])
    async def test_a_signal_that_came_first_lets_it_wait_no_longer(self, flows: Store, when: str) -> None:
        peer = await self.join(flows)
        await flows.enqueue([new := self.make.instance()])
        if when == "before the claim":
            await flows.signal(new.id, "approval", b"yes")
        claim = await peer.take_one()
        if when == "while it runs":
            await flows.signal(new.id, "approval", b"yes")
        given = (signal_step("approval", b"late"),) if when == "in the same outcome" else ()
        wait = Wait(signals=("approval",), until_us=claim.at_us + HOUR_US)
        assert await peer.suspend(claim, wait, steps=given) is Ack.DONE
        await self.assert_queued(flows, claim.id)
        assert (await flows.health()).delayed == 0
        assert (await peer.take_one()).due_us == claim.due_us

    async def test_a_signal_ends_a_wait_with_a_time(self, flows: Store) -> None:
        peer = await self.join(flows)
        claim = await self.running(flows, peer)
        await peer.suspend(claim, Wait(signals=("approval",), until_us=claim.at_us + HOUR_US))
        assert (await flows.health()).delayed == 1
        await self.pass_time(0.001)
        assert await flows.signal(claim.id, "approval", b"yes") is ACCEPTED
        await self.assert_queued(flows, claim.id)
        assert ((await flows.health()).delayed, await flows.due()) == (0, {"work": 1})
        again = await peer.take_one()
        assert (again.id, again.due_us) == (claim.id, claim.due_us)
        assert (await peer.claim()).next_due_us is None

    async def test_a_signal_after_the_time_is_kept(self, flows: Store) -> None:
        peer = await self.join(flows)
        claim = await self.running(flows, peer)
        until_us = claim.at_us + round(self.hint_wait * 1_000_000)
        await peer.suspend(claim, Wait(signals=("approval",), until_us=until_us))
        await self.pass_time(2 * self.hint_wait)
        assert await flows.signal(claim.id, "approval", b"yes") is ACCEPTED
        (again,) = await peer.take()
        assert (again.id, again.due_us, again.has_steps) == (claim.id, until_us, True)
        assert await peer.take() == ()
        await peer.end(again)
        assert await self.counts(flows) == {State.COMPLETED: 1}

    async def test_only_its_present_wait_counts(self, flows: Store) -> None:
        peer = await self.join(flows)
        claim = await self.suspended(flows, peer)
        await flows.signal(claim.id, "approval", b"yes")
        second = await peer.take_one()
        await peer.suspend(second, Wait(signals=("payment",)))
        assert await flows.signal(claim.id, "approval", b"yes") is SAME
        await self.assert_waits(flows, claim.id)
        await flows.signal(claim.id, "payment", b"yes")
        third = await peer.take_one()
        await peer.suspend(third, APPROVAL)
        await self.assert_queued(flows, claim.id)

    @pytest.mark.parametrize("name", ["approval", "payment", "ü/1 *"])
    @pytest.mark.parametrize("timed", [False, True])
    async def test_each_of_several_signals_ends_the_wait(self, flows: Store, name: str, timed: bool) -> None:
        peer = await self.join(flows)
        claim = await self.running(flows, peer)
        wait = Wait(signals=("approval", "payment", "ü/1 *"), until_us=claim.at_us + HOUR_US if timed else None)
        await peer.suspend(claim, wait)
        assert (await self.read(flows, claim.id)).wait == wait
        for other in ("pay", "ment", "*"):
            assert await flows.signal(claim.id, other, b"yes") is ACCEPTED
        assert (await self.read(flows, claim.id)).wait == wait
        assert await flows.signal(claim.id, name, b"yes") is ACCEPTED
        await self.assert_queued(flows, claim.id)
        again = await peer.take_one()
        await peer.suspend(again, wait)
        await self.assert_queued(flows, claim.id)

    async def test_a_timeout_in_its_place_is_the_value(self, flows: Store) -> None:
        """A wait ends once: the timeout is written under the name of the signal, and a later signal is refused."""
        peer = await self.join(flows)
        claim = await self.running(flows, peer)
        assert await peer.report(claim, steps=(signal_step("approval", b"timed out"),)) is Ack.DONE
        assert await flows.signal(claim.id, "approval", b"yes") is OTHER
        await flows.signal(claim.id, "payment", b"yes")
        assert await peer.report(claim, steps=(signal_step("payment", b"timed out"),)) is Ack.TAKEN
        assert (await self.steps(flows, claim.id))[f"{SIGNAL_MARK}payment"] == b"yes"

    async def test_it_comes_before_later_work(self, flows: Store) -> None:
        peer = await self.join(flows)
        claim = await self.suspended(flows, peer, Wait(signals=("approval",), until_us=peer.joined_us + HOUR_US))
        await self.pass_time(0.001)
        urgent, later = self.make.instance(priority=-1), self.make.instance()
        await flows.enqueue([later, urgent])
        await flows.signal(claim.id, "approval", b"yes")
        assert ids_of(await peer.take()) == [urgent.id, claim.id, later.id]

    async def test_a_wait_of_a_run_that_is_over_counts_no_more(self, flows: Store) -> None:
        peer = await self.join(flows)
        claim = await self.suspended(flows, peer)
        await flows.signal(claim.id, "approval", b"yes")
        again = await peer.take_one()
        await peer.end(again, Action.RETRY, delay_us=HOUR_US)
        assert await flows.signal(claim.id, "approval", b"yes") is SAME
        assert await flows.signal(claim.id, "more", b"yes") is ACCEPTED
        assert ((await flows.health()).delayed, await flows.due()) == (1, {})

    # -- limits

    async def test_so_many_signals_are_kept(self, flows: Store) -> None:
        peer = await self.join(flows)
        claim = await self.suspended(flows, peer)
        for number in range(MAX_SIGNALS):
            assert await flows.signal(claim.id, f"signal/{number}", b"%d" % number) is ACCEPTED
        assert await flows.signal(claim.id, "approval", b"yes") is SignalAnswer.FULL
        assert await flows.signal(claim.id, "signal/7", b"7") is SAME
        assert await flows.signal(claim.id, "signal/7", b"8") is OTHER
        await self.assert_waits(flows, claim.id)
        assert len(await self.steps(flows, claim.id)) == MAX_SIGNALS

    async def test_steps_are_no_signals(self, flows: Store) -> None:
        peer = await self.join(flows)
        claim = await self.running(flows, peer)
        for first in range(0, MAX_SIGNALS, 50):
            await peer.report(claim, steps=steps(**{f"step{first + number}": b"" for number in range(50)}))
        assert await flows.signal(claim.id, "approval", b"yes") is ACCEPTED

    async def test_so_many_bytes_are_kept(self, flows: Store) -> None:
        peer = await self.join(flows)
        claim = await self.running(flows, peer)
        large = b"x" * MAX_STEP_BYTES
        for number in range(MAX_ALL_STEP_BYTES // MAX_STEP_BYTES - 1):
            await peer.report(claim, steps=steps(**{f"step{number}": large}))
        assert await flows.signal(claim.id, "first", large[:-10]) is ACCEPTED
        assert await flows.signal(claim.id, "second", b"x" * 11) is SignalAnswer.FULL
        assert await flows.signal(claim.id, "first", large[:-10]) is SAME
        assert await flows.signal(claim.id, "second", b"x" * 10) is ACCEPTED

    async def test_a_value_that_is_too_large_is_refused(self, flows: Store) -> None:
        peer = await self.join(flows)
        claim = await self.running(flows, peer)
        with pytest.raises(ValueError, match="approval"):
            await flows.signal(claim.id, "approval", b"x" * (MAX_STEP_BYTES + 1))
        assert await self.steps(flows, claim.id) == {}

    async def test_signals_go_with_their_instance(self, store: Store) -> None:
        flows = await self.opened(StoreLimits(retention_us=0))
        peer = await self.join(flows)
        claim = await self.suspended(flows, peer)
        queued = self.make.instance()
        await flows.enqueue([queued])
        for id in (claim.id, queued.id):
            await flows.signal(id, "payment", b"1")
        await flows.cancel([claim.id, queued.id], request=self.make.request())
        await self.pass_time(0.001)
        while await flows.expire(100):
            pass
        assert await flows.signal(claim.id, "approval", b"yes") is SignalAnswer.UNKNOWN
        assert await self.steps(flows, queued.id) == {}
        await self.remove_all(flows, peer)

    async def test_a_signal_beside_an_end(self, flows: Store) -> None:
        """Each order of the two is right, and no instance waits for a signal that is there."""
        peer = await self.join(flows)
        for _ in range(10):
            claim = await self.running(flows, peer)
            (ack,), answer = await self.in_time(
                asyncio.gather(
                    peer.commit(outcome(claim, Action.SUSPEND, wait=APPROVAL)),
                    flows.signal(claim.id, "approval", b"yes"),
                )
            )
            assert (ack, answer) == (Ack.DONE, ACCEPTED)
            await self.assert_queued(flows, claim.id)
            await peer.end(await peer.take_one())
