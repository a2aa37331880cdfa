"""Random programs about limits on the key-value engine: several calls at once, some of which are cut off or repeated.

After each step, the places of all instances are read from the keys of the namespace.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import Any

from peerjob.model.query import Filter
from peerjob.model.record import Action, Claim, NewInstance, Outcome, Record, StoreLimits
from peerjob.model.state import State
from peerjob.model.stored_limit import KindLimits, LimitNumbers, LimitSetting, SharedLimit
from peerjob.store.kv.format.keys import below
from peerjob.store.kv.format.limit_rows import decode_key_permit
from peerjob.store.kv.store import KVStore
from peerjob.testing.factories import LONG_TTL_US, Factory, Peer, outcome

from .etcd_model import EtcdData
from .oracle.clocks import SteppedClock
from .oracle.engines import Yielding

GATED, BOTH, SHARED = KINDS = ("gated", "both", "shared")
KEYS = ("x", "y")
SHORT_US = 1_000_000
STEPS = 25
CUT = 0.2
"""The share of calls that are cut off."""
ENDS = (
    *[Action.COMPLETE] * 5,
    *[Action.RETRY] * 2,
    *(Action.TERMINATE, Action.SNOOZE, Action.HAND_BACK, Action.RELEASE),
)
QUEUES = {"ready", "due", "wait"}

Call = Callable[[], Awaitable[object]]


def play(seed: int) -> list[str]:
    """Play the program of a seed; the answer is what is wrong after the first step that breaks an invariant."""
    return asyncio.run(LimitProgram(seed).run())


class LimitProgram:
    """One program on two stores of a namespace in memory, with three nodes."""

    def __init__(self, seed: int) -> None:
        self._drawn = random.Random(seed)
        self._clock = SteppedClock(seed=seed)
        self._make = Factory(self._clock)
        data = EtcdData()
        self._stores = [
            KVStore(
                Yielding(data, self._clock),
                url="memory://",
                namespace="n",
                clock=self._clock,
                limits=StoreLimits(),
                local=data.objects,
            )
            for _ in range(2)
        ]
        self._peers: list[Peer] = []
        self._held: dict[str, list[Claim]] = {}
        """Incarnation → its claims that it has not ended."""
        self._ids: list[str] = []
        self._concurrency: dict[str, int] = {}
        """The concurrency that the next instances of a kind bring."""
        self._repeats: list[Call] = []
        """The last calls, to send them again."""

    async def run(self) -> list[str]:
        for store in self._stores:
            await store.open()
        await self._publish()
        for number in range(3):
            await self._join(f"node-{number}")
        for step in range(STEPS):
            told, is_cut = await self._step()
            await self._pass(self._drawn.choice((0.001, 0.001, 0.001, 0.6, 2.5)))
            if is_cut:
                await self._check_limits()
            if wrong := await self._wrong():
                return [f"step {step}: {told}", *wrong]
        return await self._end()

    async def _step(self) -> tuple[str, bool]:
        """Make some calls at once; returns them in words, and whether one was cut off."""
        names: list[str] = []
        tasks: list[asyncio.Future[Any]] = []
        for _ in range(self._drawn.choice((1, 2, 2, 3, 4))):
            call = self._drawn.choice(self._calls())
            tasks.append(asyncio.ensure_future(call()))
            names.append(call.__name__)
            if self._drawn.random() < CUT:
                tasks.append(asyncio.ensure_future(cut_off(tasks[-1], self._drawn.randrange(1, 30))))
                names[-1] += " (cut off)"
        for done in await asyncio.gather(*tasks, return_exceptions=True):
            if isinstance(done, Exception):
                raise done
        return ", ".join(names), len(tasks) > len(names)

    async def _pass(self, seconds: float) -> None:
        self._clock.now_us += round(seconds * 1_000_000)
        for _ in range(30):
            await asyncio.sleep(0)  # watches read what they get, and hints arrive

    async def _join(self, name: str) -> None:
        peer = Peer(store=self._store(), info=self._make.node(name, KINDS), make=self._make)
        self._peers.append(peer)
        self._held[peer.incarnation] = []
        await peer.join(SHORT_US if self._drawn.random() < 0.5 else LONG_TTL_US)

    # -- calls

    def _calls(self) -> list[Any]:
        return [
            *[self._enqueue, self._turn] * 5,
            *[self._claim, self._again] * 4,
            *[self._commit] * 3,
            *[self._cancel] * 2,
            *(self._run_now, self._reap, self._leave, self._expire, self._clear, self._check_limits),
            *(self._publish, self._set_limit, self._pause, self._throttle),
        ]

    def _store(self) -> KVStore:
        return self._drawn.choice(self._stores)

    def _peer(self) -> Peer:
        return self._drawn.choice(self._peers)

    def _some(self, most: int) -> list[str]:
        return self._drawn.sample(self._ids, min(len(self._ids), self._drawn.randint(1, most)))

    async def _sent(self, call: Callable[[str], Awaitable[object]]) -> None:
        """Send a call with a new request id, and keep it."""
        request = self._make.request()
        self._repeats = [*self._repeats, lambda: call(request)][-4:]
        await call(request)

    async def _again(self) -> None:
        if self._repeats:
            await self._drawn.choice(self._repeats)()

    async def _enqueue(self) -> None:
        store, batch = self._store(), [self._new() for _ in range(self._drawn.randint(1, 6))]
        await self._sent(lambda _: store.enqueue(batch))

    def _new(self) -> NewInstance:
        drawn, kind = self._drawn, self._drawn.choice(KINDS)
        new = self._make.instance(
            kind=kind,
            priority=drawn.choice((0, 0, 0, -1, 1)),
            delay_us=drawn.choice((None, None, None, 500_000, 3_000_000)),
            limit_key="" if kind == SHARED else drawn.choice(KEYS),
            key_concurrency=self._concurrency.get(kind, 0),
            retention_us=drawn.choice((0, 1_000_000, 60_000_000)),
            max_crashes=drawn.choice((0, 10)),
        )
        self._ids.append(new.id)
        return new

    async def _claim(self) -> None:
        await self._turn_of(self._peer(), [])

    async def _turn(self) -> None:
        peer = self._peer()
        await self._turn_of(peer, self._outcomes(peer))

    async def _turn_of(self, peer: Peer, outcomes: list[Outcome]) -> None:
        want, held = peer.want(self._drawn.choice((1, 2, 10))), self._held[peer.incarnation]

        async def call(request: str) -> None:
            if outcomes:
                _, claimed = await peer.store.turn(peer.incarnation, outcomes, want, request=request)
            else:
                claimed = await peer.claim(want, request=request)
            held.extend(claimed.claims)

        await self._sent(call)

    def _outcomes(self, peer: Peer) -> list[Outcome]:
        drawn, held = self._drawn, self._held[peer.incarnation]
        ended = drawn.sample(held, drawn.randint(0, len(held)))
        if drawn.random() < 0.8:
            held[:] = [claim for claim in held if claim not in ended]
        return [outcome(claim, drawn.choice(ENDS), delay_us=drawn.choice((0, 500_000))) for claim in ended]

    async def _commit(self) -> None:
        peer = self._peer()
        outcomes = self._outcomes(peer)
        await self._sent(lambda request: peer.commit(*outcomes, request=request))

    async def _cancel(self) -> None:
        store, ids = self._store(), self._some(4)
        await self._sent(lambda request: store.cancel(ids, request=request))

    async def _run_now(self) -> None:
        store, ids = self._store(), self._some(8)
        await self._sent(lambda request: store.run_now(ids, request=request))

    async def _reap(self) -> None:
        peer = self._peer()
        await peer.store.reap(self._drawn.choice((2, 100)), reaper=peer.incarnation)

    async def _leave(self) -> None:
        peer = self._peer()
        self._peers.remove(peer)
        await self._join(peer.name)
        await peer.store.leave(peer.incarnation)

    async def _expire(self) -> None:
        await self._store().expire(self._drawn.choice((2, 100)))

    async def _clear(self) -> None:
        await self._store().clear_instances(Filter(older_than=2.0))

    async def _check_limits(self) -> None:
        store = self._store()
        _, cursor = await store.check_limits()
        while cursor is not None:
            _, cursor = await store.check_limits(cursor)

    async def _publish(self) -> None:
        drawn = self._drawn
        self._concurrency = {kind: drawn.choice((1, 2, 3)) for kind in (GATED, BOTH)}
        few, more = (SharedLimit(name=name, numbers=LimitNumbers(concurrency=drawn.choice((1, 2, 4)))) for name in "lm")
        await self._store().publish_limits(
            [
                KindLimits(kind=GATED, key_concurrency=self._concurrency[GATED]),
                KindLimits(kind=BOTH, shared=(few,), key_concurrency=self._concurrency[BOTH]),
                KindLimits(kind=SHARED, shared=(few, more)[: drawn.randint(1, 2)]),
            ]
        )

    async def _set_limit(self) -> None:
        numbers = LimitNumbers(concurrency=self._drawn.choice((0, 1, 2, 3)))
        kind = self._drawn.choice((GATED, BOTH, ""))
        await self._store().set_limit(
            LimitSetting(kind=kind, name="" if kind else self._drawn.choice("lm"), numbers=numbers)
        )

    async def _pause(self) -> None:
        await self._store().pause_kind(self._drawn.choice(KINDS), self._drawn.random() < 0.3)

    async def _throttle(self) -> None:
        delay_us, shorten = self._drawn.choice((0, 500_000)), self._drawn.random() < 0.5
        await self._store().throttle(self._drawn.choice("lm"), delay_us, shorten=shorten)

    # -- what holds

    async def _wrong(self) -> list[str]:
        """What breaks ONE-PLACE, COUNT, LIMIT or NO-IDLE."""
        store = self._drawn.choice(self._stores)
        places = await self._places()
        found: list[str] = []
        for id, record in zip(self._ids, await store.get(self._ids), strict=True):
            place = places.get(id, [])
            found += [f"{what}: {id} is in {place}, and is {record}" for what in broken(record, place)]
        for kind in (GATED, BOTH):
            views = (await store.key_limits(kind)).views
            found += [f"NO-IDLE: {view}" for view in views if view.waiting and view.admitted < (view.concurrency or 1)]
        return found

    async def _places(self) -> Mapping[str, list[str]]:
        """Where each instance is: its queues, the nodes that hold it, and its permits."""
        private: Any = self._stores[0]
        root, kv = private._context.keys.root, private._context.kv
        (answer,) = await kv.read([below(root)])
        places: dict[str, list[str]] = {}
        for key, entry in answer.items:
            part, _, rest = key[len(root) :].partition("/")
            if part in QUEUES or part == "own":
                places.setdefault(rest.rsplit("/", 1)[1], []).append(part)
            elif part == "permit" and rest.startswith("/"):
                places.setdefault(entry.value.decode(), []).append("claim")
            elif part == "permit" and not rest.endswith("/c"):
                places.setdefault(decode_key_permit(entry.value).id, []).append("key")
        return places

    async def _end(self) -> list[str]:
        """Run all that is left on a new node: NO-LOSS."""
        store = self._stores[0]
        await self._pass(10)
        for kind in KINDS:
            await store.pause_kind(kind, False)
        for node in await store.nodes():
            await store.leave(node.info.incarnation)
        last = await Peer(store=store, info=self._make.node("last", KINDS), make=self._make).join()
        while await store.reap(100, reaper=last.incarnation):
            pass
        while claims := await last.take():
            await last.commit(*map(outcome, claims))
        records = await store.get(self._ids)
        left = [record for record in records if record is not None and not record.state.is_final]
        return [*(f"NO-LOSS: {record}" for record in left), *await self._wrong()]


def broken(record: Record | None, place: list[str]) -> Iterator[str]:
    """What does not hold of the places of an instance."""
    if record is None:
        if place:
            yield "ONE-PLACE"
        return
    queues, held = [one for one in place if one in QUEUES], place.count("own")
    claimed = record.state is State.PROCESSING
    if len(queues) != (record.state is State.SCHEDULED) or held > 1 or (claimed and not held):
        yield "ONE-PLACE"
    if place.count("key") != (record.kind != SHARED and ("ready" in queues or held)):
        yield "COUNT"
    if ("claim" in place) != (record.kind != GATED and held > 0):
        yield "LIMIT"


async def cut_off(call: asyncio.Future[Any], after: int) -> None:
    """Cancel a call after some steps of the event loop, as if its caller died."""
    for _ in range(after):
        await asyncio.sleep(0)
    call.cancel()
