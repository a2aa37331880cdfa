"""Merges and limits samples of activity, and decodes them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import zip_longest

import msgspec

from peerjob.model.activity_sample import (
    MAX_SAMPLED_KINDS,
    MAX_SAMPLED_NAMES,
    MAX_SLOTS,
    OTHER_KINDS,
    ActivityRow,
    ActivitySample,
)
from peerjob.model.errors import DecodeError
from peerjob.model.spec import reader

from .calls import LOGGER

_decode = reader(ActivitySample, "activity")


def position_of(slot: int) -> int:
    """The place of a slot in the ring. A later slot takes the place of the one that is MAX_SLOTS earlier."""
    return slot % MAX_SLOTS


def encode_sample(sample: ActivitySample) -> bytes:
    """Encode a sample for storage."""
    return msgspec.msgpack.encode(sample)


def samples_in(stored: Iterable[bytes], first: int, last: int) -> list[ActivitySample]:
    """The samples of the slots from `first` to `last`, without those that cannot be decoded."""
    samples: list[ActivitySample] = []
    for data in stored:
        try:
            sample = _decode(data)
        except DecodeError as error:
            LOGGER.error("a sample of activity is left out: %s", error)
            continue
        if first <= sample.slot <= last:
            samples.append(sample)
    return samples


def merged(stored: bytes | None, sample: ActivitySample) -> ActivitySample:
    """A sample added to the stored one, if that is of the same slot and can be decoded; within the limits."""
    before = [] if stored is None else samples_in([stored], sample.slot, sample.slot)
    rows: dict[str, ActivityRow] = {}
    for slot_sample in (*before, sample):
        for kind, row in slot_sample.rows.items():
            _add(rows, kind, row)
    return limited(ActivitySample(sample.slot, rows))


def limited(sample: ActivitySample) -> ActivitySample:
    """The same counts, with rows for the busiest kinds only; the other kinds are added to the row OTHER_KINDS."""
    rows: dict[str, ActivityRow] = {}
    bytes_left = MAX_SAMPLED_NAMES
    kinds = 0
    for kind in sorted(sample.rows, key=lambda sampled: (-sample.rows[sampled].events, sampled)):
        size = len(kind.encode())
        keeps = kind == OTHER_KINDS or (kinds < MAX_SAMPLED_KINDS and size <= bytes_left)
        if keeps and kind != OTHER_KINDS:
            kinds, bytes_left = kinds + 1, bytes_left - size
        _add(rows, kind if keeps else OTHER_KINDS, sample.rows[kind])
    return ActivitySample(sample.slot, rows)


def _add(rows: dict[str, ActivityRow], kind: str, row: ActivityRow) -> None:
    before = rows.get(kind)
    rows[kind] = row if before is None else _sum(before, row)


def _sum(row: ActivityRow, other: ActivityRow) -> ActivityRow:
    return ActivityRow(
        row.started + other.started,
        row.completed + other.completed,
        row.failed + other.failed,
        row.retried + other.retried,
        row.cancelled + other.cancelled,
        _added(row.durations, other.durations),
        _added(row.waits, other.waits),
    )


def _added(counts: Sequence[int], other: Sequence[int]) -> tuple[int, ...]:
    return tuple(map(sum, zip_longest(counts, other, fillvalue=0)))
