"""The activity: a ring of slots, each with the sum of the samples of all nodes."""

import asyncio

from peerjob.model.activity_sample import (
    MAX_SAMPLED_KINDS,
    MAX_SAMPLED_NAMES,
    MAX_SLOTS,
    OTHER_KINDS,
    ActivityRow,
    ActivitySample,
)
from peerjob.store.base import Store

from .suite import StoreSuite

SLOT = 176_400_000
LARGE = 2**40


class ActivityRules(StoreSuite):
    """Rules of `add_activity` and `activity`."""

    async def test_samples_of_a_slot_are_added_up(self, store: Store) -> None:
        assert await store.activity(SLOT - 10, SLOT) == []
        first = ActivityRow(1, 2, 3, 4, 5, (0, 7), (1,))
        second = ActivityRow(10, 20, 30, LARGE, 50, (2, 0, 9), ())
        await store.add_activity(ActivitySample(SLOT, {"wörk": first, "a": ActivityRow(1)}))
        await store.add_activity(ActivitySample(SLOT, {"wörk": second, "": ActivityRow(0, 1)}))
        assert await store.activity(SLOT - 10, SLOT) == [
            ActivitySample(
                SLOT,
                {
                    "wörk": ActivityRow(11, 22, 33, LARGE + 4, 55, (2, 7, 9), (1,)),
                    "a": ActivityRow(1),
                    OTHER_KINDS: ActivityRow(0, 1),
                },
            )
        ]

    async def test_slots_are_read_by_their_numbers_in_order(self, store: Store) -> None:
        for slot in (SLOT, SLOT - 1, SLOT + 2):
            await store.add_activity(ActivitySample(slot, {"work": ActivityRow(slot - SLOT + 5)}))
        assert [sample.slot for sample in await store.activity(SLOT - 1, SLOT + 1)] == [SLOT - 1, SLOT]
        assert [sample.slot for sample in await store.activity(SLOT + 1, SLOT + 9)] == [SLOT + 2]
        assert await store.activity(SLOT + 1, SLOT + 1) == []

    async def test_a_slot_replaces_the_one_at_the_same_place_of_the_ring(self, store: Store) -> None:
        await store.add_activity(ActivitySample(SLOT, {"old": ActivityRow(1)}))
        later = ActivitySample(SLOT + MAX_SLOTS, {"new": ActivityRow(2)})
        await store.add_activity(later)
        assert await store.activity(SLOT + 1, SLOT + MAX_SLOTS) == [later]
        assert await store.activity(SLOT, SLOT) == [], "the earlier slot has no place any more"

    async def test_a_whole_ring_of_large_slots_is_read(self, store: Store) -> None:
        rows = {f"{number:03d}" + "k" * 70: ActivityRow(1, durations=(1,) * 20) for number in range(MAX_SAMPLED_KINDS)}
        slots = range(SLOT, SLOT + MAX_SLOTS, 4)
        for slot in slots:
            await store.add_activity(ActivitySample(slot, rows))
        assert [sample.slot for sample in await store.activity(SLOT, SLOT + MAX_SLOTS - 1)] == list(slots)

    async def test_the_busiest_kinds_have_rows_and_the_others_are_counted_together(self, store: Store) -> None:
        busy = {f"busy-{number:03d}": ActivityRow(0, 0, 10) for number in range(MAX_SAMPLED_KINDS - 1)}
        quiet = {f"quiet-{number:03d}": ActivityRow(1, 1, durations=(0, 1)) for number in range(60)}
        await store.add_activity(ActivitySample(SLOT, {"": ActivityRow(3), **quiet}))
        await store.add_activity(ActivitySample(SLOT, busy))
        (slot,) = await store.activity(SLOT, SLOT)
        assert slot.rows.keys() == {*busy, "quiet-000", OTHER_KINDS}
        assert slot.rows["quiet-000"] == quiet["quiet-000"]
        assert slot.rows[OTHER_KINDS] == ActivityRow(3 + 59, 59, durations=(0, 59))

    async def test_the_names_of_kinds_in_a_slot_are_limited_in_bytes(self, store: Store) -> None:
        rows = {f"{number:03d}" + "ö" * 197: ActivityRow(100 - number) for number in range(50)}
        fit = MAX_SAMPLED_NAMES // (3 + 2 * 197)
        await store.add_activity(ActivitySample(SLOT, {**rows, "short": ActivityRow(1)}))
        await store.add_activity(ActivitySample(SLOT, rows))
        (slot,) = await store.activity(SLOT, SLOT)
        assert slot.rows.keys() == {*sorted(rows)[:fit], "short", OTHER_KINDS}
        assert sum(row.started for row in slot.rows.values()) == 1 + 2 * sum(range(51, 101))

    async def test_samples_of_several_nodes_at_a_time_are_all_counted(self, store: Store) -> None:
        sample = ActivitySample(SLOT, {"work": ActivityRow(1)})
        await asyncio.gather(*(store.add_activity(sample) for _ in range(6)))
        assert await store.activity(SLOT, SLOT) == [ActivitySample(SLOT, {"work": ActivityRow(6)})]

    async def test_a_clear_keeps_the_activity_and_a_namespace_has_its_own(self, store: Store) -> None:
        sample = ActivitySample(SLOT, {"work": ActivityRow(1)})
        neighbour = await self.open(namespace=f"{self.namespace}b")
        await neighbour.add_activity(sample)
        assert await store.activity(SLOT, SLOT) == []
        await neighbour.clear()
        assert await neighbour.activity(SLOT, SLOT) == [sample]
