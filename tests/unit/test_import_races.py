"""An import beside a node that changes the target."""

from peerjob.model.state import State
from peerjob.testing import VirtualClock
from peerjob.testing.factories import Factory
from peerjob.transfer.importing import _Import  # pyright: ignore[reportPrivateUsage]
from peerjob.transfer.lines import MovedInstance
from support.factories import flaky_store


async def test_an_instance_whose_schedule_is_removed_meanwhile_is_told_if_its_key_is_taken(clock: VirtualClock) -> None:
    store, make = flaky_store(clock).store, Factory(clock)
    await store.open()
    holder = make.instance(key="k")
    await store.enqueue([holder])
    refused, added = (
        MovedInstance(
            id=make.id(),
            kind=holder.kind,
            spec=b"",
            priority=5,
            due_us=clock.time_us(),
            key=key,
            slot="removed",
            max_crashes=3,
        )
        for key in ("k", None)
    )
    target = _Import(store, None)
    assert await target._add_with_slot(refused) == [(refused.id, holder.id)]  # pyright: ignore[reportPrivateUsage]
    assert await target._add_with_slot(added) == []  # pyright: ignore[reportPrivateUsage]
    left, there = await store.get([refused.id, added.id])
    assert left is None
    assert there is not None
    assert there.state is State.SCHEDULED
    await store.close()
