"""Slots and backlog: what starts when, in which slot, and what is handed back."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from msgspec import structs

from peerjob import Context
from peerjob.model.record import MAX_BATCH, Action, Claim, Outcome
from peerjob.node.body.context_vars import ContextVars
from peerjob.node.work.pool import HOLD, WORTH, Pool, Prefetch
from peerjob.node.work.run import HeldClaims, Run
from peerjob.node.work.unsent_reports import UnsentReports, Waker
from peerjob.testing.clock import VirtualClock


class ClockedReports(UnsentReports):
    """Unsent reports that tell when each claim was handed back."""

    def __init__(self, clock: VirtualClock) -> None:
        super().__init__(HeldClaims("incarnation"), Waker())
        self._clock = clock
        self.handed_back: list[tuple[str, float]] = []

    def add(self, run: Run, outcome: Outcome) -> None:
        assert outcome.action is Action.HAND_BACK, outcome.note
        self.handed_back.append((run.claim.id, round(self._clock.elapsed(), 2)))


class Bench:
    """A pool whose bodies end when the test says so."""

    def __init__(self, clock: VirtualClock) -> None:
        self.clock = clock
        self.trusted = True
        self.started: list[str] = []
        self.rated = frozenset[str]()
        self._ends: dict[str, asyncio.Event] = {}
        self._unsent_reports = ClockedReports(clock)
        self.prefetch = Prefetch()
        self.pool = Pool(
            size=1,
            node="node",
            runner=self,
            lease=self,
            unsent_reports=self._unsent_reports,
            waker=Waker(),
            prefetch=self.prefetch,
            context_vars=ContextVars(),
            rated=lambda: self.rated,
        )

    async def take(self, *ids: str) -> None:
        """Take claims that one answer brought, and let start what can."""
        now = asyncio.get_running_loop().time()
        self.pool.take([Run(_claim(id), "incarnation", now) for id in ids])
        await self.clock.settle()

    async def end(self, id: str) -> None:
        self._ends[id].set()
        await self.clock.settle()

    # -- as a runner

    async def run(self, run: Run) -> None:
        self.started.append(run.claim.id)
        await self._ends.setdefault(run.claim.id, asyncio.Event()).wait()

    @property
    def handed_back(self) -> list[tuple[str, float]]:
        return self._unsent_reports.handed_back


def _claim(id: str) -> Claim:
    return Claim(
        id=id, kind="k", fence=1, spec=b"", priority=0, due_us=0, attempts=1, crashes=0, losses=0, at_us=0
    )  # fmt: skip


@pytest.fixture
async def bench(clock: VirtualClock) -> AsyncIterator[Bench]:
    bench = Bench(clock)
    yield bench
    bench.pool.close()
    for run in bench.pool.runs():
        await bench.end(run.claim.id)


async def test_nothing_starts_from_the_backlog_when_trust_has_ended(bench: Bench) -> None:
    await bench.take("a", "b")
    bench.trusted = False
    await bench.end("a")
    assert bench.started == ["a"]
    bench.trusted = True
    bench.pool.dispatch()
    await bench.clock.settle()
    assert bench.started == ["a", "b"]


async def test_a_body_that_was_to_start_does_not_when_trust_has_ended_meanwhile(bench: Bench) -> None:
    taking = asyncio.ensure_future(bench.take("a"))
    asyncio.get_running_loop().call_soon(setattr, bench, "trusted", False)
    await taking

    assert bench.started == []
    assert bench.handed_back == [("a", 0.0)]
    assert bench.pool.running == 0


async def test_each_claim_that_does_not_start_is_handed_back_in_its_own_time(bench: Bench) -> None:
    await bench.take("a", "b")
    for id in "cd":
        await bench.clock.advance(0.04)
        await bench.take(id)
    await bench.clock.advance(2 * HOLD)
    assert bench.handed_back == [("b", HOLD), ("c", round(HOLD + 0.04, 2)), ("d", round(HOLD + 0.08, 2))]


async def test_no_two_bodies_have_one_slot_however_the_pool_is_resized(bench: Bench) -> None:
    await bench.take("a")
    for size, id in ((2, "b"), (4, "c"), (3, ""), (5, "d")):
        bench.pool.resize(size)
        if id:
            await bench.take(id)
    assert len(bench.pool.runs()) == 4
    assert sorted(worker.instance or "" for worker in bench.pool.workers()) == ["", "a", "b", "c", "d"]
    for id in "abcd":
        await bench.end(id)
    assert bench.pool.running == 0
    await bench.take(*"efghi")
    assert sorted(run.slot for run in bench.pool.runs()) == [0, 1, 2, 3, 4]


class Hashed(str):
    """A kind that counts how often it is hashed."""

    __slots__ = ("times",)

    def __init__(self, _: str) -> None:
        self.times = 0

    def __hash__(self) -> int:
        self.times += 1
        return super().__hash__()


async def test_the_caps_of_a_claim_take_no_longer_with_many_kinds(bench: Bench) -> None:
    kinds = tuple(Hashed(f"kind-{number}") for number in range(100))
    for _ in range(10):
        limit, caps = bench.pool.claimable(kinds)
        assert caps.get("kind-7") == limit == 1
    assert [kind.times for kind in kinds] == [1] * 100


@pytest.mark.parametrize(
    ("seconds", "workers", "expected"),
    [
        (0, 1, MAX_BATCH),
        (0, 1_000, MAX_BATCH),
        (WORTH / 10, 4, 40),
        (WORTH, 4, 4),
        (WORTH * 1.01, 4, 4),
        (HOLD, 4, 0),
    ],
)
def test_what_is_claimed_ahead_is_bounded_however_quick_the_bodies_are(
    seconds: float, workers: int, expected: int
) -> None:
    prefetch = Prefetch()
    assert prefetch.ahead("k", workers) == 0
    prefetch.measured("k", seconds)
    assert prefetch.ahead("k", workers) == expected


async def test_the_backlog_is_bounded_however_quick_the_bodies_are(bench: Bench) -> None:
    bench.prefetch.measured("k", 0)
    claims = 0
    while limit := bench.pool.claimable(("k",))[0]:
        assert limit <= MAX_BATCH
        await bench.take(*(f"{number}" for number in range(claims, claims + max(1, limit // 10))))
        claims = bench.pool.waiting + bench.pool.running
        assert claims <= 1 + MAX_BATCH
    bench.pool.empty_backlog("the test ends")


async def test_nothing_is_claimed_ahead_of_a_kind_with_a_rate(bench: Bench) -> None:
    """A claim that is handed back has used up the rate."""
    await bench.take("a")
    for kind in ("k", "rated"):
        bench.prefetch.measured(kind, 0)
    kinds, limit = ("k", "rated"), MAX_BATCH
    assert {kind: bench.pool.claimable(kinds)[1].get(kind) for kind in kinds} == {"k": limit, "rated": limit}
    bench.rated = frozenset({"rated", "unknown"})
    assert {kind: bench.pool.claimable(kinds)[1].get(kind) for kind in kinds} == {"k": limit, "rated": 0}


@pytest.mark.parametrize(("kinds", "limit"), [(["quick"], MAX_BATCH), (["quick", "slow"], 0), (["slow", "quick"], 0)])
async def test_the_slowest_kind_of_the_last_claim_limits_what_is_claimed_ahead(
    bench: Bench, kinds: list[str], limit: int
) -> None:
    bench.prefetch.measured("quick", 0)
    bench.prefetch.measured("slow", HOLD)
    bench.pool.resize(len(kinds))
    now = asyncio.get_running_loop().time()
    bench.pool.take([Run(structs.replace(_claim(kind), kind=kind), "incarnation", now) for kind in kinds])
    await bench.clock.settle()
    assert bench.pool.claimable(("quick", "slow"))[0] == limit


async def test_a_suspect_that_waits_in_the_backlog_keeps_others_from_the_node(bench: Bench) -> None:
    await bench.take("a")
    assert bench.pool.may_take_suspect
    suspect = structs.replace(_claim("b"), crashes=2)
    bench.pool.take([Run(suspect, "incarnation", asyncio.get_running_loop().time())])
    assert not bench.pool.may_take_suspect


async def test_a_claim_is_dropped_once_and_only_while_it_waits(bench: Bench) -> None:
    now = asyncio.get_running_loop().time()
    started, waiting, other = (Run(_claim(id), "incarnation", now) for id in ("a", "b", "c"))
    bench.pool.take([started, waiting, other])
    await bench.clock.settle()
    assert bench.started == ["a"]
    assert [bench.pool.drop(run) for run in (started, waiting, waiting)] == [False, True, False]
    await bench.end("a")
    assert bench.started == ["a", "c"]
    assert bench.handed_back == []


async def three_claims(bench: Bench) -> list[Run]:
    """One claim that runs, and two that wait for its worker."""
    now = asyncio.get_running_loop().time()
    runs = [Run(_claim(id), "incarnation", now) for id in ("a", "b", "c")]
    bench.pool.take(runs)
    await bench.clock.settle()
    assert bench.started == ["a"]
    return runs


async def test_claims_that_were_forgotten_neither_start_nor_go_back(bench: Bench) -> None:
    await three_claims(bench)
    bench.pool.forget_backlog()
    await bench.end("a")
    await bench.clock.advance(2 * HOLD)
    assert (bench.started, bench.handed_back) == (["a"], [])


async def test_an_emptied_backlog_goes_back_in_its_order(bench: Bench) -> None:
    await three_claims(bench)
    bench.pool.empty_backlog("the node stops")
    await bench.end("a")
    assert (bench.started, bench.handed_back) == (["a"], [("b", 0.0), ("c", 0.0)])


async def test_a_cancel_asks_each_body_that_is_not_kept(bench: Bench) -> None:
    bench.pool.resize(3)
    now = asyncio.get_running_loop().time()
    runs = [Run(_claim(id), "incarnation", now) for id in ("a", "b", "c")]
    for run in runs:
        run.context = Context(id=run.claim.id)
    bench.pool.take(runs)
    await bench.clock.settle()

    def told() -> str:
        return "".join(run.claim.id for run in runs if run.told_at is not None)

    bench.pool.cancel("drain", keep=lambda run: run.claim.id != "b")
    assert told() == "b"
    bench.pool.cancel("drain")
    assert told() == "abc"


async def test_a_pool_is_quiet_when_its_last_body_has_ended(bench: Bench) -> None:
    assert await bench.pool.quiet(None)
    bench.pool.resize(2)
    await bench.take("a", "b")
    await bench.end("a")
    assert not await bench.clock.run(bench.pool.quiet(5))
    waiting = asyncio.ensure_future(bench.pool.quiet(5))
    await bench.end("b")
    assert await bench.clock.run(waiting)
