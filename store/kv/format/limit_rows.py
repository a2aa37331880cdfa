"""The records that the engine stores about limits, and the permits that the record of an instance names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import msgspec

from peerjob.model.errors import DecodeError
from peerjob.model.record import Count, Moment, NewInstance
from peerjob.model.spec import reader
from peerjob.model.stored_limit import LimitNumbers

from .rows import NOTHING_EXTRA, Id, Kind, LimitKey, Priority, Row, encode, or_default

_PERMITS = "permits"
"""The permits of the last claim in `Row.extra`."""
_LIMIT_KEY = "limit_key"
"""The limit key of the instance in `Row.extra`."""

Name = Annotated[str, msgspec.Meta(min_length=1)]
Permit = tuple[Name, Count]
"""The name of a shared limit, and the number of a permit."""


class KeyPermit(msgspec.Struct, frozen=True, array_like=True):
    """An instance that is past the gate of its limit key, with what is needed to find its queue entry."""

    id: Id
    priority: Priority
    due_us: Moment
    queued_us: Moment
    """The time in its queue entry."""
    suspect: bool
    concurrency: Count


class Waiting(msgspec.Struct, frozen=True, array_like=True):
    """The entry of an instance that waits for a permit of its limit key."""

    suspect: bool
    concurrency: Count


class StoredLimit(msgspec.Struct, frozen=True, array_like=True):
    """A shared limit: the kinds that have it, and its numbers by their code and by an operator."""

    kinds: tuple[Kind, ...] = ()
    code: LimitNumbers = LimitNumbers()
    setting: LimitNumbers = LimitNumbers()
    note: str = ""
    extra: msgspec.Raw = NOTHING_EXTRA

    @property
    def numbers(self) -> LimitNumbers:
        """The numbers that count."""
        return self.setting.over(self.code)


class LimitedKind(msgspec.Struct, frozen=True, array_like=True):
    """The limits of a kind."""

    shared: tuple[Name, ...] = ()
    key_concurrency: Count = 0
    """The concurrency of each key by the code; 0: the kind has no key limit."""
    key_setting: Count = 0
    """The concurrency of each key by an operator; 0: not set."""
    note: str = ""
    """The note of the setting."""
    paused: bool = False
    reason: str = ""
    """The note of the pause."""
    extra: msgspec.Raw = NOTHING_EXTRA

    @property
    def gates(self) -> int:
        """The concurrency of each key; 0: the kind has no key limit."""
        return self.key_setting or self.key_concurrency


class RateUse(msgspec.Struct, frozen=True, array_like=True):
    """How far the rate of a shared limit is used up, and until when the limit is closed."""

    tat_us: Moment = 0
    """The theoretical arrival time of the next claim (GCRA)."""
    closed_us: Moment = 0

    def with_tat(self, tat_us: int) -> RateUse:
        """The use after further claims."""
        return RateUse(tat_us, self.closed_us)


_read_limit = reader(StoredLimit, "shared limit")
decode_limited_kind = reader(LimitedKind, "limits of a kind")
decode_rate_use = reader(RateUse, "use of a rate")
decode_key_permit = reader(KeyPermit, "permit of a limit key")
key_permit_of = or_default(decode_key_permit, None)
decode_waiting = reader(Waiting, "entry of an instance that waits for its limit key")
_extra_of = or_default(reader(dict[str, msgspec.Raw], "later fields of a record"), dict[str, msgspec.Raw]())
_limit_key_of = or_default(reader(tuple[Name, Count], "limit key"), None)
_permits_of = or_default(reader(tuple[Permit, ...], "permits"), tuple[Permit, ...]())


def decode_limit(data: bytes) -> StoredLimit:
    """Decode a shared limit. Raises DecodeError, also for numbers that no limit has."""
    limit = _read_limit(data)
    for numbers in (limit.code, limit.setting):
        if min(numbers.concurrency, numbers.period_us, numbers.burst) < 0:
            raise DecodeError("shared limit cannot be read: a number is below 0")
    return limit


def permits_of(row: Row) -> tuple[Permit, ...]:
    """The permits of the last claim. They are held while the instance is claimed or its body runs."""
    if row.extra == NOTHING_EXTRA:
        return ()
    permits = _extra_of(row.extra).get(_PERMITS)
    return () if permits is None else _permits_of(permits)


def limit_key_of(row: Row) -> LimitKey | None:
    """The limit key of an instance, and the concurrency that came with it."""
    if row.extra == NOTHING_EXTRA:
        return None
    stored = _extra_of(row.extra).get(_LIMIT_KEY)
    return None if stored is None else _limit_key_of(stored)


def gate_of(row: Row) -> tuple[str, str] | None:
    """Kind and limit key of an instance."""
    limit_key = limit_key_of(row)
    return None if limit_key is None else (row.kind, limit_key[0])


def extra_of(new: NewInstance) -> msgspec.Raw:
    """The last field of the record of a new instance."""
    if not new.limit_key:
        return NOTHING_EXTRA
    return msgspec.Raw(encode({_LIMIT_KEY: (new.limit_key, new.key_concurrency)}))


def with_permits(extra: msgspec.Raw, permits: Sequence[Permit]) -> msgspec.Raw:
    """The last field of a record that a claim writes."""
    if extra == NOTHING_EXTRA and not permits:
        return extra
    others: dict[str, Any] = {**_extra_of(extra)}
    others.pop(_PERMITS, None)
    return msgspec.Raw(encode({**others, _PERMITS: permits} if permits else others))
