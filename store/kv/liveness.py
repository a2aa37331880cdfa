"""The lease of one incarnation, renewed over a separate connection.

The claims of an incarnation do not depend on its lease: a reaper takes them back.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from peerjob.model.clock import Clock
from peerjob.model.record import Held, Renewed, digest
from peerjob.store.calls import MAX_ANSWER, answer_within, both
from peerjob.store.rules import check_layout

from .base import Compare, Found, KeyValue, Op, Put, Range, Step
from .clock_skew import ClockSkew, PeerClocks
from .keys import Keys, below
from .rows import Live, NodeRow, encode, live_of, node_of, owned_of
from .writer import ROUNDS


class KVLiveness:
    """Renews the lease of an incarnation."""

    def __init__(self, kv: KeyValue, *, url: str, keys: Keys, clock: Clock, clock_skew: ClockSkew) -> None:
        self._kv = kv
        self._url = url
        self._keys = keys
        self._clock = clock
        self._clock_skew = clock_skew
        self._peer_clocks = PeerClocks(kv, keys, clock)
        self._last_lease = 0
        """The lease that the last renewal extended or granted; 0 before the first renewal."""

    async def open(self) -> None:
        await self._kv.open()
        self._peer_clocks.start()

    async def close(self) -> None:
        await self._peer_clocks.stop()
        await self._kv.close()

    async def renew(self, incarnation: str, *, ttl_us: int, running: int, count: int, fences_digest: int) -> Renewed:
        now_us, prefix = self._clock.time_us(), self._keys.owned(incarnation)
        async with answer_within(ttl_us * MAX_ANSWER / 1_000_000, url=self._url):
            found = await self._extend(incarnation, ttl_us, running)
            if found is None:
                return Renewed(dead=True, now_us=now_us)
            row, owned = found
            judgement = await self._peer_clocks.judge()
        self._clock_skew.set(judgement)
        claims = [(key[len(prefix) :], owned_of(entry.value)) for key, entry in owned.items]
        fences = [owned.fence for _, owned in claims]
        same = len(fences) == count and digest(fences) == fences_digest
        return Renewed(
            now_us=now_us,
            held=None if same else tuple(Held(id, owned.fence) for id, owned in claims),
            cancelled=tuple(id for id, owned in claims if owned.releasing),
            ahead_us=judgement.ahead_us,
            clock_known=judgement.known,
            instruction=row.instruction,
        )

    async def _read(self, ranges: Sequence[Range], lease: int) -> tuple[list[Found], bool]:
        """Read, and extend a lease at the same time; False if it has ended, or for no lease.

        One after the other, a slow server would take twice as long, and the time for a renewal is limited.
        """
        if not lease:
            return await self._kv.read(ranges), False
        return await both(self._kv.read(ranges), self._kv.keepalive(lease))

    async def _extend(self, incarnation: str, ttl_us: int, running: int) -> tuple[NodeRow, Found] | None:
        """Extend or replace an incarnation's lease; the answer is its row and claims, None if the incarnation ended."""
        kv, keys = self._kv, self._keys
        self._peer_clocks.report_as(incarnation)
        singles = [Range(keys.node + incarnation), Range(keys.live + incarnation), Range(keys.layout)]
        prefix = keys.owned(incarnation)
        for _ in range(ROUNDS):
            last = self._last_lease
            (*found, owned), kept = await self._read([*singles, below(prefix)], last)
            node, live, layout = (single.items[0][1] if single.items else None for single in found)
            if layout is not None:
                # a lease is extended without a transaction, and only transactions compare the layout: check the layout
                # separately
                check_layout(layout.value.decode(errors="replace"), namespace=keys.root[:-1], url=self._url)
            if node is None or (row := node_of(node.value)).ended:
                self._last_lease = 0
                return None
            old = None if live is None else live_of(live.value)
            lease = 0
            if old is not None and old.ttl_us == ttl_us:
                lease = old.lease if (kept if old.lease == last else await kv.keepalive(old.lease)) else 0
            if old is not None and lease:
                self._last_lease = lease
                if running == old.running and not self._peer_clocks.must_report:
                    return row, owned
            fresh = lease or await kv.grant(ttl_us)
            alive = Compare(keys.node + incarnation, mod=node.mod)
            ops: list[Op] = [Put(keys.live + incarnation, encode(Live(fresh, ttl_us, running, row.claims)), fresh)]
            on_written: Callable[[], None] | None = None
            if self._peer_clocks.must_report:
                report, on_written = self._peer_clocks.report()
                ops.append(Put(keys.clocks + incarnation, encode(report), fresh))
            applied = await kv.txn([Step([alive], ops)])
            if applied.steps[0] is not None:
                self._last_lease = fresh
                if on_written is not None:
                    on_written()
                if old is not None and old.lease != fresh:
                    await kv.revoke(old.lease)
                return row, owned
            if not lease:
                await kv.revoke(fresh)
        return None
