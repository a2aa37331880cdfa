"""What members of a flow and steps of an instance cost, and instances that wait for their limit keys."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace

from peerjob.model.durable import MAX_NEEDS_CALL, MAX_SETTLED, Need, Step, Wait
from peerjob.model.record import MAX_BATCH, Claim, Held, NewChild
from peerjob.model.stored_limit import KindLimits
from peerjob.store.rules import FLOWS_LAYOUT
from peerjob.testing.factories import Peer

from .cells import Cell
from .engines import Site
from .place import Place, opened
from .verbs import Found, each

MADE = 200
"""Children of a call."""
LEAST = 500
"""Members, or steps, that a figure is the mean of: a small cell has several flows, or instances."""
ROUNDS = 50
"""Arrivals at limit keys, and ends of instances that hold one."""


async def flows(site: Site, cell: Cell) -> Found:
    """The cost of one member: to make it, to wait for it, to run it, and to let it go when its parent has ended."""
    async with opened(site, replace(cell, queued=10)) as place:
        store = place.store
        await store.require_layout(FLOWS_LAYOUT, "flows")
        peer = await _peer(place, "member")
        parents = await _running(place, peer, max(1, LEAST // cell.members))
        children = [[NewChild(instance=place.new("member")) for _ in range(cell.members)] for _ in parents]
        again: list[Claim] = []

        async def make() -> None:
            for parent, some in zip(parents, children, strict=True):
                for at in range(0, len(some), MADE):
                    await store.spawn(peer.incarnation, Held(parent.id, parent.fence), some[at : at + MADE])

        async def wait() -> None:
            for parent, some in zip(parents, children, strict=True):
                needs = [Need(child.instance.id) for child in some]
                parts = [tuple(needs[at : at + MAX_NEEDS_CALL]) for at in range(0, len(needs), MAX_NEEDS_CALL)]
                for part in parts[:-1]:
                    await peer.report(parent, needs=part)
                await peer.suspend(parent, Wait(needs=True), needs=parts[-1])

        async def run() -> None:
            ids = {parent.id for parent in parents}
            while len(again) < len(parents):
                claims = await place.take(peer, MAX_SETTLED)
                again.extend(claim for claim in claims if claim.id in ids)
                await place.end(peer, [claim for claim in claims if claim.id not in ids])

        async def let_go() -> None:
            await place.end(peer, again)
            while await store.settle(MAX_SETTLED):
                pass

        return await _metered(site, len(parents) * cell.members, make=make, wait=wait, run=run, let_go=let_go)


async def steps(site: Site, cell: Cell) -> Found:
    """The cost of one step of an instance, each with a commit of its own, and of one when all are read."""
    async with opened(site, replace(cell, queued=10)) as place:
        await place.store.require_layout(FLOWS_LAYOUT, "steps")
        peer = await _peer(place, "stepped")
        claims = await _running(place, peer, max(1, LEAST // cell.steps))

        async def step() -> None:
            for claim in claims:
                for number in range(cell.steps):
                    await peer.report(claim, steps=(Step(f"step {number}", b"x" * 50),))

        async def read() -> None:
            for claim in claims:
                page = await place.store.steps(claim.id)
                while page.cursor is not None:
                    page = await place.store.steps(claim.id, cursor=page.cursor)

        return await _metered(site, len(claims) * cell.steps, step=step, read=read)


async def gates(site: Site, cell: Cell) -> Found:
    """The cost of an instance that comes to its key and waits, and of an end that lets the next one pass."""
    async with opened(site, replace(cell, queued=10)) as place:
        await place.store.publish_limits([KindLimits(kind="gated", key_concurrency=1)])
        peer = await _peer(place, "gated")
        numbers = range(cell.keys + cell.gated)
        for at in range(0, len(numbers), MAX_BATCH):
            await _come(place, numbers[at : at + MAX_BATCH])

        async def come() -> None:
            for number in range(ROUNDS):
                await _come(place, [number])

        async def end() -> None:
            for _ in range(ROUNDS):
                await place.end(peer, await place.take(peer, 1))

        return await _metered(site, ROUNDS, come=come, end=end)


async def _come(place: Place, numbers: Sequence[int]) -> None:
    await place.store.enqueue(
        [
            place.make.instance(kind="gated", limit_key=f"key {number % place.cell.keys}", key_concurrency=1)
            for number in numbers
        ]
    )


async def _peer(place: Place, kind: str) -> Peer:
    return await Peer(store=place.store, info=place.make.node("durable", (kind,)), make=place.make).join()


async def _running(place: Place, peer: Peer, count: int) -> list[Claim]:
    await place.store.enqueue([place.new(peer.info.kinds[0]) for _ in range(count)])
    claims: list[Claim] = []
    while len(claims) < count:
        claims += await place.take(peer, count - len(claims))
    return claims


async def _metered(site: Site, count: int, **phases: Callable[[], Awaitable[None]]) -> Found:
    """The cost of one of so many, by phase."""
    found: Found = {}
    for phase, work in phases.items():
        before = site.read()
        await work()
        found[phase] = each(site.read() - before, count)
    return found
