"""The index of claims. An entry repeats a part of a record, so the record decides where the two differ."""

from __future__ import annotations

from collections.abc import Sequence

from peerjob.model.errors import DecodeError
from peerjob.store.kv.format.base import Compare, Entry, KeyValue, Put, Transaction, apply_all
from peerjob.store.kv.format.keys import Keys
from peerjob.store.kv.format.rows import Owned, decode_owned, decode_row, encode, is_gone
from peerjob.store.kv.format.unreadable import WRITTEN_ANEW, Unreadable


class ClaimIndex:
    """Reads entries of the index, and corrects those that differ from their record."""

    def __init__(self, kv: KeyValue, keys: Keys, unreadable: Unreadable) -> None:
        self._kv = kv
        self._keys = keys
        self._unreadable = unreadable

    async def claims(self, items: Sequence[tuple[str, Entry]], *, doubted: bool = False) -> dict[str, Owned]:
        """The claims in some entries, by key.

        The record is read for an entry that cannot be read, and for one that says that its instance is cancelled. With
        `doubted`, the records of all entries are read. Entries without a claim in their record are left out.
        """
        claims: dict[str, Owned] = {}
        checked: list[tuple[str, Entry]] = []
        for key, entry in items:
            owned = self._unreadable.read(key, entry, decode_owned, WRITTEN_ANEW)
            if owned is None or owned.releasing or doubted:
                checked.append((key, entry))
            if owned is not None:
                claims[key] = owned
        if checked:
            await self._check(checked, claims)
        return claims

    async def _check(self, checked: Sequence[tuple[str, Entry]], claims: dict[str, Owned]) -> None:
        """Take the claims of these entries from the records, and write the entries that differ."""
        keys = self._keys
        parts = [key[len(keys.own) :].split("/") for key, _ in checked]
        records = await self._kv.get([keys.state + id for _, id in parts])
        transactions: list[Transaction] = []
        for (key, entry), (incarnation, id), record in zip(checked, parts, records, strict=True):
            before = claims.pop(key, None)
            owned = None if record is None else _claim_of(record, incarnation)
            if record is not None and owned is not None:
                claims[key] = owned
                if owned != before:
                    compares = [Compare(key, mod=entry.mod), Compare(keys.state + id, mod=record.mod)]
                    transactions.append(Transaction(compares, [Put(key, encode(owned))]))
        if transactions:
            await apply_all(self._kv, transactions)


def _claim_of(record: Entry, incarnation: str) -> Owned | None:
    """The claim in a record; None if the record has none of this incarnation, or cannot be read."""
    if is_gone(record):
        return None
    try:
        row = decode_row(record.value)
    except DecodeError:
        return None
    return Owned.of(row) if row.owner == incarnation and row.keeps else None
