"""A suspended instance leaves the place of its key, and comes to the gate again when its wait is over."""

from __future__ import annotations

import pytest

from peerjob.model.durable import Wait
from peerjob.model.record import Ack
from peerjob.store.base import Store

from .durable_suite import APPROVAL, DurableSuite
from .limit_suite import LimitSuite
from .suite import ids_of


class KeyWaitRules(DurableSuite, LimitSuite):
    """Rules of waits of instances with a limit key."""

    @pytest.mark.parametrize("wait", [APPROVAL, Wait(signals=("approval",), until_us=4_000_000_000_000_000)])
    async def test_it_leaves_the_place_of_its_key(self, flows: Store, wait: Wait) -> None:
        first, second = self.keyed(2)
        await flows.enqueue([first, second])
        peer, sleeper = await self.join(flows), await self.join(flows, "sleeper")
        claim = await peer.take_one()
        await sleeper.claim()
        await self.hints(sleeper)
        assert await peer.suspend(claim, wait) is Ack.DONE
        assert await self.woken([sleeper], 1) == ["sleeper"]
        assert await self.counts_of(flows) == (1, 0)
        other = await sleeper.take_one()
        assert other.id == second.id
        await flows.signal(first.id, "approval", b"yes")
        assert await self.counts_of(flows) == (1, 1)
        assert await peer.take() == ()
        await sleeper.end(other)
        assert ids_of(await peer.take()) == [first.id]

    async def test_it_comes_to_the_gate_of_its_key_when_its_time_has_come(self, flows: Store) -> None:
        first, second = self.keyed(2)
        await flows.enqueue([first, second])
        peer = await self.join(flows)
        claim = await peer.take_one()
        await peer.suspend(claim, Wait(until_us=claim.at_us + round(self.hint_wait * 1_000_000)))
        other = await peer.take_one()
        await self.pass_time(2 * self.hint_wait)
        assert await peer.take() == ()
        assert await self.counts_of(flows) == (1, 1)
        await peer.end(other)
        assert ids_of(await peer.take()) == [first.id]
