"""Samples of activity, as a node adds them to the store: counts by kind, in slots of ten seconds."""

from __future__ import annotations

import msgspec

from .record import Count

SLOT_US = 10_000_000
"""The length of a slot. Slots are numbered from the epoch on."""
MAX_SLOTS = 366
"""The slots that a store keeps: one hour, the present slot, and slots whose samples have not all arrived."""
MAX_SAMPLED_KINDS = 200
"""Most kinds with a row of their own in a slot. These are the busiest kinds; the others are counted together."""
MAX_SAMPLED_NAMES = 16_384
"""Most bytes of the names of these kinds."""
OTHER_KINDS = ""
"""The name of the row in which the other kinds are counted together."""


class ActivityRow(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """Counts of one kind in one slot, in the order in which they are stored. They have the names of `KindActivity`.

    The times are counts by the buckets of `Distribution.BOUNDS`; the last buckets may be missing if they are empty.
    """

    started: Count = 0
    completed: Count = 0
    failed: Count = 0
    retried: Count = 0
    cancelled: Count = 0
    durations: tuple[Count, ...] = ()
    waits: tuple[Count, ...] = ()

    @property
    def events(self) -> int:
        """How busy the kind is."""
        return self.started + self.completed + self.failed + self.retried + self.cancelled


class ActivitySample(msgspec.Struct, array_like=True, frozen=True):
    """The counts of one slot: those of one node, or in the store those of all nodes."""

    slot: Count
    rows: dict[str, ActivityRow]
    """By kind; OTHER_KINDS is the row of all other kinds."""
