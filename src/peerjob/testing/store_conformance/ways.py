"""Each way back into a queue keeps each property of an instance that decides how it is claimed."""

from __future__ import annotations

import pytest

from peerjob.model.durable import Wait
from peerjob.model.query import Query
from peerjob.model.record import Action, Claim
from peerjob.model.state import State
from peerjob.store.base import Store
from peerjob.testing.factories import InstanceOptions, Peer

from .durable_suite import HOUR_US, DurableSuite

WAYS = (
    "delayed",
    "run now",
    "retried",
    "retried later",
    "snoozed",
    "handed back",
    "left",
    "reaped",
    "suspended",
    "told",
)
OPTIONS: dict[str, InstanceOptions] = {
    "urgent": {"priority": -5},
    "behind": {"priority": 5, "tags": ("red", "ü")},
    "unique": {"priority": -1, "key": "only"},
    "suspect": {"priority": -2, "losses": 3, "max_crashes": 10},
    "gated": {"priority": -3, "limit_key": "a", "key_concurrency": 1},
    "gated suspect": {"priority": 3, "losses": 3, "max_crashes": 10, "limit_key": "ü", "key_concurrency": 2},
}


class WayRules(DurableSuite):
    """Rules of instances that were claimable, or become so, by another way than an enqueue."""

    @pytest.mark.parametrize("way", WAYS)
    @pytest.mark.parametrize("options", OPTIONS)
    async def test_an_instance_comes_back_as_it_was(self, flows: Store, way: str, options: str) -> None:
        peer = await self.join(flows)
        soon_us = round(2 * self.hint_wait * 1_000_000)
        delay_us = {"delayed": soon_us, "run now": HOUR_US}.get(way)
        given: InstanceOptions = {**OPTIONS[options], "delay_us": delay_us}
        new = self.make.instance(**given)
        await flows.enqueue([new])
        if way == "run now":
            await self.hurry(flows, new.id)
        elif way != "delayed":
            await self._come_back(flows, peer, way, soon_us)
        claim = await self._claimed(peer)
        assert (claim.id, claim.kind, claim.spec, claim.priority) == (new.id, "work", new.spec, new.priority)
        assert (claim.key, claim.tags) == (new.key, new.tags)
        assert claim.losses + claim.crashes >= (new.losses if way not in ("suspended", "told") else 0)
        for tag in new.tags:
            assert await self.found(flows, Query(tag=tag)) == [new.id]
        await peer.end(claim)
        assert await self.counts(flows) == {State.COMPLETED: 1}
        assert await self.check_all(flows) == 0

    async def _come_back(self, store: Store, peer: Peer, way: str, soon_us: int) -> None:
        """Claim the only instance, and let it become claimable again."""
        if way in ("left", "reaped"):
            peer = await (self.join if way == "left" else self.join_briefly)(store, "goes")
            await peer.take_one()
            if way == "left":
                await store.leave(peer.incarnation)
            else:
                await self.reap_all(await self.join(store, "reaper", ("other",)))
            return
        claim = await peer.take_one()
        match way:
            case "retried":
                await peer.end(claim, Action.RETRY)
            case "retried later":
                await peer.end(claim, Action.RETRY, delay_us=soon_us)
            case "snoozed":
                await peer.end(claim, Action.SNOOZE, delay_us=soon_us)
            case "handed back":
                await peer.end(claim, Action.HAND_BACK)
            case "suspended":
                await peer.suspend(claim, Wait(until_us=claim.at_us + soon_us))
            case _:
                await peer.suspend(claim, Wait(signals=("go",), until_us=claim.at_us + HOUR_US))
                assert await store.signal(claim.id, "go", b"")

    async def _claimed(self, peer: Peer) -> Claim:
        """The next claim, which time may still bring."""
        for _ in range(round(self.patience / self.hint_wait)):
            if claims := await peer.take():
                (claim,) = claims
                return claim
            await self.pass_time(self.hint_wait)
        raise AssertionError("no instance came back")
