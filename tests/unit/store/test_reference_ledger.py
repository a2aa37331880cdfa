"""The ledger of the reference store."""

from msgspec.structs import replace

from peerjob.model.firing import Fire, FireOutcome, FireStatus, SchedulePut
from peerjob.model.record import StoreLimits
from peerjob.store.reference.store import ReferenceData, ReferenceStore
from peerjob.testing.clock import VirtualClock
from peerjob.testing.factories import Factory

PERIOD_US = 60_000_000


async def test_a_repeated_skip_has_its_record_after_a_later_fire(clock: VirtualClock) -> None:
    store = ReferenceStore(ReferenceData(), clock=clock, limits=StoreLimits(), namespace="n")
    make, now_us = Factory(clock), clock.time_us()
    row = await store.put_schedule(SchedulePut(name="s", kind="work", definition=b"d", next_us=now_us))
    assert row is not None
    skip = Fire(
        schedule="s",
        revision=row.revision,
        nominal_us=now_us,
        next_us=now_us + PERIOD_US,
        outcome=FireOutcome.SKIPPED,
        request=make.request(),
    )
    first = await store.fire([skip], term=None)
    new = make.instance()
    later = replace(
        skip, nominal_us=skip.nominal_us + PERIOD_US, outcome=FireOutcome.FIRED, instance=new, request=new.id
    )
    assert [answer.status for answer in await store.fire([later], term=None)] == [FireStatus.DONE]
    assert await store.fire([skip], term=None) == first
