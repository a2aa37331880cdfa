"""The leadership of one namespace, on any key-value store: a key that hangs on its leader's lease."""

from __future__ import annotations

from peerjob.model.clock import Clock
from peerjob.model.errors import DecodeError, StoreUnavailableError
from peerjob.model.firing import Candidate, Leader, Term
from peerjob.store.timeouts import answer_within

from .base import Compare, Entry, KeyValue, Put, Step, Watch
from .keys import Keys
from .rows import encode
from .schedule_rows import LeaderRow, decode_leader
from .writer import ROUNDS

_OPEN_TIMEOUT = 5.0
_FIRST_TIMEOUT = 2.0


class KVElections:
    """Stands for leader over a connection of its own; the store that has the jobs may be another one.

    The revision at which the key was made is the term. Keeping the leadership extends the lease and writes nothing.

    A cluster id does not tell a cluster from one that was made anew with the same settings, or restored: both count
    revisions from an earlier point. So a random token beside the key is part of what terms belong to. A restored
    snapshot holds the old token, which a leader replaces when the store refuses its term.
    """

    def __init__(self, kv: KeyValue, *, url: str, namespace: str, clock: Clock) -> None:
        self._kv = kv
        self._url = url
        self._prefix = Keys(namespace).leader
        self._now = f"{self._prefix}now"
        self._left = f"{self._prefix}left"
        self._token = f"{self._prefix}token"
        self._clock = clock
        self._timeout = _FIRST_TIMEOUT
        self._watch: Watch | None = None

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
                entry, token = await self._kv.get([self._now, self._token])
                if token is None:
                    await self._kv.txn([Step([Compare(self._token)], [self._new_token()])])
                elif entry is None:
                    leader = await self._take(candidate, ttl_us, token)
                    if leader is not None:
                        return leader
                else:
                    row = _leader_row(entry.value)
                    if row.incarnation != candidate.incarnation or await self._kv.keepalive(row.lease):
                        return self._leader(row, entry.mod, token)
        raise StoreUnavailableError(self._url, "the leadership changes hands too often")

    async def _take(self, candidate: Candidate, ttl_us: int, token: Entry) -> Leader | None:
        """Take the free leadership; None when another candidate was faster."""
        lease = await self._kv.grant(ttl_us)
        row = LeaderRow(candidate.incarnation, candidate.name, lease, self._clock.time_us())
        compares = [Compare(self._now), Compare(self._token, mod=token.mod)]
        applied = await self._kv.txn([Step(compares, [Put(self._now, encode(row), lease)])])
        if applied.steps[0] is None:
            await self._kv.revoke(lease)
            return None
        return self._leader(row, applied.revision, token)

    async def resign(self, incarnation: str, *, refused: Term | None = None) -> None:
        async with answer_within(self._timeout, url=self._url):
            entry, token = await self._kv.get([self._now, self._token])
            if entry is None or (row := _leader_row(entry.value)).incarnation != incarnation:
                return
            if refused is not None and refused == self._leader(row, entry.mod, token).term:
                await self._kv.txn([Step([Compare(self._now, mod=entry.mod)], [self._new_token()])])
            await self._kv.revoke(row.lease)
            # a watch tells of keys that were put, not of those that went
            await self._kv.txn([Step([], [Put(self._left, entry.value)])])

    async def leader(self) -> Leader | None:
        async with answer_within(self._timeout, url=self._url):
            entry, token = await self._kv.get([self._now, self._token])
        return None if entry is None else self._leader(_leader_row(entry.value), entry.mod, token)

    async def changed(self, timeout: float) -> bool:
        if self._watch is None:
            self._watch = self._kv.watch(self._prefix)
        return await self._watch.changed(timeout) != {}

    def _new_token(self) -> Put:
        return Put(self._token, b"%016x" % self._clock.random.getrandbits(64))

    def _leader(self, row: LeaderRow, number: int, token: Entry | None) -> Leader:
        origin = "" if token is None else token.value.decode()
        return Leader(
            incarnation=row.incarnation,
            name=row.name,
            term=Term(f"{self._kv.identity}:{origin}", number),
            since_us=row.since_us,
        )


def _leader_row(data: bytes) -> LeaderRow:
    """Who leads; a stranger for an entry that cannot be read, until the lease that it hangs on ends."""
    try:
        return decode_leader(data)
    except DecodeError:
        return LeaderRow("", "?", 0, 0)
