"""What explains a race: an order of its calls, and on a clock that runs also their times."""

from collections.abc import Sequence
from typing import Any

import pytest

from peerjob.model.record import NewInstance, StoreLimits
from peerjob.store.reference.store import ReferenceStore
from peerjob.testing.clock import VirtualClock
from peerjob.testing.factories import Factory
from support.oracle.clocks import START_US
from support.oracle.compare import Comparison, plain
from support.oracle.known import Answers, Known, Made
from support.oracle.leniency import answer_of
from support.oracle.names import Ids, Side
from support.oracle.races import Race
from support.oracle.reference import Reference
from support.oracle.verdict import Blurred

DELAY_US = 3_000_000


class Enqueues:
    """A race of enqueues on an engine, which takes the calls in order, each at a time of its own."""

    def __init__(self, calls: Sequence[tuple[int, Sequence[NewInstance]]]) -> None:
        self._calls = iter(calls)
        self.engine = Reference(StoreLimits(), strict=True)
        self.reference = Reference(StoreLimits(), strict=True)
        ours, theirs = Side("reference", self.reference.store), Side("engine", self.engine.store)
        known = Known(Ids(1, START_US))
        mades = [self._made(time_us, news, theirs.store, known) for time_us, news in calls]
        self._race = Race(mades, ours, theirs, known, self.reference)
        self._sides = ours, theirs

    def _made(self, time_us: int, news: Sequence[NewInstance], engine: Any, known: Known) -> Made:
        async def call(side: Side) -> Any:
            if side.store is engine:
                self.engine.at(START_US + time_us)
            return await side.store.enqueue(news)

        def learn(answers: Answers) -> None:
            for new in news:
                known.added(new)

        return Made("enqueue", call, learn)

    async def judged(self, times_us: Sequence[int], *, read_us: int = 0) -> list[str]:
        """What the race finds if it begins and ends at these times, and its end is noticed late.

        The state of the engine is read at `read_us`, or at the time of its last call.
        """
        times = iter(times_us)
        await self._race.run(answer_of, lambda: START_US + next(times))
        self.reference.at(START_US + 1_000_000)
        if read_us:
            self.engine.at(START_US + read_us)
        return await self._race.judge(answer_of, self._compare, (), lambda since_us: self._changed(since_us, read_us))

    def _changed(self, since_us: int, read_us: int) -> bool:
        return any(since_us <= one <= START_US + read_us for one in self.reference.thresholds())

    def _compare(self, made: Made, ours: Any, theirs: Any) -> list[str]:
        wanted, found = (plain(one, side) for one, side in zip((ours, theirs), self._sides, strict=True))
        return Comparison(1_000_000, 0).differences(wanted, found, made.verb)

    async def order(self) -> Sequence[str]:
        """The instances of the reference in the order of their due times."""
        records = await self.reference.store.get(sorted(self.reference.instances()))
        found = [record for record in records if record is not None]
        return [record.id for record in sorted(found, key=lambda record: (record.due_us, record.id))]


def delayed(make: Factory, count: int, **options: Any) -> list[NewInstance]:
    """Instances with equal delays, in the order of their ids."""
    return sorted(make.instances(count, delay_us=DELAY_US, **options), key=lambda new: new.id)


async def test_instances_with_equal_delays_come_in_the_order_of_their_calls(clock: VirtualClock) -> None:
    first, second = delayed(Factory(clock), 2)
    race = Enqueues([(10, [second]), (20, [first])])
    assert await race.judged((0, 30)) == []
    assert await race.order() == [second.id, first.id]


async def test_a_call_can_take_its_time_before_a_call_that_comes_to_its_turn_earlier(clock: VirtualClock) -> None:
    make = Factory(clock)
    first, second = delayed(make, 2)
    holder, refused = make.instances(2, key="k", delay_us=2 * DELAY_US)
    # the key tells which call came first, and it has the later time
    race = Enqueues([(20, [holder, first]), (10, [refused, second])])
    assert await race.judged((0, 30)) == []
    assert await race.order() == [second.id, first.id, holder.id]


async def test_two_calls_can_have_one_time(clock: VirtualClock) -> None:
    make = Factory(clock)
    first, second = delayed(make, 2)
    holder, refused = make.instances(2, key="k", delay_us=2 * DELAY_US)
    race = Enqueues([(10, [holder, second]), (10, [refused, first])])
    assert await race.judged((0, 30)) == []
    assert await race.order() == [first.id, second.id, holder.id]


async def test_an_instance_that_became_due_between_the_race_and_the_read_is_no_difference(clock: VirtualClock) -> None:
    first, second = delayed(Factory(clock), 2)
    race = Enqueues([(10, [second]), (20, [first])])
    with pytest.raises(Blurred):
        await race.judged((0, 30), read_us=DELAY_US + 15)


@pytest.mark.parametrize("times_us", [(5, 5), (0, 30)])
async def test_no_order_and_no_time_explain_another_delay(clock: VirtualClock, times_us: tuple[int, int]) -> None:
    make = Factory(clock)
    first, second = delayed(make, 2)
    race = Enqueues([(5, [first]), (5, [second])])
    race.engine.store.enqueue = _hours_later(race.engine.store)  # type: ignore[method-assign]
    found = await race.judged(times_us)
    assert found[0] == "no order explains the race"
    assert len(found) == 3


def _hours_later(store: ReferenceStore) -> Any:
    """A slip: all instances are due an hour later."""
    enqueue = type(store).enqueue

    async def later(news: Sequence[NewInstance], *, node: str = "") -> Any:
        moved = [NewInstance(id=new.id, kind=new.kind, spec=new.spec, delay_us=3_600_000_000) for new in news]
        return await enqueue(store, moved, node=node)

    return later
