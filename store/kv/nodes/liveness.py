"""The lease of one incarnation, renewed over a separate connection.

The claims of an incarnation do not depend on its lease: a reaper takes them back.

The request of a renewal also reads what an idle node would otherwise ask for: whether a peer has died, and whether work
is due (`idle_signs`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import msgspec

from peerjob.model.clock import Clock
from peerjob.model.errors import StoreUnavailableError
from peerjob.model.record import Held, Renewed
from peerjob.store.calls import MAX_ANSWER, answer_within
from peerjob.store.kv.format.base import (
    Compare,
    Entry,
    Found,
    KeyValue,
    LeaseEndedError,
    Op,
    Put,
    Range,
    Transaction,
    mod_of,
)
from peerjob.store.kv.format.keys import Keys, below, prefix_end
from peerjob.store.kv.format.layout import FLOWS_VALUE, LAYOUT_VALUES, mended_layout
from peerjob.store.kv.format.rows import UNREADABLE_NODE, Live, NodeRow, decode_node, encode, live_of
from peerjob.store.kv.format.unreadable import WRITTEN_ANEW, Unreadable
from peerjob.store.kv.write.clock_skew import ClockSkew, PeerClocks
from peerjob.store.kv.write.idle_signs import IdleSign, IdleSigns
from peerjob.store.kv.write.owned import ClaimIndex
from peerjob.store.kv.write.writer import ROUNDS
from peerjob.store.rules import check_layout, digest

_LOOK_AHEAD = 1.2
"""Seconds before the known first end of a lease at which the leases are asked again: about an interval of renewals."""
WATCHED = 3
"""A renewal reads the leases of at most so many peers, so that its cost does not depend on the number of nodes."""


class _Read(msgspec.Struct, frozen=True):
    """The answers to the reads of a renewal."""

    node: Entry | None
    live: Entry | None
    layout: Entry | None
    owned: Found
    nodes: Found
    lives: Found
    peers: Sequence[tuple[str, Entry]]
    """The keys in `live/` of the peers whose leases this node watches; empty if the driver reports ends."""
    sign: Sequence[Found]
    settling: bool
    """Whether ends of instances are to be settled."""


class KVLiveness:
    """Renews the lease of an incarnation."""

    def __init__(
        self,
        kv: KeyValue,
        *,
        url: str,
        keys: Keys,
        clock: Clock,
        clock_skew: ClockSkew,
        idle_signs: IdleSigns,
        unreadable: Unreadable,
    ) -> None:
        self._kv = kv
        self._url = url
        self._keys = keys
        self._clock = clock
        self._clock_skew = clock_skew
        self._idle_signs = idle_signs
        self._peer_clocks = PeerClocks(kv, keys, clock)
        self._leases_of_peers = LeasesOfPeers(kv, keys, clock)
        self._claim_index = ClaimIndex(kv, keys, unreadable)
        self._unreadable = unreadable
        self._lease = 0
        """The lease of the last renewal; 0: unknown."""
        self._durable = False
        """Whether the namespace had the layout of durable bodies at the last renewal."""
        self._row: NodeRow | None = None
        """The last readable record of the incarnation."""
        self._differs = False
        """Whether the claims that the node named in the last renewal differed from the index of claims."""

    async def open(self, wake: Callable[[], None] | None = None) -> None:
        await self._kv.open()
        self._peer_clocks.start(wake)

    async def close(self) -> None:
        await self._peer_clocks.stop()
        await self._kv.close()

    async def renew(self, incarnation: str, *, ttl_us: int, running: int, count: int, fences_digest: int) -> Renewed:
        now_us, prefix = self._clock.time_us(), self._keys.owned(incarnation)
        async with answer_within(ttl_us * MAX_ANSWER / 1_000_000, url=self._url):
            sign = self._idle_signs.of(incarnation)
            renewed = await self._extend(incarnation, ttl_us, running, sign)
            if renewed is None:
                return Renewed(dead=True, now_us=now_us)
            row, read = renewed
            reap_in_us = await self._leases_of_peers.reap_in_us(read.nodes, read.lives, read.peers, ttl_us)
            # a claim or a commit that is on its way makes the two differ for a moment, so the second difference counts
            claims = await self._claim_index.claims(read.owned.items, doubted=self._differs)
            fences = [owned.fence for owned in claims.values()]
            same = len(fences) == count and digest(fences) == fences_digest
            self._differs = not same
            judgement = await self._peer_clocks.judge()
        self._clock_skew.set(judgement)
        held = [Held(key[len(prefix) :], owned.fence) for key, owned in claims.items()]
        return Renewed(
            now_us=now_us,
            held=None if same else tuple(held),
            cancelled=tuple(key[len(prefix) :] for key, owned in claims.items() if owned.releasing),
            ahead_us=judgement.ahead_us,
            clock_known=judgement.known,
            instruction=row.instruction,
            work_due=None if sign is None else not sign.holds(read.sign, mod_of(read.layout)),
            settling=read.settling,
            reap_in_us=reap_in_us,
        )

    async def withdraw(self, incarnation: str, request: str, *, timeout: float) -> None:
        pass  # the event loop of the node sends the claim itself, so none waits in the store

    async def _read(self, incarnation: str, sign: IdleSign | None) -> tuple[int, _Read]:
        """Extend the lease of the last renewal, and read. The answer has that lease; 0 if it has ended."""
        kv, keys = self._kv, self._keys
        singles = [Range(keys.node + incarnation), Range(keys.live + incarnation), Range(keys.layout)]
        nodes, lives = (below(prefix, limit=1, keys_only=True) for prefix in (keys.node, keys.live))
        ring = [lives] if kv.reports_ends else self._leases_of_peers.reads(incarnation)
        signs = sign.reads if sign is not None else ()
        settling = [below(keys.settling, limit=1, keys_only=True)] if self._durable else []
        ranges = [*singles, *settling, below(keys.owned(incarnation)), nodes, *ring, *signs]
        lease, self._lease = self._lease, 0
        if lease:
            alive, answers = await kv.extend(lease, ranges)
            lease = lease if alive else 0
        else:
            answers = await kv.read(ranges)
        node, live, layout = (single.items[0][1] if single.items else None for single in answers[:3])
        layout_value = None if layout is None else layout.value
        settles = any(answer.count for answer in answers[3 : 3 + len(settling)])
        owned, counted, *rest = answers[3 + len(settling) :]
        leased, rest = rest[: len(ring)], rest[len(ring) :]
        peers = () if kv.reports_ends else self._leases_of_peers.watched(incarnation, leased)
        self._durable = layout_value == FLOWS_VALUE
        return lease, _Read(node, live, layout, owned, counted, leased[-1], peers, rest, settles)

    async def _extend(
        self, incarnation: str, ttl_us: int, running: int, sign: IdleSign | None
    ) -> tuple[NodeRow, _Read] | None:
        """Extend or replace an incarnation's lease; the answer is its row and claims, None if the incarnation ended."""
        kv, keys = self._kv, self._keys
        self._peer_clocks.report_as(incarnation)
        for _ in range(ROUNDS):
            extended, read = await self._read(incarnation, sign)
            layout = read.layout
            known = layout is None or layout.value in LAYOUT_VALUES
            if layout is not None and not known and not await mended_layout(kv, keys, layout):
                # a lease is extended without a transaction, and only transactions compare the layout: check the layout
                # separately
                check_layout(layout.value.decode(errors="replace"), namespace=keys.root[:-1], url=self._url)
            row = None if read.node is None else await self._row_of(incarnation, read.node, read.live)
            if read.node is None or row is None or row.ended:
                self._lease = 0
                return None
            old = None if read.live is None else live_of(read.live)
            lease = 0
            same_ttl = old is not None and old.ttl_us in (ttl_us, 0)
            if old is not None and same_ttl and (old.lease == extended or await kv.keepalive(old.lease)):
                lease = self._lease = old.lease
                if running == old.running and not self._peer_clocks.must_report:
                    return row, read
            fresh = lease or await kv.grant(ttl_us)
            alive = Compare(keys.node + incarnation, mod=read.node.mod)
            ops: list[Op] = [Put(keys.live + incarnation, encode(Live(fresh, ttl_us, running, row.claims)), fresh)]
            on_written: Callable[[], None] | None = None
            if self._peer_clocks.must_report:
                report, on_written = self._peer_clocks.report()
                ops.append(Put(keys.clocks + incarnation, encode(report), fresh))
            try:
                applied = await kv.txn([Transaction([alive], ops)])
            except LeaseEndedError:
                continue  # a join or an end of the incarnation came between
            if applied.answers[0] is not None:
                self._lease = fresh
                if on_written is not None:
                    on_written()
                if old is not None and old.lease != fresh:
                    await kv.revoke(old.lease)
                return row, read
            if not lease:
                await kv.revoke(fresh)
        raise StoreUnavailableError(self._url, "the row of a node changes again and again")

    async def _row_of(self, incarnation: str, node: Entry, live: Entry | None) -> NodeRow | None:
        """The record of the incarnation. The last readable one replaces an unreadable one while the node is alive.

        The transaction that marks an incarnation as ended deletes its lease, so an incarnation with a lease is alive.
        None: it may have ended.
        """
        key = self._keys.node + incarnation
        row = self._unreadable.read(key, node, decode_node, WRITTEN_ANEW)
        if row is not None and row.info.incarnation == incarnation:
            self._row = row
            return row
        if live is None:
            return None
        known = self._row
        if known is None or known.info.incarnation != incarnation:
            return UNREADABLE_NODE
        compares = [Compare(key, mod=node.mod), Compare(self._keys.live + incarnation, mod=live.mod)]
        await self._kv.txn([Transaction(compares, [Put(key, encode(known))])])
        return None if known.ended else known


class LeasesOfPeers:
    """Tells when a lease of a peer can end, by what the renewals read.

    Each node watches the next peers in the order of their keys; the first follows the last. So the end of each lease is
    known to some peers. Should they end at the same time, the number of leases tells the next renewal of any node.
    """

    def __init__(self, kv: KeyValue, keys: Keys, clock: Clock) -> None:
        self._kv = kv
        self._keys = keys
        self._clock = clock
        self._known: list[tuple[str, int]] = []
        """The leases of the watched peers, as read last, each with the key of its peer."""
        self._first_end = 0.0
        """The elapsed time before which none of them ends."""

    def reads(self, incarnation: str) -> list[Range]:
        """The reads that find the watched peers; the last one also counts all leases."""
        live = self._keys.live
        return [Range(f"{live}{incarnation}!", prefix_end(live), WATCHED), below(live, WATCHED)]

    def watched(self, incarnation: str, answers: Sequence[Found]) -> list[tuple[str, Entry]]:
        """The watched peers in the answers to `reads`."""
        peers = {key: entry for ring in answers for key, entry in ring.items}
        peers.pop(self._keys.live + incarnation, None)
        return list(peers.items())[:WATCHED]

    async def reap_in_us(self, nodes: Found, lives: Found, peers: Sequence[tuple[str, Entry]], ttl_us: int) -> int:
        """Microseconds until `reap` can find something; 0 if an incarnation has no lease, which only a dead one has."""
        if nodes.count != lives.count:
            return 0
        if self._kv.reports_ends:
            return ttl_us
        leases = [(key, entry.lease) for key, entry in peers]
        now = self._clock.elapsed()
        if leases != self._known or now + _LOOK_AHEAD >= self._first_end:
            left = await self._kv.remaining([lease for _, lease in leases]) if leases else []
            # a lease is only extended, so none of these ends earlier
            self._known = leases
            self._first_end = now + min(left) / 1_000_000 if left else math.inf
        return ttl_us if self._first_end == math.inf else max(0, round((self._first_end - now) * 1_000_000))
