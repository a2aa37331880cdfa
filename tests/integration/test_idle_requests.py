"""How many requests idle nodes send to the server of each engine: a guard against needless calls."""

import asyncio
import sys
from collections import Counter
from contextlib import AsyncExitStack
from pathlib import Path
from uuid import uuid4

import pytest

from peerjob import Job, Node
from peerjob.cluster import retention
from peerjob.cluster.lease import INTERVAL
from peerjob.cluster.retention import FOLLOWER_PERIOD, PERIOD
from peerjob.model.clock import SystemClock
from peerjob.model.record import StoreLimits
from peerjob.node.observe.observer import Observer
from peerjob.store.drivers import open_store
from support.servers import needed
from support.waiting import until

BENCH = str(Path(__file__).parents[2] / "bench")
# only while the modules load: the benchmark has modules with names that others use, too
sys.path.insert(0, BENCH)
from scale.cells import ENGINES  # noqa: E402
from scale.engines import Site, site_of  # noqa: E402
from scale.rates import as_rate, calls_of_expire  # noqa: E402

sys.path.remove(BENCH)

FOLLOWERS = 5
KINDS = 1_700
"""Kinds of each node. No other node runs them, so that the namespace has six times as many."""
SETTLING, COUNTED = 2, 9
"""Renewals of a node before its requests are counted, and while they are counted."""
MOST_OF_TURN = {"etcd": 3}
"""Most requests of a turn of an idle node; 1 on the other engines."""
MOST_OF_LEADER, MOST_OF_FOLLOWER = 5.0, 2.0
"""The goals of docs/scaling.md, in requests a second."""


async def idle() -> None: ...


class Calls(Observer):
    """Counts the calls of the store of one node, by verb."""

    def __init__(self) -> None:
        self.verbs: Counter[str] = Counter()

    def store_called(self, verb: str, seconds: float) -> None:
        self.verbs[verb] += 1


class Idlers:
    """Idle nodes on one server."""

    def __init__(self, site: Site, cleanup: AsyncExitStack) -> None:
        self._site = site
        self._cleanup = cleanup
        self._namespace = f"idle-{uuid4().hex[:12]}"
        self._calls: list[Calls] = []

    async def start(self) -> Node:
        first = KINDS * len(self._calls)
        jobs = [Job(f"idle.kind_{number}", idle) for number in range(first, first + KINDS)]
        node = Node(self._site.url, jobs=jobs, workers=2, namespace=self._namespace)
        self._calls.append(Calls())
        node.observe(self._calls[-1])
        await self._cleanup.enter_async_context(node)
        return node

    def _requests(self) -> float:
        """On SQLite, a call of the store is a request, as there is no server."""
        calls = sum(sum(one.verbs.values()) for one in self._calls)
        return calls if self._site.engine == "sqlite" else self._site.read().requests

    async def _renewed(self, times: int) -> None:
        wanted = [one.verbs["renew"] + times for one in self._calls]
        await until(lambda: all(one.verbs["renew"] >= want for one, want in zip(self._calls, wanted, strict=True)))

    async def rate(self) -> float:
        """Requests of all nodes in a second, without those of `expire`, which `of_expire` has.

        Renewals tell the time, so a machine that stalls changes nothing. A node asks for work again only after its
        event loop or the server stood still, so these requests do not count.
        """
        await self._renewed(SETTLING)
        renewals, turns, requests = self._of("renew"), self._of("turn"), self._requests()
        await self._renewed(COUNTED)
        seconds = (self._of("renew") - renewals) * INTERVAL / len(self._calls)
        assert not self._of("expire")
        of_turns = (self._of("turn") - turns) * MOST_OF_TURN.get(self._site.engine, 1)
        return (self._requests() - requests - of_turns) / seconds

    async def of_expire(self) -> tuple[float, float]:
        """Requests a second for `expire`: of the leader, and of a follower."""
        store = open_store(self._site.url, namespace=self._namespace, clock=SystemClock(), limits=StoreLimits())
        self._cleanup.push_async_callback(store.close)
        await store.open()
        expires = await calls_of_expire(self._site, store)
        leader, follower = (as_rate(self._site, *expires, period) for period in (PERIOD, FOLLOWER_PERIOD))
        return leader["requests"], follower["requests"]

    def _of(self, verb: str) -> int:
        return sum(one.verbs[verb] for one in self._calls)


async def rate(site: Site, followers: int) -> tuple[float, float, float]:
    """Requests a second of an idle leader with so many idle followers, all just started; what `expire` adds to each."""
    async with AsyncExitStack() as cleanup:
        idlers = Idlers(site, cleanup)
        node = await idlers.start()
        while await node.leader() is None:  # noqa: ASYNC110  # the test has no part of the node to wait for
            await asyncio.sleep(0.05)
        for _ in range(followers):
            await idlers.start()
            await asyncio.sleep(INTERVAL / followers)  # nodes that start together renew together
        return await idlers.rate(), *await idlers.of_expire()


async def rates(site: Site) -> tuple[float, float]:
    """Requests a second of an idle leader, and of an idle follower."""
    leader, _, _ = await rate(site, 0)
    nodes, of_leader, of_follower = await rate(site, FOLLOWERS)
    return leader + of_leader, (nodes - leader) / FOLLOWERS + of_follower


@pytest.mark.matrix("counts requests for a minute; the unit tests of idle nodes count them on virtual time")
@pytest.mark.parametrize("engine", ENGINES)
async def test_idle_nodes_send_few_requests(engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # a window of seconds has no call of `expire`, or too many; `of_expire` counts its requests
    monkeypatch.setattr(retention, "PERIOD", 3_600.0)
    with needed(), site_of(engine) as site:
        leader, follower = await rates(site)
    assert leader <= MOST_OF_LEADER
    assert follower <= MOST_OF_FOLLOWER
