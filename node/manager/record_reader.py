"""Reads the records of instances; reads of one moment share a request to the store."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from peerjob.model.errors import UnknownInstanceError
from peerjob.model.ids import checked_id
from peerjob.model.record import Record
from peerjob.store.base import Store

from .batcher import Batcher

MAX_READ = 32
"""Instances in one read: each may be as large as a payload."""


class RecordReader:
    """Reads records for a node."""

    def __init__(self, store: Store) -> None:
        self._batcher = Batcher(store.get, _batches)

    async def record(self, uuid: str | UUID) -> Record:
        """One record; raises UnknownInstanceError, or OptionError for text that is no UUID."""
        id = checked_id(uuid)
        found = await self._batcher.ask(id)
        if found is None:
            raise UnknownInstanceError(id)
        return found


def _batches(ids: Sequence[str]) -> list[Sequence[str]]:
    return [ids[at : at + MAX_READ] for at in range(0, len(ids), MAX_READ)]
