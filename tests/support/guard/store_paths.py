"""The paths through a store, each from the same prepared state, and what the server did on each."""

from __future__ import annotations

import functools
import operator
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from uuid import uuid4

from peerjob.model.clock import SystemClock
from peerjob.model.firing import Candidate
from peerjob.model.record import StoreLimits
from peerjob.store.base import Elections, Store
from peerjob.store.drivers import open_store
from peerjob.testing.factories import LONG_TTL_US, Factory, Peer, outcome

from .meters import Counts, Meter

BATCH = 100
"""Instances of a batch."""
TIMES = 4
"""How often each path is measured; the least counts are taken."""


@dataclass(kw_only=True)
class Place:
    """A namespace with two peers: one works, the other only schedules."""

    store: Store
    elections: Elections
    make: Factory
    worker: Peer
    client: Peer

    async def prepare(self) -> None:
        """Have a new worker that waits, an empty queue, and nothing that a first call must do."""
        await self.worker.close()
        await self.store.leave(self.worker.incarnation)
        self.worker = await Peer(store=self.store, info=self.make.node("worker"), make=self.make).join()
        while held := await self.worker.take(BATCH):
            await self.worker.commit(*map(outcome, held))
        await self.worker.renew()

    async def close(self) -> None:
        """Close the connection of the last worker."""
        await self.worker.close()

    async def occupy(self) -> None:
        """Have a worker that does not wait."""
        await self.store.enqueue(self.make.instances(1))
        await self.worker.take()


async def store_paths(url: str, meter: Meter, *names: str) -> dict[str, Counts]:
    """The least counts of some paths (default: all), by name: now and then a call also does other work that is due."""
    async with AsyncExitStack() as cleanup:
        place = await _place(url, cleanup)
        return {name: await _least(place, PATHS[name], meter) for name in names or PATHS}


async def _least(place: Place, path: Callable[[Place], Awaitable[Measured]], meter: Meter) -> Counts:
    found: list[Counts] = []
    for _ in range(TIMES):
        await place.prepare()
        measured = await path(place)
        before = meter.read()
        await measured()
        found.append(meter.read() - before)
    return functools.reduce(operator.and_, found)


async def _place(url: str, cleanup: AsyncExitStack) -> Place:
    clock = SystemClock()
    store = open_store(url, namespace=f"guard-{uuid4().hex[:12]}", clock=clock, limits=StoreLimits())
    cleanup.push_async_callback(store.close)
    await store.open()
    make = Factory(clock)
    worker, client = [Peer(store=store, info=make.node(name), make=make) for name in ("worker", "client")]
    elections = store.elections()
    cleanup.push_async_callback(elections.close)
    await elections.open()
    for peer in (worker, client):
        await peer.join()
    place = Place(store=store, elections=elections, make=make, worker=worker, client=client)
    cleanup.push_async_callback(place.close)
    return place


Measured = Callable[[], Awaitable[object]]


async def _enqueue_one(place: Place) -> Measured:
    await place.occupy()
    await place.store.enqueue(place.make.instances(1))
    one = place.make.instances(1)
    return lambda: place.store.enqueue(one)


async def _enqueue_to_idle(place: Place) -> Measured:
    one = place.make.instances(1)
    return lambda: place.store.enqueue(one)


async def _enqueue_watched(place: Place) -> Measured:
    await place.occupy()
    await place.store.watch_changes(place.client.incarnation, 60)
    one = place.make.instances(1)
    return lambda: place.store.enqueue(one)


async def _enqueue_bulk(place: Place) -> Measured:
    await place.occupy()
    await place.store.enqueue(place.make.instances(1))
    batch = place.make.instances(BATCH)
    return lambda: place.store.enqueue(batch)


async def _drain(place: Place) -> Measured:
    """A turn of a full backlog: it commits a batch and claims the next one."""
    await place.store.enqueue(place.make.instances(3 * BATCH))
    held = await place.worker.take(BATCH)
    outcomes, want, request = [outcome(claim) for claim in held], place.worker.want(BATCH), place.make.request()
    return lambda: place.store.turn(place.worker.incarnation, outcomes, want, request=request)


async def _claim_one(place: Place) -> Measured:
    await place.store.enqueue(place.make.instances(1))
    return lambda: place.worker.take(10)


async def _commit_one(place: Place) -> Measured:
    """The turn that ends the only instance, and finds no other."""
    await place.store.enqueue(place.make.instances(1))
    claim = await place.worker.take_one()
    want, request = place.worker.want(10), place.make.request()
    return lambda: place.store.turn(place.worker.incarnation, [outcome(claim)], want, request=request)


async def _commit_watched(place: Place) -> Measured:
    measured = await _commit_one(place)
    await place.store.watch_changes(place.client.incarnation, 60)
    return measured


async def _renew(place: Place) -> Measured:
    await place.worker.renew()
    return place.worker.renew


async def _reap(place: Place) -> Measured:
    return lambda: place.store.reap(100, reaper=place.worker.incarnation)


async def _lead(place: Place) -> Measured:
    """A leader keeps its term."""
    candidate = Candidate(incarnation=place.worker.incarnation, name=place.worker.name)
    await place.elections.campaign(candidate, ttl_us=LONG_TTL_US)

    async def campaign() -> None:
        await place.elections.campaign(candidate, ttl_us=LONG_TTL_US)

    return campaign


async def _register_watch(place: Place) -> Measured:
    await place.store.watch_changes(place.client.incarnation, 60)
    return lambda: place.store.watch_changes(place.client.incarnation, 60)


async def _wait_for_result(place: Place) -> Measured:
    """What a caller of `result()` asks."""
    (one,) = place.make.instances(1)
    await place.store.enqueue([one])
    return lambda: place.store.watch_final(place.client.incarnation, [one.id])


async def _lone(place: Place) -> Measured:
    """An instance that comes alone to a node: its own caller schedules it, and waits for its end."""
    store, worker, make = place.store, place.worker, place.make
    (one,) = make.instances(1)
    await store.next_hints(worker.incarnation, 0)

    async def live() -> None:
        await store.enqueue([one])
        assert [hint.what for hint in await store.next_hints(worker.incarnation, 5)] == ["work"]
        _, claimed = await store.turn(worker.incarnation, [], worker.want(10), request=make.request())
        await store.watch_final(worker.incarnation, [one.id])
        await store.turn(worker.incarnation, [*map(outcome, claimed.claims)], worker.want(10), request=make.request())
        assert [hint.id for hint in await store.next_hints(worker.incarnation, 5)] == [one.id]
        await store.get_ended([one.id])

    return live


PATHS: Mapping[str, Callable[[Place], Awaitable[Measured]]] = {
    "enqueue one": _enqueue_one,
    "enqueue one, a node is idle": _enqueue_to_idle,
    f"enqueue {BATCH} together": _enqueue_bulk,
    f"commit {BATCH} and claim {BATCH}": _drain,
    "claim one": _claim_one,
    "commit one and claim none": _commit_one,
    "wait for a result": _wait_for_result,
    "one job of an own caller, with its result": _lone,
    "renew a lease": _renew,
    "look for dead nodes": _reap,
    "keep the leadership": _lead,
    # from here on a client watches
    "watch": _register_watch,
    "enqueue one, a client watches": _enqueue_watched,
    "commit one, a client watches": _commit_watched,
}
