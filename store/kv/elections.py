"""The leadership of one namespace, on any key-value store: a key that hangs on its leader's lease."""

from __future__ import annotations

from peerjob.clock import Clock
from peerjob.errors import StoreUnavailableError
from peerjob.firing import Candidate, Leader, Term
from peerjob.store.answering import answer_within

from .base import Compare, KeyValue, Put, Step, Watch
from .keys import Keys
from .rows import encode
from .schedule_rows import Seat, decode_seat
from .writer import ROUNDS

_OPEN_TIMEOUT = 5.0
_FIRST_TIMEOUT = 2.0


class KVElections:
    """Stands for leader over a connection of its own; the store that has the jobs may be another one.

    The revision at which the key was made is the term. Keeping the leadership extends the lease and writes nothing.
    """

    def __init__(self, kv: KeyValue, *, url: str, namespace: str, clock: Clock) -> None:
        self._kv = kv
        self._url = url
        self._prefix = Keys(namespace).leader
        self._now = f"{self._prefix}now"
        self._left = f"{self._prefix}left"
        self._clock = clock
        self._timeout = _FIRST_TIMEOUT
        self._watch: Watch | None = None

    @property
    def identity(self) -> str:
        return self._kv.identity

    async def open(self) -> None:
        async with answer_within(_OPEN_TIMEOUT, url=self._url):
            await self._kv.open()
        self._watch = self._kv.watch(self._prefix)

    async def close(self) -> None:
        if self._watch is not None:
            self._watch.close()
            self._watch = None
        await self._kv.close()

    async def campaign(self, candidate: Candidate, *, ttl_us: int) -> Leader:
        self._timeout = ttl_us / 5_000_000
        async with answer_within(self._timeout, url=self._url):
            for _ in range(ROUNDS):
                (entry,) = await self._kv.get([self._now])
                if entry is None:
                    leader = await self._take(candidate, ttl_us)
                    if leader is not None:
                        return leader
                    continue
                seat = decode_seat(entry.value)
                if seat.incarnation != candidate.incarnation or await self._kv.keepalive(seat.lease):
                    return self._leader(seat, entry.mod)
        raise StoreUnavailableError(self._url, "the leadership changes hands too often")

    async def _take(self, candidate: Candidate, ttl_us: int) -> Leader | None:
        """Sit down on the free seat; None when somebody else was faster."""
        lease = await self._kv.grant(ttl_us)
        seat = Seat(candidate.incarnation, candidate.name, lease, self._clock.time_us())
        applied = await self._kv.txn([Step([Compare(self._now)], [Put(self._now, encode(seat), lease)])])
        if applied.steps[0] is None:
            await self._kv.revoke(lease)
            return None
        return self._leader(seat, applied.revision)

    async def resign(self, incarnation: str) -> None:
        async with answer_within(self._timeout, url=self._url):
            (entry,) = await self._kv.get([self._now])
            if entry is None or (seat := decode_seat(entry.value)).incarnation != incarnation:
                return
            await self._kv.revoke(seat.lease)
            # a watch tells of keys that were put, not of those that went
            await self._kv.txn([Step([], [Put(self._left, entry.value)])])

    async def leader(self) -> Leader | None:
        async with answer_within(self._timeout, url=self._url):
            (entry,) = await self._kv.get([self._now])
        return None if entry is None else self._leader(decode_seat(entry.value), entry.mod)

    async def changed(self, timeout: float) -> bool:
        if self._watch is None:
            self._watch = self._kv.watch(self._prefix)
        return await self._watch.changed(timeout) != []

    def _leader(self, seat: Seat, term: int) -> Leader:
        return Leader(
            incarnation=seat.incarnation,
            name=seat.name,
            term=Term(self.identity, term),
            since_us=seat.since_us,
        )
