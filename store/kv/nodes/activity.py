"""The verbs of activity: a ring of keys, one for each slot, which later slots overwrite."""

from __future__ import annotations

from peerjob.model.activity_sample import ActivitySample
from peerjob.model.errors import StoreUnavailableError
from peerjob.store.activity import encode_sample, limited, merged, position_of, samples_in
from peerjob.store.kv.format.base import Compare, Put, Transaction, mod_of
from peerjob.store.kv.write.context import KVCommands, retried
from peerjob.store.kv.write.writer import ROUNDS

_BATCH = 40
"""Slots that one request reads: below 3 MB, also if all numbers are large."""


class ActivityCommands(KVCommands):
    """The verbs `add_activity` and `activity`."""

    async def add_activity(self, sample: ActivitySample) -> None:
        if self._kv.full:
            return
        sample, key = limited(sample), self._activity_key(sample.slot)
        for _ in range(ROUNDS):
            (entry,) = await self._kv.get([key])
            total = merged(None if entry is None else entry.value, sample)
            transaction = Transaction([Compare(key, mod=mod_of(entry))], [Put(key, encode_sample(total))])
            if (await self._kv.txn([transaction])).answers[0] is not None:
                return
        raise StoreUnavailableError(self._keys.root[:-1], "the activity changes again and again")

    @retried
    async def activity(self, first: int, last: int) -> list[ActivitySample]:
        samples: list[ActivitySample] = []
        for begin in range(first, last + 1, _BATCH):
            keys = [self._activity_key(slot) for slot in range(begin, min(begin + _BATCH, last + 1))]
            entries = await self._kv.get(keys)
            samples += samples_in([entry.value for entry in entries if entry is not None], first, last)
        return samples

    def _activity_key(self, slot: int) -> str:
        return f"{self._keys.activity}{position_of(slot):03d}"
