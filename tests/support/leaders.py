"""What of a node stands for leader and fires schedules, without the node; and what tests ask of schedules."""

from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from typing import Literal, TypedDict, Unpack, cast

import msgspec

from peerjob import Store
from peerjob.cluster.cron import CronRole
from peerjob.cluster.election import Election
from peerjob.cluster.role import BackgroundRole
from peerjob.model.clock import Clock
from peerjob.model.definition import Definition, encode_definition
from peerjob.model.firing import Candidate, FireRecord, Overlap, SchedulePut, ScheduleRow, Term
from peerjob.model.ids import IdSource
from peerjob.model.record import NewInstance
from peerjob.model.recurrence import recurrence_of
from peerjob.model.spec import Spec, encode, encode_arguments
from peerjob.store.base import Elections
from peerjob.testing.factories import LONG_TTL_US, Factory
from support.flaky import Fault, FlakyStore

Misfire = Literal["skip", "run_once", "run_all"]

TTL = 5.0
SECOND = 1_000_000


class ElectionNode:
    """A node that stands for leader, behind faults that a test asks for."""

    def __init__(
        self,
        clock: Clock,
        store: Store,
        name: str,
        *,
        ttl: float = TTL,
        kinds: Sequence[str] = ("k",),
        elections: Callable[[], Elections] | None = None,
    ) -> None:
        self.clock = clock
        self.flaky = FlakyStore(store)
        self.info = Factory(clock).node(name, kinds)
        self.may_lead = True
        self.ahead_us = 0
        self.made: list[NewInstance] = []
        """The instances that its fires made."""
        self.election = Election(
            clock=clock,
            elections=elections or self._elections,
            candidate=lambda: Candidate(incarnation=self.info.incarnation, name=self.info.name),
            ttl=ttl,
            eligible=lambda: self.may_lead,
        )
        self.cron = CronRole(
            clock=clock,
            store=self.flaky.store,
            election=self.election,
            node=name,
            ids=IdSource(clock),
            now_us=lambda: clock.time_us() - self.ahead_us,
            on_made=self.made.append,
        )
        self._pause: Fault | None = None

    @property
    def name(self) -> str:
        return self.info.name

    @property
    def leader(self) -> str | None:
        """Name of the leader, as far as this node knows."""
        leader = self.election.leader
        return None if leader is None else leader.name

    async def start(self, *, cron: bool = True) -> "ElectionNode":
        """Join and stand for leader."""
        await self.flaky.inner.open()
        await self.flaky.inner.join(self.info, ttl_us=LONG_TTL_US)
        self.election.start()
        if cron:
            self.cron.start()
        return self

    async def stop(self) -> None:
        """Stop in an orderly way."""
        await self.cron.stop()
        await self.election.stop()

    async def kill(self) -> None:
        """End it without a word."""
        await self.cron.stop()
        await BackgroundRole.stop(self.election)

    def pause(self) -> None:
        """Nothing that it asks gets anywhere, nor fails, as if its process were stopped."""
        self._pause = self.flaky.stall()

    def resume(self) -> None:
        """What it asked while it was paused gets there now, late."""
        if self._pause is not None:
            self._pause.release()
            self._pause = None

    def _elections(self) -> Elections:
        return cast(Elections, self.flaky.elections())


class Reigns:
    """Records which nodes act as leader, and in which terms."""

    def __init__(self, nodes: Sequence[ElectionNode]) -> None:
        self.nodes = nodes
        self.holders: dict[Term, set[str]] = {}
        """Incarnations that acted in each term."""
        self.order: list[Term] = []

    def acting(self) -> list[ElectionNode]:
        """The node that acts as leader now; two at a time fail the test."""
        acting = [one for one in self.nodes if one.election.is_leader]
        assert len(acting) <= 1, [one.name for one in acting]
        for one in acting:
            term = one.election.term
            assert term is not None
            if term not in self.holders:
                self.order.append(term)
            self.holders.setdefault(term, set()).add(one.info.incarnation)
        return acting

    def check(self) -> None:
        """No term had two leaders, and terms grow."""
        assert all(len(holders) == 1 for holders in self.holders.values())
        assert all(earlier.number < later.number for earlier, later in pairwise(self.order))


class Fields(TypedDict, total=False):
    """Fields of Definition that a test may set."""

    kind: str
    cron: str | None
    every_us: int | None
    anchor_us: int
    jitter_us: int
    overlap: Overlap
    queue_limit: int
    misfire: Misfire
    misfire_limit: int
    start_deadline_us: int | None
    priority: int
    key: str | None
    tags: tuple[str, ...]
    retention_us: int | None
    max_crashes: int


def definition(**fields: Unpack[Fields]) -> Definition:
    """A definition of kind "k" that recurs every second and lets runs overlap, unless the options say otherwise."""
    every: Fields = {} if "cron" in fields else {"every_us": SECOND}
    given: Fields = {"kind": "k", "overlap": Overlap.ALLOW, **every, **fields}
    return msgspec.structs.replace(Definition(kind="k", spec=encode(Spec(args=encode_arguments((), {})))), **given)


async def put(
    store: Store,
    name: str,
    wanted: Definition,
    *,
    now_us: int,
    old: ScheduleRow | None = None,
    paused: bool = False,
    account: FireRecord | None = None,
) -> ScheduleRow:
    """Write a schedule whose times begin after now."""
    row = await store.put_schedule(
        SchedulePut(
            name=name,
            kind=wanted.kind,
            definition=encode_definition(wanted),
            next_us=recurrence_of(wanted).next_after(now_us),
            paused=paused,
            expected=0 if old is None else old.revision,
            expected_next_us=None if old is None else old.next_us,
            account=account,
        )
    )
    assert row is not None
    return row


async def read_ledger(store: Store, name: str) -> list[FireRecord]:
    """The whole ledger of a schedule, earliest nominal time first."""
    records: list[FireRecord] = []
    cursor: str | None = None
    while True:
        page = await store.fires(name, limit=100, cursor=cursor)
        records += page.records
        cursor = page.cursor
        if cursor is None:
            return records[::-1]


def accounted(records: Iterable[FireRecord], wanted: Definition) -> list[int]:
    """Each nominal time that the records account for, as often as they do; checks what stretches say of themselves."""
    times: list[int] = []
    for record in records:
        stretch = list(recurrence_of(wanted).times(record.nominal_us - 1, record.until_us or record.nominal_us))
        assert len(stretch) == record.count
        times += stretch
    return times
