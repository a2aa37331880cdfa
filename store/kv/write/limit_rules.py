"""The limits in use, as one store knows them.

Each transaction that changes them also writes the key of the layout, whose revision each request compares anyway. So a
store keeps the limits that it has read. A request that depends on them has the compare of that revision as a guard of
its own, `Rules.stamp`: if it is refused, the limits may have changed. In a namespace that never used limits, the number
of the layout says so, and no key is read.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence, Set
from itertools import chain

import msgspec

from peerjob.model.stored_limit import MAX_CONCURRENCY
from peerjob.store.kv.format.base import Compare, Entry, Found, Range
from peerjob.store.kv.format.keys import Keys, below
from peerjob.store.kv.format.limit_rows import (
    LimitedKind,
    RateUse,
    StoredLimit,
    decode_limit,
    decode_limited_kind,
    decode_rate_use,
)
from peerjob.store.kv.format.rows import idle_of
from peerjob.store.kv.format.unreadable import WRITTEN_ANEW, Unreadable

from .guarded import GuardedKeyValue

_CONTENDED = 200
"""After a conflict, so many requests of a store stay away from the choices of others."""
_NO_LIMIT = "it lets all instances pass until it is published again"


class Rules(msgspec.Struct, frozen=True):
    """All limits of the namespace."""

    stamp: Compare
    """Holds while these are the limits."""
    kinds: Mapping[str, LimitedKind] = {}
    limits: Mapping[str, StoredLimit] = {}
    lacking: Set[str] = frozenset()
    """Kinds whose limits cannot be read, or one of whose shared limits is missing."""

    def shared(self, kind: str) -> list[str]:
        """The shared limits of a kind."""
        of_kind = self.kinds.get(kind)
        return [] if of_kind is None else [name for name in of_kind.shared if name in self.limits]


class LimitsInUse:
    """Reads the limits when they have changed."""

    def __init__(self, kv: GuardedKeyValue, keys: Keys, unreadable: Unreadable) -> None:
        self._kv = kv
        self._keys = keys
        self._unreadable = unreadable
        self.known = Rules(Compare(keys.layout, mod=-1))
        """The limits that were read last. For the choice of nodes to wake, they are new enough."""
        self.contended = 0
        """In so many of the next claims, this store stays away from the permits that other stores prefer."""

    def wrote(self, revisions: Iterable[int]) -> None:
        """Learn from a claim whether several stores choose the same permits."""
        self.contended = max(0, self.contended - 1) if all(revisions) else _CONTENDED

    async def current(self) -> Rules:
        """The limits. A transaction that depends on them compares `Rules.stamp`."""
        kv, keys = self._kv, self._keys
        while (stamp := kv.stamp or await kv.read_layout()) != self.known.stamp:
            if not kv.limited:
                self.known = Rules(stamp)
                continue
            layout, kinds, limits = await kv.read([Range(keys.layout), below(keys.limited), below(keys.limits)])
            if [entry.mod for _, entry in layout.items] != [stamp.mod]:
                await kv.read_layout()
                continue
            read, cut = self._unreadable.read, len(keys.limited)
            of_kinds = {
                keys.unescaped(key[cut:]): read(key, entry, decode_limited_kind, _NO_LIMIT)
                for key, entry in kinds.items
            }
            cut = len(keys.limits)
            of_names = {
                keys.unescaped(key[cut:]): read(key, entry, decode_limit, _NO_LIMIT) for key, entry in limits.items
            }
            readable = {name: limit for name, limit in of_names.items() if limit is not None}
            self.known = Rules(
                stamp,
                {kind: limited for kind, limited in of_kinds.items() if limited is not None},
                readable,
                {kind for kind, of_kind in of_kinds.items() if of_kind is None or {*of_kind.shared} - readable.keys()},
            )
        return self.known

    def changed(
        self, before: Rules, kinds: Mapping[str, LimitedKind], limits: Mapping[str, StoredLimit], revision: int
    ) -> None:
        """Keep the limits that this store wrote: to read all of them for each part of many kinds would take long."""
        if not before.lacking:
            self.known = Rules(Compare(self._keys.layout, mod=revision), kinds, limits)

    def reads(self, name: str, *, whole: bool = False) -> list[Range]:
        """The reads of the state of a shared limit: the number of its permits, with `whole` also all, and its rate."""
        return [below(self._keys.permits(name), 0 if whole else 1, keys_only=True), Range(self._keys.rate_use(name))]

    def states(
        self, rules: Rules, names: Sequence[str], answers: Sequence[Found], now_us: int
    ) -> dict[str, LimitState]:
        """The states of shared limits, from the answers to the `reads` of each."""
        return {
            name: self._state(name, rules.limits[name], answers[2 * at], answers[2 * at + 1], now_us)
            for at, name in enumerate(names)
        }

    def _state(self, name: str, limit: StoredLimit, permits: Found, use: Found, now_us: int) -> LimitState:
        entry = use.items[0][1] if use.items else None
        read = None
        if entry is not None:
            read = self._unreadable.read(self._keys.rate_use(name), entry, decode_rate_use, WRITTEN_ANEW)
        return LimitState(name, limit, now_us, permits, entry, read or RateUse())


class Alarms:
    """The moments that idle nodes were told: at each, one node claims because a shared limit opens."""

    def __init__(
        self, keys: Keys, idle: Iterable[tuple[str, Entry]], live: Found, *, own: str = "", but: str = ""
    ) -> None:
        alive, cut = ({key[len(keys.live) :] for key, _ in live.items} | {own}) - {but}, len(keys.idle)
        nodes = [idle_of(entry.value) for key, entry in idle if key[cut:] in alive]
        self._told = [pair for node in nodes if node is not None for pair in node.opens]

    def has(self, state: LimitState) -> bool:
        """Whether a live idle node claims when the limit opens, or before."""
        return any(name == state.name and state.now_us <= us <= state.opens_us for name, us in self._told)


class LimitState(msgspec.Struct):
    """A shared limit at one moment."""

    name: str
    limit: StoredLimit
    now_us: int
    permits: Found
    entry: Entry | None
    use: RateUse

    @property
    def places(self) -> int:
        """How many more claims the concurrency allows."""
        concurrency = self.limit.numbers.concurrency or MAX_CONCURRENCY
        return max(0, concurrency - self.permits.count)

    @property
    def starts(self) -> int:
        """How many claims the time allows now; 0 while the limit is closed."""
        if self.now_us < self.use.closed_us:
            return 0
        return self.limit.numbers.starts_at(self.use.tat_us, self.now_us)

    @property
    def free(self) -> int:
        """How many instances a claim may take."""
        return min(self.places, self.starts)

    @property
    def opens_us(self) -> int:
        """When a limit opens that time has closed; 0 if it is open, except for its concurrency."""
        closed_us = self.use.closed_us if self.use.closed_us > self.now_us else 0
        numbers, tat_us = self.limit.numbers, self.use.tat_us
        used_up = numbers.starts_at(tat_us, self.now_us) == 0
        return max(closed_us, numbers.opens_us(tat_us)) if used_up else closed_us


def free_numbers(held: Collection[int], concurrency: int, start: int, own: int = 0, parts: int = 1) -> Iterator[int]:
    """The numbers of permits that may be taken, beginning anywhere, so that few writers choose the same one.

    Of `parts` shares of the numbers, those of the share `own` come first.
    A lower concurrency leaves permits above it. While h of these are held, the h highest free numbers are left out. So
    writers that have read different states cannot exceed the concurrency together either.
    """
    end, above = concurrency, sum(number >= concurrency for number in held)
    while above and end:
        end -= 1
        above -= end not in held
    share = range(own, end, parts)
    firsts = (share[(start + at) % len(share)] for at in range(len(share)))
    rest = range(end if parts > 1 else 0)
    others = (number for at in rest if (number := (start + at) % end) % parts != own)
    return (number for number in chain(firsts, others) if number not in held)
