"""Many candidates are killed, paused and stopped: two never lead at once, and a new leader acts soon.

A run that fails leaves its trace in `build/traces`: each fault, and what each candidate printed.
"""

import asyncio
import itertools
import random
import signal
import time
from collections.abc import Generator, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from peerjob import Query, Store, StoreLimits
from peerjob.model.clock import SystemClock
from peerjob.model.firing import FireOutcome
from peerjob.model.record import Record
from peerjob.model.spec import decode_spec
from peerjob.store.drivers import open_store
from support import searches
from support.leaders import SECOND, accounted, definition, put, read_ledger
from support.processes import ChildProcess
from support.stalls import Stalls
from support.waiting import PATIENCE

CANDIDATES = 8
MANY_CANDIDATES = 20
TTL = 2.0
EVERY_US = SECOND // 10
WAYS = ("kill", "pause", "stop")
TRACES = Path(__file__).parents[2] / "build" / "traces"


@dataclass(frozen=True, kw_only=True)
class Struck:
    """A fault of a leader, and how long no other one acted."""

    way: str
    leader: str
    at_ns: int
    """The time of the fault, on the clock of the lines "act"."""
    term: int
    """The term that ended."""
    gap: float
    stalled: float
    """Seconds of the gap in which this machine stood still."""

    @property
    def without_leader(self) -> float:
        return self.gap - self.stalled


class Candidates:
    """Processes that stand for the leadership of one namespace."""

    def __init__(self, url: str, namespace: str, coordinator: str | None, folder: Path) -> None:
        self.url = url
        self.namespace = namespace
        self._coordinator = coordinator
        self._folder = folder
        self._numbers = itertools.count()
        self.cleanup = ExitStack()
        self.all: list[ChildProcess] = []
        """Also those that have ended."""
        self.struck: list[Struck] = []

    @contextmanager
    def traced(self) -> Generator[None]:
        """Keep the trace of a run that fails."""
        try:
            yield
        except BaseException as error:
            TRACES.mkdir(parents=True, exist_ok=True)
            path = TRACES / f"election-{self.namespace}.txt"
            parts = [f"{one}\n" for one in self.struck]
            for child in self.all:
                parts += [f"\n{child.output.stem}, process {child.pid}:\n", *(f"{line}\n" for line in child.lines)]
            path.write_text("".join(parts))
            error.add_note(f"the trace is in {path}")
            raise

    def start(self) -> ChildProcess:
        """Start one more."""
        name = f"n{next(self._numbers)}"
        more = [] if self._coordinator is None else ["--coordinator", self._coordinator]
        child = ChildProcess.python(
            "support.leader_process",
            self.url,
            self.namespace,
            "--name",
            name,
            "--ttl",
            str(TTL),
            *more,
            output=self._folder / f"{name}.log",
        )
        self.all.append(self.cleanup.enter_context(child))
        return child

    def acts(self) -> Iterator[tuple[int, int, int, ChildProcess]]:
        """Observed leadership: the moments before and after the observation, the term, the process."""
        for child in self.all:
            for line in child.lines:
                if line.startswith("act "):
                    _, before, after, term = line.split()
                    yield int(before), int(after), int(term), child

    async def act_after(self, moment: int, term: int) -> tuple[int, int, ChildProcess]:
        """The first observation of a later term after a moment: its time, the term, and the process that acts."""
        async with asyncio.timeout(PATIENCE):
            while True:
                later = [act for act in self.acts() if act[0] > moment and act[2] > term]
                if later:
                    before, _, term, child = min(later, key=lambda act: act[0])
                    return before, term, child
                await asyncio.sleep(0.05)

    def check(self) -> None:
        """Each term has one leader, and no process acts in a term after another process acted in a later term."""
        acts = list(self.acts())
        began: dict[int, int] = {}
        holders: dict[int, set[int]] = {}
        for _, after, term, child in acts:
            holders.setdefault(term, set()).add(child.pid)
            began[term] = min(after, began.get(term, after))
        assert all(len(pids) == 1 for pids in holders.values()), holders
        terms = sorted(began)
        for before, _, term, child in acts:
            for later in terms[terms.index(term) + 1 :]:
                assert before <= began[later], f"{child.output.stem} acts in {term} after {later} began"


def on(setups: list[tuple[str, str | None] | pytest.ParameterSet]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize(("store_url", "coordinator"), setups, indirect=["store_url"])


MANY_SETUPS = on([("redis", None), ("valkey", None), ("etcd", None), ("redis", "etcd")])


@pytest.fixture
def coordinator_url(request: pytest.FixtureRequest, coordinator: str | None) -> str | None:
    return None if coordinator is None else str(request.getfixturevalue(f"{coordinator}_url"))


@pytest.mark.long("waits for three terms")
@pytest.mark.search
@pytest.mark.timeout(300)
@on(
    [("redis", None), pytest.param("redis", "etcd", marks=pytest.mark.matrix("a long fault, with another coordinator"))]
)
async def test_at_most_one_node_acts_and_one_soon_does(
    store_url: str, coordinator_url: str | None, namespace: str, tmp_path: Path
) -> None:
    candidates = Candidates(store_url, namespace, coordinator_url, tmp_path)
    with candidates.traced():
        await hunt(candidates, CANDIDATES, faults=6 if searches.whole else 3)
        candidates.check()
        check_gaps(candidates)


@pytest.mark.soak
@pytest.mark.timeout(900)
@MANY_SETUPS
async def test_never_two_act_in_many_terms(
    store_url: str, coordinator_url: str | None, namespace: str, tmp_path: Path
) -> None:
    """Safety: it must hold on any machine, however slow it is."""
    candidates = Candidates(store_url, namespace, coordinator_url, tmp_path)
    with candidates.traced():
        await hunt(candidates, MANY_CANDIDATES, faults=60)
        candidates.check()


@pytest.mark.soak
@pytest.mark.timeout(900)
@MANY_SETUPS
async def test_a_new_leader_soon_acts_in_many_terms(
    store_url: str, coordinator_url: str | None, namespace: str, tmp_path: Path
) -> None:
    """A limit of time: the lease of the leader, and a second."""
    candidates = Candidates(store_url, namespace, coordinator_url, tmp_path)
    with candidates.traced():
        await hunt(candidates, MANY_CANDIDATES, faults=60)
        check_gaps(candidates)


async def hunt(candidates: Candidates, number: int, *, faults: int) -> None:
    """Kill, pause and stop one leader after the other, while they fire a schedule; the ledger must stay whole."""
    store = open_store(candidates.url, namespace=candidates.namespace, clock=SystemClock(), limits=StoreLimits())
    await store.open()
    try:
        await strike_leaders(store, candidates, number, faults)
    finally:
        await store.close()


def check_gaps(candidates: Candidates) -> None:
    """After each fault, another candidate acts within the TTL and a second."""
    late = [one for one in candidates.struck if one.without_leader > TTL + 1]
    assert late == []


async def strike_leaders(store: Store, candidates: Candidates, number: int, faults: int) -> None:
    clock = SystemClock()
    with candidates.cleanup, Stalls() as stalls:
        for _ in range(number):
            candidates.start()
        for child in candidates.all:
            await child.line("ready")
        # not before: while so many processes start, no leader fires for ten seconds, and these times would be missed
        anchor_us = clock.time_us()
        wanted = definition(every_us=EVERY_US, anchor_us=anchor_us, misfire="run_all")
        await put(store, "s", wanted, now_us=anchor_us)
        _, term, leader = await candidates.act_after(0, 0)
        for way in random.sample(WAYS * (faults // 3), faults):
            await asyncio.sleep(random.uniform(0, 1))
            leader_before, term_before = leader, term
            began, began_us = time.monotonic_ns(), clock.time_us()
            match way:
                case "kill":
                    leader.kill()
                case "pause":
                    leader.pause()
                case _:
                    leader.terminate()
            at, term, leader = await candidates.act_after(began, term)
            gap = (at - began) / 1e9
            candidates.struck.append(
                Struck(
                    way=way,
                    leader=leader_before.output.stem,
                    at_ns=began,
                    term=term_before,
                    gap=gap,
                    stalled=stalls.between(began_us, began_us + round(gap * SECOND)),
                )
            )
            if way == "pause":
                leader_before.resume()
            else:
                candidates.start()
        await asyncio.sleep(1.5)
        for child in candidates.all:
            if child.running:
                child.signal(signal.SIGTERM)
        for child in candidates.all:
            await child.exit()
    await check_ledger(store, anchor_us)


async def check_ledger(store: Store, anchor_us: int) -> None:
    """Every nominal time is accounted for once, and has at most one instance."""
    wanted = definition(every_us=EVERY_US, anchor_us=anchor_us)
    records = await read_ledger(store, "s")
    assert {record.outcome for record in records} == {FireOutcome.FIRED}
    times = accounted(records, wanted)
    assert times == list(range(times[0], times[-1] + 1, EVERY_US))
    nominals = [decode_spec(record.spec).nominal_us for record in await everything(store)]
    assert len(nominals) == len(set(nominals)) == (times[-1] - anchor_us) // EVERY_US


async def everything(store: Store) -> list[Record]:
    """Every instance of the namespace."""
    records: list[Record] = []
    cursor: str | None = None
    while True:
        page = await store.lookup(Query(limit=500, cursor=cursor))
        records += page.records
        cursor = page.cursor
        if cursor is None:
            return records
