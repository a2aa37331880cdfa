"""The parts of the engine that all verbs share, and the base of the groups of verbs that make up the store."""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from typing import Any, TypeVar, cast

from peerjob.model.clock import Clock
from peerjob.model.errors import DecodeError
from peerjob.model.record import StoreLimits
from peerjob.model.repeats import repeat_us
from peerjob.store.calls import CallRetry
from peerjob.store.kv.format.base import Entry
from peerjob.store.kv.format.keys import Keys
from peerjob.store.kv.format.rows import GONE, NOTHING_EXTRA, UNREADABLE_NODE, Row, decode_row, node_of
from peerjob.store.kv.format.thread_rows import thread_of
from peerjob.store.kv.format.unreadable import Unreadable
from peerjob.store.kv.index.counts import Counts
from peerjob.store.kv.index.queues import Queues

from .answers import AnswerLogs
from .clock_skew import ClockSkew
from .gates import Gates
from .guarded import GuardedKeyValue
from .hints import Hints
from .idle_signs import IdleSigns
from .kind_sets import KindSets
from .limit_rules import LimitsInUse
from .limited_wakes import LimitedWakes
from .own_hints import OwnHints
from .owned import ClaimIndex
from .set_aside import SetAside
from .settling import Settling
from .transaction_plan import Slots
from .writer import Writer

T = TypeVar("T")
V = TypeVar("V", bound=Callable[..., Coroutine[Any, Any, Any]])

_MAX_CACHED = 8192
_MAX_NAMES = 10_000


class KVContext:
    """What the verbs of one store share: connection, settings, cached records and names of nodes."""

    def __init__(
        self, kv: GuardedKeyValue, *, url: str, namespace: str, clock: Clock, limits: StoreLimits, retry_for: float = 0
    ) -> None:
        self.kv = kv
        self.url = url
        self.clock = clock
        self.limits = limits
        self.retry = CallRetry(clock=clock, retry_for=retry_for)
        self.keys = Keys(namespace)
        self.unreadable = Unreadable()
        self.limit_rules = LimitsInUse(kv, self.keys, self.unreadable)
        self.queues = Queues(kv, self.keys, self.unreadable)
        self.counts = Counts(kv, self.keys, clock, self.unreadable)
        self.writer = Writer(kv, self.keys, clock, self.counts, self.queues, url)
        self.clock_skew = ClockSkew(clock)
        limited = LimitedWakes(kv, self.keys, self.limit_rules, self.counts, self.clock_skew.median_us)
        self.own_hints = OwnHints()
        self.hints = Hints(kv, self.keys, clock, self.writer, self.queues, limited, self.own_hints)
        self.gates = Gates(kv, self.keys, self.queues, self.unreadable, self.limit_rules)
        settling = Settling(kv, self.keys, clock, self.gates, self.limit_rules, self.writer, self.hints)
        self.settle = self.hints.open_gates = settling.settle
        self.open_owed = settling.open_owed
        self.answer_logs = AnswerLogs(kv, self.keys, self.unreadable)
        self.claim_index = ClaimIndex(kv, self.keys, self.unreadable)
        self.slots = Slots(kv, self.keys, self.unreadable)
        self.kind_sets = KindSets(kv, self.keys)
        self.idle_signs = IdleSigns()
        self.set_aside = SetAside(kv, self.keys, clock, self.writer, self.counts, self.slots, self.gates, self.settle)
        self._rows: dict[str, tuple[int, Row]] = {}
        self._names: dict[str, str] = {}

    # -- records --------------------------------------------------------------------------------------------------

    async def rows(self, ids: Sequence[str], *, cached: bool = False) -> dict[str, tuple[int, Row]]:
        """Readable records by id, each with its revision.

        With `cached`, records that this store wrote come from memory. The compare of the next transaction detects old
        ones.
        """
        rows: dict[str, tuple[int, Row]] = {}
        missing: list[str] = []
        for id in dict.fromkeys(ids):
            known = self._rows.get(id) if cached else None
            if known is None:
                missing.append(id)
            else:
                rows[id] = known
        if missing:
            entries = await self.kv.get([self.keys.state + id for id in missing])
            for id, entry in zip(missing, entries, strict=True):
                row = None if entry is None else await self.row_of(id, entry)
                if entry is not None and row is not None:
                    rows[id] = (entry.mod, row)
        return rows

    async def row_of(self, id: str, entry: Entry) -> Row | None:
        """A record; None if the instance was removed. An unreadable record is set aside, and the answer is None."""
        if entry.value == GONE:
            return None
        try:
            row = decode_row(entry.value)
            if row.extra != NOTHING_EXTRA:
                thread_of(row)
            return row
        except DecodeError as error:
            await self.set_aside.put(id, entry, error)
            return None

    def cache(self, id: str, revision: int, row: Row) -> None:
        """Keep a record that this store wrote: the same store usually writes the next change."""
        if len(self._rows) >= _MAX_CACHED:
            del self._rows[next(iter(self._rows))]
        self._rows[id] = (revision, row)

    def is_cached(self, id: str) -> bool:
        """Whether a record is in memory."""
        return id in self._rows

    def cached(self, id: str) -> tuple[int, Row] | None:
        """The revision and the record that this store wrote last, if they are in memory."""
        return self._rows.get(id)

    def frees_nothing(self, id: str) -> bool:
        """Whether the cached record shows that the end of an instance lets no other one go: no slot, and no permits."""
        known = self._rows.get(id)
        return known is not None and not known[1].slot and known[1].extra == NOTHING_EXTRA

    def uncache(self, ids: Iterable[str]) -> None:
        """Forget some records, so that the next use reads them from the server."""
        for id in ids:
            self._rows.pop(id, None)

    def decoded(self, entry: Entry | None, key: str, decode: Callable[[bytes], T]) -> T | None:
        """A value; None if missing or unreadable. An unreadable value is reported once."""
        return None if entry is None else self.unreadable.read(key, entry, decode)

    # -- nodes ----------------------------------------------------------------------------------------------------

    def name(self, incarnation: str, entry: Entry | None) -> tuple[str, bool]:
        """A node's name, and whether the node's record shows that the node is alive."""
        if entry is None:
            return self._names.get(incarnation, ""), False
        row = node_of(entry.value)
        if row is UNREADABLE_NODE:
            # the node itself writes its record anew with its next renewal
            return self._names.get(incarnation, row.info.name), True
        self.cache_name(incarnation, row.info.name)
        return row.info.name, not row.ended

    def cache_name(self, incarnation: str, name: str) -> None:
        """Keep the name of a node."""
        if len(self._names) > _MAX_NAMES:
            self._names.clear()
        self._names[incarnation] = name

    async def name_of(self, incarnation: str) -> str:
        """The name of a node, or ""."""
        known = self._names.get(incarnation)
        if known is None:
            (entry,) = await self.kv.get([self.keys.node + incarnation])
            known, _ = self.name(incarnation, entry)
        return known

    # -- retention ------------------------------------------------------------------------------------------------

    async def removal_lease(self, id: str, row: Row, now_us: int) -> int:
        """The lease of the empty record that replaces a removed instance; 0 if no empty record is needed.

        The record is needed while the enqueue may be repeated. A full store accepts no enqueue and no such record.
        """
        period_us = repeat_us(id)
        if now_us >= row.history[0].at_us + period_us or self.kv.full:
            return 0
        return await self.writer.removal_lease(period_us)

    def expires_us(self, row: Row, now_us: int) -> int:
        """When retention removes an instance that becomes final now."""
        kept_us = self.limits.retention_us if row.retention_us is None else row.retention_us
        return now_us + kept_us


class KVCommands:
    """A group of the store's verbs. `KVStore` inherits all groups, so their names must differ."""

    def __init__(self, context: KVContext) -> None:
        self._context = context
        self._kv = context.kv
        self._keys = context.keys
        self._clock = context.clock
        self._writer = context.writer

    async def _retry(self, call: Callable[[], Awaitable[T]]) -> T:
        """Await a call, and repeat it while the server is away. Then settle what failed calls have left."""
        answer = await self._context.retry(call)
        if self._writer.owed:
            await self._context.open_owed()
        return answer


def retried(verb: V) -> V:
    """A verb that is repeated while the server is away."""

    @functools.wraps(verb)
    async def call(self: KVCommands, /, *args: Any, **kwargs: Any) -> Any:
        # `retried` decorates only methods of KVCommands, so the use of a private attribute is safe
        return await self._retry(lambda: verb(self, *args, **kwargs))  # pyright: ignore[reportPrivateUsage]

    return cast("V", call)
