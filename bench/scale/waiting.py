"""How many wake-ups an enqueue and an end cause, while idle nodes wait for work and clients for their results."""

import asyncio
import time
from collections import Counter
from contextlib import AsyncExitStack

from peerjob.model.record import Claim
from peerjob.store.base import Store
from peerjob.testing.factories import Peer

from .cells import Cell
from .engines import Reading, Site
from .place import BATCH, Place, fresh_store, opened
from .verbs import Found

ENQUEUED = 40
CLIENTS_OF_A_STORE = 50
PATIENCE = 20.0


class Ears:
    """Listens for the hints of some peers, and counts them by what they say."""

    def __init__(self) -> None:
        self.heard: Counter[str] = Counter()
        self.last = 0.0

    async def listen(self, peer: Peer, place: Place, *, works: bool) -> None:
        while True:
            for hint in await peer.store.next_hints(peer.incarnation, 5.0):
                self.heard[hint.what] += 1
                self.last = time.monotonic()
                if works and hint.what == "work":
                    while claims := await place.take(peer):
                        await place.end(peer, claims)


async def waiting(site: Site, cell: Cell) -> Found:
    """Wake-ups for each enqueue and for each end, and what both cost while the clients wait."""
    async with AsyncExitStack() as cleanup:
        place = await cleanup.enter_async_context(opened(site, cell))
        nodes = [await _peer(place, f"idle-{number}", ("hinted",)) for number in range(cell.nodes)]
        clients = await _clients(place, cleanup)
        ears = Ears()
        tasks = [asyncio.create_task(ears.listen(peer, place, works=True)) for peer in nodes]
        tasks += [asyncio.create_task(ears.listen(peer, place, works=False)) for peer in clients]
        cleanup.push_async_callback(_stopped, tasks)
        for peer in nodes:
            assert not await place.take(peer)  # idle from now on
        await asyncio.sleep(1.0 + len(tasks) / 500)
        found = await _enqueues(place, ears)
        return found | await _ends(place, clients, ears)


async def _enqueues(place: Place, ears: Ears) -> Found:
    spent = Reading()
    ears.heard.clear()
    for _ in range(ENQUEUED):
        new = place.new("hinted")
        before = place.site.read()
        await place.store.enqueue([new])
        spent = place.site.read() - before if spent == Reading() else _sum(spent, place.site.read() - before)
        (record,) = await place.store.get([new.id])
        until = time.monotonic() + PATIENCE
        while record is not None and not record.state.is_final and time.monotonic() < until:
            await asyncio.sleep(0.01)
            (record,) = await place.store.get([new.id])
        await asyncio.sleep(0.01)
    return {
        "wakeups_per_enqueue": ears.heard["work"] / ENQUEUED,
        "enqueue": {
            "operations": spent.operations / ENQUEUED,
            "cpu_us": 1000 * spent.cpu_ms / ENQUEUED,
        },
    }


def _sum(one: Reading, other: Reading) -> Reading:
    return one - (Reading() - other)


async def _ends(place: Place, clients: list[Peer], ears: Ears) -> Found:
    """Each client waits for an instance of its own; the worker ends all of them."""
    news = [place.new("waited") for _ in clients]
    runner = await _peer(place, "runner", ("waited",))
    for start in range(0, len(news), 500):
        await place.store.enqueue(news[start : start + 500])
    before = place.site.read()
    for peer, new in zip(clients, news, strict=True):
        await peer.store.watch_final(peer.incarnation, [new.id])
    watched = place.site.read() - before
    held: list[tuple[Claim, ...]] = []
    while claims := await place.take(runner):
        held.append(claims)
    ears.heard.clear()
    before = place.site.read()
    for claims in held:
        await place.end(runner, claims)
    until = time.monotonic() + PATIENCE
    while ears.heard["final"] < len(clients) and time.monotonic() < until:  # noqa: ASYNC110  # the listeners only count
        await asyncio.sleep(0.02)
    ended = place.site.read() - before
    return {
        "wakeups_per_end": ears.heard["final"] / len(clients),
        "watch": {"operations": watched.operations / len(clients), "cpu_us": 1000 * watched.cpu_ms / len(clients)},
        "end": {"operations": ended.operations / len(clients), "cpu_us": 1000 * ended.cpu_ms / len(clients)},
        "batch": BATCH,
    }


async def _peer(place: Place, name: str, kinds: tuple[str, ...], store: Store | None = None) -> Peer:
    return await Peer(store=store or place.store, info=place.make.node(name, kinds), make=place.make).join()


async def _clients(place: Place, cleanup: AsyncExitStack) -> list[Peer]:
    found: list[Peer] = []
    for start in range(0, place.cell.waiting, CLIENTS_OF_A_STORE):
        store, _ = fresh_store(place.site, place.namespace)
        cleanup.push_async_callback(store.close)
        await store.open()
        numbers = range(start, min(start + CLIENTS_OF_A_STORE, place.cell.waiting))
        found += [await _peer(place, f"client-{number}", (), store) for number in numbers]
    return found


async def _stopped(tasks: list[asyncio.Task[None]]) -> None:
    for task in tasks:
        if task.done() and not task.cancelled() and (error := task.exception()):
            raise error
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
