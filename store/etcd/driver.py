"""The driver: `KeyValue` over an etcd."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from typing import Any

from peerjob.model.capabilities import Capabilities
from peerjob.model.clock import Clock
from peerjob.model.errors import StoreUnavailableError
from peerjob.model.record import StoreLimits
from peerjob.model.stored_limit import LimitSupport
from peerjob.store.calls import RETRY_FOR, answer_within, both
from peerjob.store.kv.format.base import Applied, Compare, Entry, Found, LeaseEndedError, Range, Transaction
from peerjob.store.kv.store import KVStore

from . import transaction
from .address import EtcdAddress, parse_address
from .api import etcd
from .client import EtcdClient
from .space import FreeSpace
from .transaction import MAX_OPERATIONS
from .watch import EtcdWatch

MAX_PAYLOAD = 1 << 20
OPEN_TIMEOUT = 4.5
_CONFLICT_FREE = 8
"""After this many transactions in a row without a conflict, the driver sends the next one as an AtomicRequest."""
_CAPABILITIES = Capabilities(
    engine="etcd",
    durability="fsync",
    order="windowed",
    clock="nodes",
    max_payload=MAX_PAYLOAD,
    limits=LimitSupport(max_concurrency=1_000, rate_clock="nodes"),
)


def etcd_store(url: str, *, namespace: str, clock: Clock, limits: StoreLimits, retry_for: float = RETRY_FOR) -> KVStore:
    """The store that an etcd URL names, not opened yet."""
    kv = EtcdKeyValue(parse_address(url), clock)
    return KVStore(kv, url=url, namespace=namespace, clock=clock, limits=limits, retry_for=retry_for)


class EtcdKeyValue:
    """One user of an etcd, with its own connections."""

    def __init__(self, address: EtcdAddress, clock: Clock) -> None:
        self._address = address
        self._clock = clock
        self._client = EtcdClient(address, clock)
        self._space = FreeSpace(self._client, clock)
        self._identity = ""
        self._conflict_free = _CONFLICT_FREE
        """The number of requests with several transactions since the last conflict."""

    @property
    def capabilities(self) -> Capabilities:
        return _CAPABILITIES

    @property
    def identity(self) -> str:
        return self._identity

    @property
    def reports_ends(self) -> bool:
        return True

    @property
    def full(self) -> bool:
        return self._space.full

    async def open(self) -> None:
        try:
            async with answer_within(OPEN_TIMEOUT, url=self._address.url):
                await self._client.open()
                reply = await self._first_answer()
                await self._space.check()
        except GeneratorExit:
            raise  # Python destroys this coroutine because its event loop was closed
        except BaseException:
            await self.close()
            raise
        self._identity = f"etcd:{reply.header.cluster_id:x}"

    async def close(self) -> None:
        await self._client.close()

    def separate(self) -> EtcdKeyValue:
        return EtcdKeyValue(self._address, self._clock)

    async def get(self, keys: Sequence[str]) -> list[Entry | None]:
        replies = await self._read([Range(key) for key in keys])
        return [transaction.entry(response.response_range) for reply in replies for response in reply.responses]

    async def read(self, ranges: Sequence[Range]) -> list[Found]:
        replies = await self._read(ranges)
        return [transaction.found(response.response_range) for reply in replies for response in reply.responses]

    async def txn(
        self, transactions: Sequence[Transaction], also: Transaction | None = None, guards: Sequence[Compare] = ()
    ) -> Applied:
        many = also is not None and len(transactions) > 1
        if also is not None and many and self._conflict_free >= _CONFLICT_FREE:
            whole = transaction.AtomicRequest(transactions, also, guards)
            if whole.fits and (done := whole.applied(await self._client.call("txn", whole.data))):
                return done
        request = transaction.SeparateRequest(transactions, also, guards)
        applied = request.applied(await self._client.call("txn", request.data))
        if many:
            self._conflict_free = 0 if applied.also is None else self._conflict_free + 1
        return applied

    def watch(self, *prefixes: str, ends: Sequence[str] = ()) -> EtcdWatch:
        return EtcdWatch(self._client, prefixes, ends)

    async def grant(self, ttl_us: int) -> int:
        reply = await self._client.call("grant", etcd.LeaseGrantRequest(TTL=-(-ttl_us // 1_000_000)))
        return int(reply.ID)

    async def keepalive(self, lease: int) -> bool:
        reply = await self._client.call("keepalive", etcd.LeaseKeepAliveRequest(ID=lease))
        return bool(reply.TTL > 0)

    async def extend(self, lease: int, ranges: Sequence[Range]) -> tuple[bool, list[Found]]:
        return await both(self.keepalive(lease), self.read(ranges))

    async def revoke(self, lease: int) -> None:
        with contextlib.suppress(LeaseEndedError):
            await self._client.call("revoke", etcd.LeaseRevokeRequest(ID=lease))

    async def remaining(self, leases: Sequence[int]) -> list[int]:
        calls = [self._client.call("remaining", etcd.LeaseTimeToLiveRequest(ID=lease)) for lease in leases]
        return [_left_us(reply.TTL) for reply in await asyncio.gather(*calls)]

    async def _first_answer(self) -> Any:
        """Return the answer of the first member that answers: only a member that belongs to a majority does."""
        for left in reversed(range(len(self._address.endpoints))):
            try:
                return await self._client.call("txn", b"")
            except StoreUnavailableError:
                # After the failure, the client uses the next member, so the next call asks that member.
                if not left:
                    raise
        raise AssertionError("an address has endpoints")

    async def _read(self, ranges: Sequence[Range]) -> list[Any]:
        parts = [ranges[at : at + MAX_OPERATIONS] for at in range(0, len(ranges), MAX_OPERATIONS)]
        calls = [self._client.call("txn", transaction.reading(part)) for part in parts]
        return [await calls[0]] if len(calls) == 1 else await asyncio.gather(*calls)


def _left_us(seconds: int) -> int:
    """Return the microseconds that a lease has left.

    etcd gives whole seconds, rounded down, and -1 for a lease that has ended.
    """
    return seconds * 1_000_000 + 500_000 if seconds >= 0 else 0
