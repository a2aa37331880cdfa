"""The stores that programs run on: how each is opened, and how time passes there."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
import uuid
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from peerjob.model.clock import Clock, SystemClock
from peerjob.model.record import StoreLimits
from peerjob.store.base import Store
from peerjob.store.drivers import open_store
from peerjob.store.kv.format.base import Applied, Compare, Entry, Found, Range, Transaction
from peerjob.store.kv.store import KVStore
from peerjob.store.lua.store import LuaStore
from peerjob.store.memory.data import MemoryData
from peerjob.store.memory.driver import MemoryKeyValue
from support.consistency import kv_rules, lua_rules
from support.counted import miscounted
from support.etcd_model import EtcdData
from support.leftovers import leftovers_of, traces_of

from .clocks import ShiftedClock, SteppedClock

LONGEST_WAIT = 5.5
"""Seconds of a server's time that a program may wait for."""
UNHEARD = 5.1
"""Seconds after which a node trusts its clock if it has heard of no other."""
LEASE_SLACK_US = {"etcd": 600_000_000, "memory": 50_000, "sqlite": 50_000}
"""etcd counts leases by its own clock, which a program does not set. Stores on the clocks of nodes give times by the
median clock: to it, the passed time of a clock that stands still during calls looks like a difference."""


@dataclass(kw_only=True)
class Engine:
    """An open store, and its time."""

    name: str
    store: Store
    clock: Clock
    namespace: str
    data: MemoryData | None = None
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Held by the one program of an event loop that does not sleep: so its calls take no longer than alone."""

    @property
    def strict(self) -> bool:
        return self.store.capabilities.order == "strict"

    @property
    def waits_on_server(self) -> bool:
        """Whether a server holds calls that wait, so that it can run one whose caller has left."""
        return self.name in ("redis", "valkey")

    @property
    def lease_slack_us(self) -> int:
        return LEASE_SLACK_US.get(self.name, 0)

    async def tick(self) -> None:
        """Let a moment pass between two calls."""
        if isinstance(self.clock, SteppedClock):
            await self._settle()
            self.clock.now_us += 1_000

    async def _settle(self) -> None:
        """Let watches read what they get, at the time at which it was written."""
        for _ in range(10):
            await asyncio.sleep(0)

    async def pass_time(self, seconds: float) -> bool:
        """Let time pass, for leases as well; False where that takes too long."""
        if isinstance(self.clock, SteppedClock):
            await self._settle()
            self.clock.now_us += round(seconds * 1_000_000)
            await self._notice_ends()
        elif seconds > LONGEST_WAIT:
            return False
        elif isinstance(self.clock, ShiftedClock):
            self.clock.ahead_us += round(seconds * 1_000_000)
        else:
            self.turn.release()
            try:
                await asyncio.sleep(seconds)
            finally:
                await self.turn.acquire()
        return True

    async def know_clock(self) -> None:
        """Let a node that has just begun to renew its lease trust its clock, which no peer contradicts."""
        if isinstance(self.store, KVStore):
            await self.pass_time(UNHEARD)

    async def end_lease(self, incarnation: str) -> None:
        """Let a lease end that is over, where the store notices that later, or grants no lease that short."""
        private: Any = self.store
        if self.name == "etcd":
            kv, key = private._context.kv, private._context.keys.live + incarnation
            (entry,) = await kv.get([key])
            if entry is not None:
                await kv.revoke(entry.lease)
        await self._notice_ends()

    async def _notice_ends(self) -> None:
        """Write something, so that a file ends the leases that are over; a read alone does it once a second."""
        if self.name == "sqlite" and isinstance(self.clock, SteppedClock):
            self.clock.now_us += 2
            private: Any = self.store
            kv = private._context.kv
            await kv.revoke(await kv.grant(1_000_000))

    async def inconsistent(self, *, gave_up: bool) -> Sequence[str]:
        """What does not fit together in all that is stored.

        `gave_up`: a call was given up. Those of a key-value store have several steps, and the last ones can be missing.
        """
        if isinstance(self.store, LuaStore):
            return await lua_rules.inconsistent(self.store)
        assert isinstance(self.store, KVStore)
        return () if gave_up else await kv_rules.inconsistent(self.store)

    async def leftovers(self, incarnations: Sequence[str]) -> Sequence[str]:
        """Keys that nothing owns, and those that name an incarnation, after all was removed and all nodes have left."""
        traces = await traces_of(self.store, incarnations)
        # a watch of all changes by an incarnation that has ended expires
        left = [*await leftovers_of(self.store), *(key for key in traces if not key.startswith("changes"))]
        wrong = {} if self.data is None else miscounted(self.data, self.namespace)
        return [*left, *(f"counter/{kind}/{slot}/{count}/{held}" for (kind, slot), (count, held) in wrong.items())]


class Yielding(MemoryKeyValue):
    """The driver in memory, which lets other calls come between its requests, as a server does."""

    def separate(self) -> Yielding:
        return Yielding(self._data, self._clock)

    async def get(self, keys: Sequence[str]) -> list[Entry | None]:
        await asyncio.sleep(0)
        return await super().get(keys)

    async def read(self, ranges: Sequence[Range]) -> list[Found]:
        await asyncio.sleep(0)
        return await super().read(ranges)

    async def txn(
        self, transactions: Sequence[Transaction], also: Transaction | None = None, guards: Sequence[Compare] = ()
    ) -> Applied:
        await asyncio.sleep(0)
        applied = await super().txn(transactions, also, guards)
        await asyncio.sleep(0)
        return applied


def memory_engine(limits: StoreLimits, seed: int) -> Engine:
    """The key-value driver in memory, on a clock that stands still during calls."""
    clock, data, namespace = SteppedClock(seed=seed), EtcdData(), "oracle"
    kv = Yielding(data, clock)
    store = KVStore(kv, url="memory://", namespace=namespace, clock=clock, limits=limits, local=data.objects)
    return Engine(name="memory", store=store, clock=clock, namespace=namespace, data=data)


def url_engine(url: str, limits: StoreLimits) -> Engine:
    """The store that a URL names. A file of SQLite has a clock that stands still during calls."""
    scheme = url.partition(":")[0]
    clock = _CLOCKS.get(scheme, SystemClock)()
    namespace = f"oracle-{uuid.uuid4().hex[:12]}"
    store = open_store(url, namespace=namespace, clock=clock, limits=limits)
    return Engine(name=scheme, store=store, clock=clock, namespace=namespace)


_CLOCKS: dict[str, Callable[[], Clock]] = {"sqlite": SteppedClock, "etcd": ShiftedClock}
"""The clock of a store whose nodes' clocks decide; the time of other servers passes by itself."""


@contextlib.contextmanager
def engine_of(url: str, limits: StoreLimits, seed: int) -> Generator[Engine]:
    """An engine of its own for one program: a namespace, in memory or on a server, or a file beside the one of the URL.

    Each file has a clock of its own.
    """
    scheme, _, rest = url.partition("://")
    if scheme == "memory":
        yield memory_engine(limits, seed)
    elif scheme == "sqlite":
        path, _, options = rest.partition("?")
        with tempfile.TemporaryDirectory(prefix="oracle-", dir=Path(path).parent) as folder:
            yield url_engine(f"sqlite://{folder}/oracle.db?{options}", limits)
    else:
        yield url_engine(url, limits)
