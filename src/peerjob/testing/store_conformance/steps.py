"""Steps: a value under a name that an outcome writes once, and that stays until its instance is removed."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from peerjob.model.durable import MAX_NEEDS_CALL, MAX_STEP_BYTES, MAX_STEPS_CALL, Need, Step, Wait
from peerjob.model.errors import LayoutError
from peerjob.model.query import Filter
from peerjob.model.record import MAX_BATCH_BYTES, Ack, Action, Outcome, StoreLimits
from peerjob.model.state import State
from peerjob.store.base import Store
from peerjob.store.rules import FLOWS_LAYOUT
from peerjob.testing.factories import outcome

from .durable_suite import APPROVAL, DurableSuite, steps
from .limit_suite import LimitSuite
from .suite import ids_of

ENDINGS = tuple(action for action in Action if action not in (Action.REPORT, Action.RELEASE))


def wait_of(action: Action) -> Wait | None:
    """The wait that an action must have."""
    return APPROVAL if action is Action.SUSPEND else None


class StepRules(DurableSuite, LimitSuite):
    """Rules of steps in outcomes, and of `steps`."""

    async def test_a_report_keeps_steps(self, flows: Store) -> None:
        peer = await self.join(flows)
        claim = await self.running(flows, peer)
        assert (claim.has_steps, await self.steps(flows, claim.id)) == (False, {})
        before = await self.read(flows, claim.id)
        assert await peer.report(claim, steps=steps(charge=b"42")) is Ack.DONE
        assert await peer.report(claim, steps=steps(mail=b"", page=b"\0\xff\r\n")) is Ack.DONE
        assert await self.steps(flows, claim.id) == {"charge": b"42", "mail": b"", "page": b"\0\xff\r\n"}
        assert await self.read(flows, claim.id) == replace(before, has_steps=True)
        assert await peer.end(claim, Action.RETRY) is Ack.DONE
        again = await peer.take_one()
        assert (again.has_steps, again.linked) == (True, True)

    @pytest.mark.parametrize("name", ["charge", "ship/0", "a b", "ü€𝄞", ":", "*", "x" * 200, "0", "a\nb", "%s{}"])
    async def test_a_name_can_have_any_text(self, flows: Store, name: str) -> None:
        peer = await self.join(flows)
        claim = await self.running(flows, peer)
        await peer.report(claim, steps=(Step(name, b"1"), Step(name[:-1] + "~", b"2")))
        assert await peer.report(claim, steps=(Step(name, b"other"),)) is Ack.TAKEN
        assert await self.steps(flows, claim.id) == {name: b"1", name[:-1] + "~": b"2"}

    @pytest.mark.parametrize("action", [Action.REPORT, *ENDINGS])
    async def test_another_value_changes_nothing(self, flows: Store, action: Action) -> None:
        peer = await self.join(flows)
        claim = await self.running(flows, peer)
        await peer.report(claim, steps=steps(charge=b"42"))
        before = await self.everything(flows, claim.id)
        said = outcome(
            claim,
            action,
            result=b"no",
            error=b"no",
            progress=b"no",
            started=True,
            note="no",
            logs=(self.make.line("no"),),
            steps=steps(more=b"no", charge=b"43"),
            wait=wait_of(action),
        )
        request = self.make.request()
        for _ in range(2):
            assert await peer.commit(said, request=request) == [Ack.TAKEN]
        assert await self.everything(flows, claim.id) == before
        assert await self.steps(flows, claim.id) == {"charge": b"42"}
        assert await peer.end(claim) is Ack.DONE

    async def test_the_same_value_again_is_done(self, flows: Store) -> None:
        peer = await self.join(flows)
        claim = await self.running(flows, peer)
        for progress in (b"1", b"2"):
            assert await peer.report(claim, steps=steps(charge=b"42"), progress=progress) is Ack.DONE
        assert await peer.report(claim, steps=steps(charge=b"42", mail=b"1")) is Ack.DONE
        assert await self.steps(flows, claim.id) == {"charge": b"42", "mail": b"1"}
        assert (await self.read(flows, claim.id)).progress == b"2"

    async def test_a_request_sent_again_writes_once(self, flows: Store) -> None:
        peer = await self.join(flows)
        claim = await self.running(flows, peer)
        said = outcome(claim, Action.REPORT, steps=steps(charge=b"42"), logs=(self.make.line("once"),))
        request = self.make.request()
        for _ in range(3):
            assert await peer.commit(said, request=request) == [Ack.DONE]
        assert len(await self.lines(flows, claim.id)) == 1
        assert await self.steps(flows, claim.id) == {"charge": b"42"}

    @pytest.mark.parametrize("action", ENDINGS)
    async def test_each_end_of_a_run_keeps_steps(self, flows: Store, action: Action) -> None:
        peer = await self.join(flows)
        claim = await self.running(flows, peer)
        wait = wait_of(action)
        assert await peer.end(claim, action, steps=steps(last=b"1"), wait=wait, logs=(self.make.line("l"),)) is Ack.DONE
        assert await self.steps(flows, claim.id) == {"last": b"1"}
        assert (await self.read(flows, claim.id)).state is not State.PROCESSING
        assert await peer.end(claim, steps=steps(late=b"1")) is Ack.LOST
        assert await peer.report(claim, steps=steps(late=b"1"), logs=(self.make.line("late"),)) is Ack.LOST
        assert await self.steps(flows, claim.id) == {"last": b"1"}
        assert len(await self.lines(flows, claim.id)) == 1

    async def test_another_holder_writes_none(self, flows: Store) -> None:
        peer, other = await self.join(flows), await self.join(flows, "other")
        claim = await self.running(flows, peer)
        assert await other.report(claim, steps=steps(a=b"1")) is Ack.LOST
        await peer.end(claim, Action.HAND_BACK)
        newer = await other.take_one()
        assert await peer.report(claim, steps=steps(a=b"1")) is Ack.LOST
        assert await self.steps(flows, claim.id) == {}
        assert await other.report(newer, steps=steps(a=b"2")) is Ack.DONE
        assert await self.steps(flows, claim.id) == {"a": b"2"}

    @pytest.mark.parametrize("action", [Action.REPORT, *ENDINGS])
    async def test_a_cancelled_instance_takes_none(self, flows: Store, action: Action) -> None:
        peer = await self.join(flows)
        claim = await self.running(flows, peer)
        await peer.report(claim, steps=steps(a=b"1"))
        await flows.cancel([claim.id], request=self.make.request())
        for name in ("a", "b"):
            said = outcome(claim, action, steps=(Step(name, b"2"),), wait=wait_of(action))
            assert await peer.commit(said) == [Ack.CANCELLED if action is Action.REPORT or name == "a" else Ack.LOST]
        assert await self.steps(flows, claim.id) == {"a": b"1"}
        assert (await self.read(flows, claim.id)).state is State.CANCELLED

    @pytest.mark.parametrize("way", ["retry", "snooze", "hand_back", "leave", "die"])
    async def test_steps_outlive_a_run(self, flows: Store, way: str) -> None:
        peer, other = await self.join(flows), await self.join(flows, "other")
        claim = await self.running(flows, peer)
        await peer.report(claim, steps=steps(charge=b"42"), started=True)
        if way == "leave":
            await flows.leave(peer.incarnation)
        elif way == "die":
            await flows.join(peer.info, ttl_us=round(self.short_ttl * 1_000_000))
            await self.reap(other)
        else:
            await peer.end(claim, Action(way))
        again = await other.take_one()
        assert (again.id, again.has_steps) == (claim.id, True)
        assert await self.steps(flows, claim.id) == {"charge": b"42"}
        await other.end(again)
        assert await self.steps(flows, claim.id) == {"charge": b"42"}

    @pytest.mark.parametrize("way", ["expire", "commit", "clear_instances", "clear"])
    async def test_steps_go_with_their_instance(self, store: Store, way: str) -> None:
        flows = await self.opened(StoreLimits(retention_us=0 if way in ("expire", "commit") else 60_000_000))
        peer = await self.join(flows)
        claims = [await self.running(flows, peer) for _ in range(3)]
        for claim in claims:
            await peer.report(claim, steps=steps(a=b"1", b=b"2"))
            assert await flows.signal(claim.id, "approval", b"3") == "accepted"
        for claim in claims if way != "clear" else claims[:1]:
            await peer.end(claim)
        match way:
            case "expire":
                await self.pass_time(0.001)
                await flows.expire(100)
            case "commit":
                for _ in range(4):
                    await self.pass_time(0.001)
                    await peer.end(await self.running(flows, peer))
            case "clear_instances":
                assert await flows.clear_instances(Filter()) == 3
            case _:
                await flows.clear()
        for claim in claims:
            assert (await flows.get([claim.id]), await self.steps(flows, claim.id)) == ([None], {})
        await self.remove_all(flows, peer)

    async def test_a_new_step_is_progress_and_forgets_crashes(self, flows: Store) -> None:
        """A body that gets on is no poison; one that dies at one place is."""
        new = self.make.instance(max_crashes=1)
        await flows.enqueue([new])
        reaper = await self.join(flows, "reaper", ())
        for number, expected in enumerate([State.SCHEDULED, State.TERMINATED]):
            peer = await self.join_briefly(flows)
            claim = await peer.take_one()
            await peer.report(claim, started=True, steps=steps(first=b"1"))
            assert (await self.read(flows, new.id)).crashes == number
            await self.reap(reaper)
            assert (await self.read(flows, new.id)).state is expected
        assert await self.steps(flows, new.id) == {"first": b"1"}

    async def test_a_body_that_gets_on_is_no_poison(self, flows: Store) -> None:
        new = self.make.instance(max_crashes=0, crashes=0, losses=1)
        await flows.enqueue([new])
        peer = await self.join(flows)
        claim = await peer.take_one()
        assert claim.losses == 1
        await peer.report(claim, steps=steps(a=b"1"))
        record = await self.read(flows, new.id)
        assert (record.crashes, record.losses, record.attempts) == (0, 0, 1)

    async def test_many_steps_come_in_pages(self, flows: Store) -> None:
        peer = await self.join(flows)
        claim = await self.running(flows, peer)
        wanted = {f"step {number}": bytes([number]) * (MAX_BATCH_BYTES // 3) for number in range(8)}
        for name, value in wanted.items():
            assert await peer.report(claim, steps=(Step(name, value),)) is Ack.DONE
        many = tuple(Step(f"small {number}", b"%d" % number) for number in range(900))
        for first in range(0, len(many), MAX_STEPS_CALL):
            await peer.report(claim, steps=many[first : first + MAX_STEPS_CALL])
        assert await self.steps(flows, claim.id) == wanted | {step.name: step.value for step in many}
        page = await flows.steps(claim.id)
        assert page.cursor is not None
        assert sum(len(step.value) for step in page.steps) <= 2 * MAX_BATCH_BYTES

    async def test_a_value_can_be_a_mebibyte(self, flows: Store) -> None:
        peer = await self.join(flows)
        claim = await self.running(flows, peer)
        assert await peer.report(claim, steps=(Step("large", b"x" * MAX_STEP_BYTES),)) is Ack.DONE
        assert await self.steps(flows, claim.id) == {"large": b"x" * MAX_STEP_BYTES}

    async def test_a_claim_need_not_know_of_steps(self, flows: Store) -> None:
        peer = await self.join(flows)
        claims = [await self.running(flows, peer) for _ in range(4)]
        for claim in claims[:2]:
            await peer.report(claim, steps=steps(a=b"1"))
        for claim, linked in zip(claims, (False, True) * 2, strict=True):
            assert await peer.report(claim, progress=b"1", linked=linked) is Ack.DONE
            assert await peer.report(claim, steps=steps(b=b"1"), linked=linked) is Ack.DONE
            assert await peer.end(claim, result=b"r", linked=linked) is Ack.DONE
            assert (await self.read(flows, claim.id)).state is State.COMPLETED

    async def test_outcomes_of_a_batch_are_apart(self, flows: Store) -> None:
        peer = await self.join(flows)
        claims = [await self.running(flows, peer) for _ in range(6)]
        await peer.report(claims[1], steps=steps(a=b"1"))
        acks = await peer.commit(
            outcome(claims[0], Action.REPORT, steps=steps(a=b"0")),
            outcome(claims[1], steps=steps(a=b"2")),
            outcome(claims[2]),
            outcome(claims[3], Action.SUSPEND, steps=steps(a=b"3"), wait=APPROVAL),
            outcome(claims[4], Action.RETRY),
            Outcome(id=self.make.id(), fence=1, action=Action.REPORT, steps=steps(a=b"5")),
            outcome(claims[0], Action.COMPLETE, steps=steps(a=b"0", b=b"0")),
            outcome(claims[5], Action.REPORT, steps=steps(a=b"5")),
            outcome(claims[5], Action.REPORT, steps=steps(a=b"6", b=b"6")),
        )
        done, lost, taken = Ack.DONE, Ack.LOST, Ack.TAKEN
        assert acks == [done, taken, done, done, done, lost, done, done, taken]
        assert [await self.steps(flows, claim.id) for claim in claims] == [
            {"a": b"0", "b": b"0"},
            {"a": b"1"},
            {},
            {"a": b"3"},
            {},
            {"a": b"5"},
        ]
        assert await self.counts(flows) == {State.COMPLETED: 2, State.PROCESSING: 2, State.SCHEDULED: 2}

    async def test_a_turn_keeps_steps(self, flows: Store) -> None:
        peer = await self.join(flows)
        claim = await self.running(flows, peer)
        (other,) = self.make.instances(1)
        await flows.enqueue([other])
        said = [outcome(claim, Action.REPORT, steps=steps(a=b"1"))]
        request = self.make.request()
        for _ in range(2):
            acks, claimed = await flows.turn(peer.incarnation, said, peer.want(), request=request)
            assert (acks, ids_of(claimed.claims)) == ([Ack.DONE], [other.id])
        assert await self.steps(flows, claim.id) == {"a": b"1"}

    async def test_an_unknown_instance_has_none(self, store: Store) -> None:
        await store.enqueue(batch := self.make.instances(1))
        assert await self.steps(store, self.make.id()) == {}
        assert await self.steps(store, batch[0].id) == {}

    async def test_clearing_history_and_logs_leaves_steps(self, flows: Store) -> None:
        peer = await self.join(flows)
        claim = await self.running(flows, peer)
        await peer.end(claim, steps=steps(a=b"1"), logs=(self.make.line("l"),))
        await flows.clear_history(Filter())
        await flows.clear_logs(Filter())
        assert await self.steps(flows, claim.id) == {"a": b"1"}

    async def test_namespaces_have_their_own_steps(self, flows: Store) -> None:
        peer = await self.join(flows)
        claim = await self.running(flows, peer)
        await peer.report(claim, steps=steps(a=b"1"))
        other = await self.open(namespace=f"{self.namespace}-2")
        assert await self.steps(other, claim.id) == {}
        await other.clear()
        assert await self.steps(flows, claim.id) == {"a": b"1"}

    # -- what is refused

    async def test_the_first_step_needs_the_layout(self, store: Store) -> None:
        peer = await self.join(store)
        claims = [await self.running(store, peer) for _ in range(2)]
        for said in (
            outcome(claims[0], Action.REPORT, steps=steps(a=b"1")),
            outcome(claims[0], Action.SUSPEND, wait=APPROVAL),
        ):
            with pytest.raises(ValueError, match="require_layout"):
                await peer.commit(outcome(claims[1]), said)
        with pytest.raises(ValueError, match="require_layout"):
            await store.signal(claims[0].id, "approval", b"1")
        assert await self.counts(store) == {State.PROCESSING: 2}
        for _ in range(2):
            await self.require(store)
        assert await peer.report(claims[0], steps=steps(a=b"1")) is Ack.DONE
        assert await peer.end(claims[1]) is Ack.DONE

    async def test_the_layout_needs_nodes_that_read_it(self, store: Store) -> None:
        older = await self.join(store, "older")
        await store.join(self.older(older), ttl_us=60_000_000)
        for _ in range(2):
            with pytest.raises(LayoutError) as refused:
                await self.require(store)
            assert (refused.value.nodes, refused.value.known) == (("older",), FLOWS_LAYOUT)
        await store.enqueue(self.make.instances(2))
        assert len(await self.took(older)) == 2
        await store.leave(older.incarnation)
        await self.require(store)
        peer = await self.join(store)
        await peer.report(await peer.take_one(), steps=steps(a=b"1"))

    async def test_mistakes_are_refused_before_anything_is_written(self, flows: Store) -> None:
        peer = await self.join(flows)
        claim, other = await self.running(flows, peer), await self.running(flows, peer)
        too_many = tuple(Need(self.make.id()) for _ in range(MAX_NEEDS_CALL + 1))
        twice = (Need(other.id), Need(other.id))
        half = b"x" * (MAX_STEP_BYTES // 2 + 1)
        for wrong in (
            outcome(claim, Action.SUSPEND),
            outcome(claim, Action.SUSPEND, wait=Wait()),
            outcome(claim, Action.SUSPEND, wait=Wait(signals=("ä" * 200, "b" * 200, "c" * 423))),
            outcome(claim, Action.SUSPEND, wait=Wait(signals=("",))),
            outcome(claim, Action.SUSPEND, wait=Wait(signals=("a", "b\0c"))),
            outcome(claim, Action.REPORT, wait=APPROVAL),
            outcome(claim, Action.COMPLETE, needs=twice[:1]),
            outcome(claim, Action.REPORT, needs=twice),
            outcome(claim, Action.REPORT, needs=too_many),
            outcome(claim, Action.REPORT, needs=(Need(claim.id),)),
            outcome(claim, Action.REPORT, needs=(Need(other.id, "completed"),)),
            outcome(claim, Action.REPORT, steps=(Step("a", half), Step("b", half))),
            outcome(claim, Action.REPORT, steps=(Step("a", b"1"), Step("a", b"2"))),
            outcome(claim, Action.REPORT, steps=tuple(Step(str(n), b"1") for n in range(MAX_STEPS_CALL + 1))),
        ):
            with pytest.raises(ValueError, match=claim.id):
                await peer.commit(outcome(other, steps=steps(a=b"1")), wrong)
        assert await self.counts(flows) == {State.PROCESSING: 2}
        assert await self.steps(flows, other.id) == await self.steps(flows, claim.id) == {}
