"""Leader election for one namespace: a key that the leader keeps with its lease."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

import msgspec

from peerjob.model.clock import Clock
from peerjob.model.errors import DecodeError, StoreUnavailableError
from peerjob.model.firing import Candidate, Leader, Term
from peerjob.store.calls import MAX_ANSWER, answer_within
from peerjob.store.kv.format.base import Compare, Delete, Entry, KeyValue, Op, Put, Transaction, Watch, mod_of
from peerjob.store.kv.format.keys import Keys
from peerjob.store.kv.format.rows import encode
from peerjob.store.kv.format.schedule_rows import LeaderRow, decode_leader
from peerjob.store.kv.format.unreadable import WRITTEN_ANEW, Unreadable
from peerjob.store.kv.write.writer import ROUNDS

_OPEN_TIMEOUT = 5.0
_FIRST_TIMEOUT = 2.0
_READ_AGAIN = 3.0
"""Seconds after which a leader reads the key of the leadership again."""
_TOKEN = re.compile("[0-9a-f]{16}")
_AFTER_END = 0.25
"""Most seconds from the end of a leadership to the campaign of a peer, so that not all peers campaign at once."""


class _Held(msgspec.Struct, frozen=True):
    """The leadership of the last candidate."""

    row: LeaderRow
    leader: Leader
    lease: int
    until: float
    """The elapsed time until which the key of the leadership need not be read."""


class KVElections:
    """The election over a separate connection. The store of the jobs may be another server.

    The term is the revision at which the key was written. To keep the leadership, a leader extends its lease and writes
    nothing. It reads the key only every few campaigns: the key lives as long as the lease, and no peer writes it
    meanwhile.

    Other nodes wait for the end of that lease. A watch reports it, or they ask once how long it has left.

    A new cluster with the same settings, or a restored one, has the same cluster id but counts revisions from an
    earlier point. So the coordinator of terms also contains a random token, stored beside the key. A restored snapshot
    has the old token. If the store then refuses a leader's term, the leader replaces the token.
    """

    def __init__(
        self, kv: KeyValue, *, url: str, namespace: str, clock: Clock, unreadable: Unreadable | None = None
    ) -> None:
        self._kv = kv
        self._unreadable = unreadable or Unreadable()
        self._url = url
        self._prefix = Keys(namespace).leader
        self._now = f"{self._prefix}now"
        self._left = f"{self._prefix}left"
        self._token = f"{self._prefix}token"
        self._clock = clock
        self._timeout = _FIRST_TIMEOUT
        self._watch: Watch | None = None
        self._held: _Held | None = None
        self._lease_of_peer = 0
        """The lease of the leader, if the last question was a campaign and another candidate leads; 0: none."""

    async def open(self) -> None:
        async with answer_within(_OPEN_TIMEOUT, url=self._url):
            await self._kv.open()
        self._watch = self._new_watch()

    async def close(self) -> None:
        self._held, self._lease_of_peer = None, 0
        if self._watch is not None:
            self._watch.close()
            self._watch = None
        await self._kv.close()

    async def campaign(self, candidate: Candidate, *, ttl_us: int) -> Leader:
        self._timeout = ttl_us * MAX_ANSWER / 1_000_000
        held, self._held, self._lease_of_peer = self._held, None, 0
        asked_at = self._clock.elapsed()
        async with answer_within(self._timeout, url=self._url):
            if held is not None and held.row.incarnation == candidate.incarnation and asked_at < held.until:
                extended = await self._kv.keepalive(held.lease)
                if extended:
                    self._held = held
                    return held.leader
            for _ in range(ROUNDS):
                entry, token = await self._kv.get([self._now, self._token])
                origin, row = self._origin(token), self._row(entry)
                if not origin:
                    await self._kv.txn([Transaction([Compare(self._token, mod=mod_of(token))], [self._new_token()])])
                elif entry is None or row is None:
                    leader = await self._take(candidate, ttl_us, entry, token)
                    if leader is not None:
                        return leader
                else:
                    leader = self._leader(row, entry.mod, origin)
                    if row.incarnation != candidate.incarnation:
                        self._lease_of_peer = entry.lease
                        return leader
                    if await self._kv.keepalive(entry.lease):
                        self._held = _Held(row, leader, entry.lease, asked_at + _READ_AGAIN)
                        return leader
        raise StoreUnavailableError(self._url, "the leadership changes hands too often")

    async def _take(self, candidate: Candidate, ttl_us: int, entry: Entry | None, token: Entry | None) -> Leader | None:
        """Take the leadership that is free or whose entry is unreadable; None if another candidate was faster.

        The candidate that takes an unreadable leadership begins a later term, so the store refuses the former leader.
        """
        lease = await self._kv.grant(ttl_us)
        row = LeaderRow(candidate.incarnation, candidate.name, lease, self._clock.time_us())
        compares = [Compare(self._now, mod=mod_of(entry)), Compare(self._token, mod=mod_of(token))]
        applied = await self._kv.txn([Transaction(compares, [Put(self._now, encode(row), lease)])])
        if applied.answers[0] is None:
            await self._kv.revoke(lease)
            return None
        return self._leader(row, applied.revision, self._origin(token))

    async def resign(self, incarnation: str, *, refused: Term | None = None) -> None:
        held, self._held = self._held, None
        async with answer_within(self._timeout, url=self._url):
            own = held if held is not None and held.row.incarnation == incarnation and refused is None else None
            if own is not None and await self._leave(own.row, own.leader.term.number):
                return
            entry, token = await self._kv.get([self._now, self._token])
            row = self._row(entry)
            if entry is not None and row is not None and row.incarnation == incarnation:
                is_refused = refused is not None and refused == self._leader(row, entry.mod, self._origin(token)).term
                await self._leave(row, entry.mod, [self._new_token()] if is_refused else [])

    async def _leave(self, row: LeaderRow, mod: int, also: Sequence[Op] = ()) -> bool:
        """Give up the leadership that was written at revision `mod`; the answer is whether it was still held.

        A watch does not report deleted keys, so a write tells the other nodes. They need not wait for the lease's end.
        No request revokes the lease: it has no key any more, and a failure would look like one of the resignation.
        """
        ops = [Delete(self._now), Put(self._left, encode(row)), *also]
        applied = await self._kv.txn([Transaction([Compare(self._now, mod=mod)], ops)])
        return applied.answers[0] is not None

    async def leader(self) -> Leader | None:
        self._lease_of_peer = 0
        async with answer_within(self._timeout, url=self._url):
            entry, token = await self._kv.get([self._now, self._token])
        row = self._row(entry)
        return None if entry is None or row is None else self._leader(row, entry.mod, self._origin(token))

    async def changed(self, timeout: float) -> bool:
        if self._watch is None:
            self._watch = self._new_watch()
        left = math.inf
        if self._lease_of_peer and not self._kv.reports_ends:
            (left_us,) = await self._kv.remaining([self._lease_of_peer])
            left = left_us / 1_000_000 + self._spread()
        changes = await self._watch.changed(min(timeout, left))
        if changes and not any(changes.values()):
            # the key was deleted: the lease has ended, or the leader resigns, and then tells it
            await self._watch.changed(self._spread())
        return changes != {} or left <= timeout

    def _new_watch(self) -> Watch:
        return self._kv.watch(self._prefix, ends=(self._prefix,) if self._kv.reports_ends else ())

    def _spread(self) -> float:
        return self._clock.random.uniform(0, _AFTER_END)

    def _new_token(self) -> Put:
        return Put(self._token, b"%016x" % self._clock.random.getrandbits(64))

    def _origin(self, token: Entry | None) -> str:
        """The random text of the coordinator; "" if there is none, or it is unreadable."""
        return "" if token is None else self._unreadable.read(self._token, token, _token_of, WRITTEN_ANEW) or ""

    def _row(self, entry: Entry | None) -> LeaderRow | None:
        """The stored leader; None if there is none, or it is unreadable."""
        return None if entry is None else self._unreadable.read(self._now, entry, decode_leader, WRITTEN_ANEW)

    def _leader(self, row: LeaderRow, number: int, origin: str) -> Leader:
        return Leader(
            incarnation=row.incarnation,
            name=row.name,
            term=Term(f"{self._kv.identity}:{origin}", number),
            since_us=row.since_us,
        )


def _token_of(data: bytes) -> str:
    text = data.decode(errors="replace")
    if not _TOKEN.fullmatch(text):
        raise DecodeError("the random text of the coordinator cannot be read")
    return text
