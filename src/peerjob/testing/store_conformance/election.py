"""One incarnation leads as long as it campaigns."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

import pytest

from peerjob.model.errors import StoreUnavailableError
from peerjob.model.firing import Candidate, Leader
from peerjob.store.base import Elections, Store
from peerjob.testing.factories import Peer

from .suite import Result, StoreSuite

TTL_US = 600_000_000


class ElectionRules(StoreSuite):
    """Rules of `elections`."""

    @pytest.fixture
    async def elections(self, store: Store) -> Elections:
        """An open client."""
        return await self.election(store)

    async def election(self, store: Store) -> Elections:
        """Another client, closed after the test."""
        elections = store.elections()
        await elections.open()
        self._cleanup.push_async_callback(elections.close)
        return elections

    def candidate(self, name: str = "node") -> Candidate:
        """A new candidate; it resigns after the test."""
        return Candidate(incarnation=self.make.id(), name=name)

    async def elected(
        self, elections: Elections, candidate: Candidate | None = None, *, ttl_us: int = TTL_US
    ) -> Leader:
        """A candidate that must win; it resigns after the test."""
        first = candidate or self.candidate()
        leader = await self.campaign(elections, first, ttl_us=ttl_us)
        assert leader.incarnation == first.incarnation
        self._cleanup.push_async_callback(self.resign, elections, first)
        return leader

    async def campaign(self, elections: Elections, candidate: Candidate, *, ttl_us: int) -> Leader:
        """Campaign until there is an answer: with a short ttl, a call may time out."""
        return await self._answered(lambda: elections.campaign(candidate, ttl_us=ttl_us))

    async def resign(self, elections: Elections, candidate: Candidate) -> None:
        """Resign until there is an answer: the ttl of the last campaign is the limit of this call, too."""
        await self._answered(lambda: elections.resign(candidate.incarnation))

    async def _answered(self, call: Callable[[], Awaitable[Result]]) -> Result:
        for _ in range(200):
            with contextlib.suppress(StoreUnavailableError):
                return await call()
        raise AssertionError("no call was answered in time")

    async def test_at_first_there_is_no_leader(self, elections: Elections) -> None:
        assert await elections.leader() is None
        await elections.resign(self.make.id())
        assert await elections.leader() is None

    async def test_the_first_candidate_leads(self, store: Store, elections: Elections) -> None:
        first = self.candidate("one")
        leader = await self.elected(elections, first)
        assert (leader.incarnation, leader.name) == (first.incarnation, "one")
        assert leader.term.coordinator
        assert leader.term.number > 0
        other = await self.election(store)
        assert await other.leader() == leader
        for _ in range(2):
            assert await other.campaign(self.candidate("two"), ttl_us=TTL_US) == leader

    async def test_a_leader_that_campaigns_again_keeps_its_term(self, elections: Elections) -> None:
        first = self.candidate()
        leader = await self.elected(elections, first)
        for _ in range(3):
            assert await elections.campaign(first, ttl_us=TTL_US) == leader
        assert await elections.leader() == leader

    async def test_a_term_begins_at_the_time_of_its_leader(self, store: Store, elections: Elections) -> None:
        before_us = self.clock.time_us()
        leader = await self.elected(elections)
        after_us = self.clock.time_us()
        assert before_us <= leader.since_us <= after_us
        assert await (await self.election(store)).leader() == leader

    async def test_of_many_at_once_one_wins(self, store: Store) -> None:
        clients = [await self.election(store) for _ in range(5)]
        for _ in range(5):
            candidates = [self.candidate(str(number)) for number in range(5)]
            answers = await self.in_time(
                asyncio.gather(
                    *(
                        client.campaign(candidate, ttl_us=TTL_US)
                        for client, candidate in zip(clients, candidates, strict=True)
                    )
                )
            )
            (leader,) = set(map(str, answers))
            assert leader == str(await clients[0].leader())
            await clients[3].resign(answers[0].incarnation)

    async def test_a_resignation_frees_the_leadership(self, store: Store, elections: Elections) -> None:
        candidate, other = self.candidate("one"), await self.election(store)
        first = await self.elected(elections, candidate)
        await elections.resign(candidate.incarnation)
        assert await other.leader() is None
        second = await self.elected(other, self.candidate("two"))
        assert second.term.number > first.term.number
        assert second.term.coordinator == first.term.coordinator
        assert await elections.leader() == second

    async def test_a_term_that_the_store_refused_is_not_followed_by_one_that_it_may_refuse(
        self, store: Store, elections: Elections
    ) -> None:
        first, other = self.candidate("one"), await self.election(store)
        refused = (await self.elected(elections, first)).term
        await elections.resign(first.incarnation, refused=refused)
        anew = (await self.elected(other, self.candidate("two"))).term
        assert anew.coordinator != refused.coordinator or anew.number > refused.number
        await elections.resign(first.incarnation, refused=refused)
        leader = await other.leader()
        assert leader is not None
        assert leader.term == anew

    async def test_a_resignation_that_names_another_term_keeps_the_coordinator(self, elections: Elections) -> None:
        """The store refused an earlier term of the node. Terms that follow each other stop its late fires."""
        first = self.candidate("one")
        earlier = (await self.elected(elections, first)).term
        await elections.resign(first.incarnation)
        term = (await self.elected(elections, first)).term
        await elections.resign(first.incarnation, refused=earlier)
        after = (await self.elected(elections, self.candidate("two"))).term
        assert after.coordinator == term.coordinator == earlier.coordinator
        assert after.number > term.number

    async def test_a_term_is_never_taken_twice(self, elections: Elections) -> None:
        first = self.candidate()
        terms: list[int] = []
        for _ in range(5):
            terms.append((await self.elected(elections, first)).term.number)
            await elections.resign(first.incarnation)
        assert terms == sorted(set(terms))

    async def test_a_candidate_resigns_only_for_itself(self, store: Store, elections: Elections) -> None:
        leader = await self.elected(elections)
        other = await self.election(store)
        await other.resign(self.make.id())
        assert await elections.leader() == leader
        assert await other.leader() == leader

    async def test_a_late_resignation_ends_no_other_term(self, elections: Elections) -> None:
        first = self.candidate("one")
        await self.elected(elections, first)
        await elections.resign(first.incarnation)
        leader = await self.elected(elections, self.candidate("two"))
        await elections.resign(first.incarnation)
        assert await elections.leader() == leader

    async def test_a_silent_leader_loses_the_leadership(self, store: Store, elections: Elections) -> None:
        ttl_us = round(self.short_ttl * 1_000_000)
        candidate, two = self.candidate("one"), self.candidate("two")
        first = await self.elected(elections, candidate, ttl_us=ttl_us)
        await self.lapse()
        other = await self.election(store)
        second = await self._soon(other, two)
        assert second.term.number > first.term.number
        assert await elections.campaign(candidate, ttl_us=TTL_US) == second

    async def test_campaigning_keeps_the_leadership(self, store: Store, elections: Elections) -> None:
        ttl = max(self.short_ttl, 0.5)
        first, other = self.candidate("one"), await self.election(store)
        asked, kept = self.clock.elapsed(), 0
        leader = await self.elected(elections, first, ttl_us=round(ttl * 1_000_000))
        while kept < 10:
            await self.pass_time(ttl / 4)
            asking = self.clock.elapsed()
            now = await self.campaign(elections, first, ttl_us=round(ttl * 1_000_000))
            seen = await other.leader()
            if self.clock.elapsed() - asked < ttl:
                assert now == seen == leader
                kept += 1
            # a pause of the machine or the server outlasted the leadership, so another term is correct: count anew
            else:
                leader, kept = now, 0
            asked = asking

    async def test_a_leader_that_returns_in_time_keeps_its_term(self, store: Store, elections: Elections) -> None:
        """A client that lost its connection campaigns over a new connection."""
        first = self.candidate()
        leader = await self.elected(elections, first)
        assert await (await self.election(store)).campaign(first, ttl_us=TTL_US) == leader

    async def test_a_resignation_is_heard(self, store: Store, elections: Elections) -> None:
        """Candidates learn of a resignation from `changed`, or from a hint that the store sends to every node."""
        first, other = self.candidate(), await self.election(store)
        await self.elected(elections, first)
        peer = await self.join(store)
        await self.hints(peer)
        while await self.in_time(other.changed(self.hint_wait)):
            pass
        await elections.resign(first.incarnation)
        assert await self._heard(other, peer)

    async def test_the_end_of_a_silent_leader_is_heard(self, store: Store, elections: Elections) -> None:
        """A candidate waits for it without a question in between."""
        first, two, other = self.candidate("one"), self.candidate("two"), await self.election(store)
        await self._meets_briefly(other, two, elections, first)
        began = self.clock.elapsed()
        while self.clock.elapsed() - began < self.patience:
            await self.in_time(other.changed(self.patience))
            leader = await other.campaign(two, ttl_us=TTL_US)
            if leader.incarnation == two.incarnation:
                self._cleanup.push_async_callback(self.resign, other, two)
                break
        assert self.clock.elapsed() - began < self.patience / 2

    async def test_a_node_that_may_not_lead_waits_for_no_old_end(self, store: Store, elections: Elections) -> None:
        """It asks who leads. The end of the leadership that its last campaign met says nothing any more."""
        first, two, other = self.candidate("one"), self.candidate("two"), await self.election(store)
        await self._meets_briefly(other, two, elections, first)
        await self.lapse()
        leader = await self._soon(elections, first)
        changes = 0
        while await self.in_time(other.changed(0.5)):
            changes += 1
            assert changes < 5
            assert await other.leader() == leader

    async def test_namespaces_have_leaders_of_their_own(self, store: Store, elections: Elections) -> None:
        other = await self.election(await self.open(namespace=f"{self.namespace}-b"))
        first = await self.elected(elections, self.candidate("one"))
        two = await self.elected(other, self.candidate("two"))
        assert (await elections.leader(), await other.leader()) == (first, two)

    async def _meets_briefly(self, other: Elections, two: Candidate, elections: Elections, first: Candidate) -> None:
        """Let a candidate meet another one that leads for a short time.

        If the machine paused meanwhile, that time was over before they met: then begin again.
        """
        while True:
            await self.elected(elections, first, ttl_us=round(self.short_ttl * 1_000_000))
            met = await other.campaign(two, ttl_us=TTL_US)
            if met.incarnation == first.incarnation:
                return
            await self.resign(other, two)

    async def _heard(self, elections: Elections, peer: Peer) -> bool:
        """Whether a client or a peer hears of a change of the leadership."""
        for _ in range(round(self.patience / self.hint_wait)):
            if await self.in_time(elections.changed(self.hint_wait)):
                return True
            if any(hint.what == "leader" for hint in await self.hints(peer)):
                return True
        return False

    async def _soon(self, elections: Elections, candidate: Candidate) -> Leader:
        """Campaign until the expired leadership is free and the candidate has it."""
        for _ in range(50):
            leader = await elections.campaign(candidate, ttl_us=TTL_US)
            if leader.incarnation == candidate.incarnation:
                self._cleanup.push_async_callback(self.resign, elections, candidate)
                return leader
            await self.pass_time(self.short_ttl / 5)
        raise AssertionError("the leadership never lapsed")
