"""The driver: `KeyValue` over a file of SQLite, for the processes of one machine."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any, TypeVar

from peerjob.model.capabilities import Capabilities
from peerjob.model.clock import Clock
from peerjob.model.errors import StoreError, StoreUnavailableError
from peerjob.model.record import StoreLimits
from peerjob.model.stored_limit import LimitSupport
from peerjob.store.calls import RETRY_FOR, answer_within, opened_before_fork
from peerjob.store.kv.format.base import Applied, Compare, Entry, Found, Range, Transaction
from peerjob.store.kv.store import KVStore

from .address import SqliteAddress, parse_address
from .registry import FILES
from .requests import BlockingAnswer, Work, request_of
from .thread import FileThread
from .transaction import needs_disk
from .watch import SqliteWatch

T = TypeVar("T")

MAX_PAYLOAD = 64 << 20
OPEN_TIMEOUT = 4.5
CALL_TIMEOUT = 15.0
"""Seconds that a call waits for the disk."""
_NO_ANSWER = f"the disk has not answered within {CALL_TIMEOUT:g} s"
_LOOK = 1.0
"""Seconds between two looks of a thread that waits whether the thread of the file lives."""
_NORMAL = "A power cut can lose the last writes: the store's URL has sync=normal."


def sqlite_store(
    url: str, *, namespace: str, clock: Clock, limits: StoreLimits, retry_for: float = RETRY_FOR
) -> KVStore:
    """The store that a SQLite URL names, not opened yet."""
    address = parse_address(url)
    kv = SqliteKeyValue(address, clock)
    return KVStore(
        kv,
        url=address.url,
        namespace=namespace,
        clock=clock,
        limits=limits,
        retry_for=retry_for,
        blocking=BlockingKeyValue(kv, address, clock),
    )


class SqliteKeyValue:
    """One user of a file. All users in a process share the file's thread."""

    def __init__(self, address: SqliteAddress, clock: Clock) -> None:
        self._address = address
        self._clock = clock
        self._thread: FileThread | None = None
        self._identity = ""
        durable = address.sync == "full"
        self._capabilities = Capabilities(
            engine="sqlite",
            durability="fsync" if durable else "os",
            order="windowed",
            clock="nodes",
            max_payload=MAX_PAYLOAD,
            limits=LimitSupport(rate_clock="nodes"),
            warnings=() if durable else (_NORMAL,),
        )

    @property
    def capabilities(self) -> Capabilities:
        return self._capabilities

    @property
    def identity(self) -> str:
        return self._identity

    @property
    def reports_ends(self) -> bool:
        return False

    @property
    def full(self) -> bool:
        return self._thread is not None and self._thread.full

    async def open(self) -> None:
        address = self._address
        self._thread = FILES.acquire(address.path, address.url, self._clock)
        try:
            async with answer_within(OPEN_TIMEOUT, url=address.url):
                await self._read(lambda transaction, leases: None)
        except GeneratorExit:
            raise  # Python destroys this coroutine because its event loop was closed
        except BaseException:
            await self.close()
            raise
        self._identity = f"sqlite:{self._thread.identity}"

    async def close(self) -> None:
        thread, self._thread = self._thread, None
        # the thread of a parent does not run in its child
        if thread is not None and not thread.is_inherited and FILES.release(thread):
            ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            thread.end(request_of(lambda transaction, leases: None, ended, writes=False, durable=False))
            await ended

    def separate(self) -> SqliteKeyValue:
        return SqliteKeyValue(self._address, self._clock)

    async def get(self, keys: Sequence[str]) -> list[Entry | None]:
        return await self._read(lambda transaction, leases: transaction.entries(keys))

    async def read(self, ranges: Sequence[Range]) -> list[Found]:
        return await self._read(lambda transaction, leases: [transaction.read(wanted) for wanted in ranges])

    async def txn(
        self, transactions: Sequence[Transaction], also: Transaction | None = None, guards: Sequence[Compare] = ()
    ) -> Applied:
        every = [*transactions, also] if also is not None else transactions
        return await self._write(
            lambda transaction, leases: transaction.apply(transactions, also, guards), durable=needs_disk(every)
        )

    def watch(self, *prefixes: str, ends: Sequence[str] = ()) -> SqliteWatch:
        return self.open_thread().watch(prefixes)

    async def grant(self, ttl_us: int) -> int:
        return await self._write(lambda transaction, leases: transaction.grant(ttl_us))

    async def keepalive(self, lease: int) -> bool:
        return await self._write(lambda transaction, leases: leases.keepalive(lease))

    async def extend(self, lease: int, ranges: Sequence[Range]) -> tuple[bool, list[Found]]:
        return await self._write(
            lambda transaction, leases: (leases.keepalive(lease), [transaction.read(wanted) for wanted in ranges])
        )

    async def revoke(self, lease: int) -> None:
        await self._write(lambda transaction, leases: transaction.revoke(lease))

    async def remaining(self, leases: Sequence[int]) -> list[int]:
        return await self._read(lambda transaction, known: [known.remaining_us(lease) for lease in leases])

    async def _read(self, work: Work[T]) -> T:
        return await self._do(work, writes=False, durable=False)

    async def _write(self, work: Work[T], *, durable: bool = False) -> T:
        return await self._do(work, writes=True, durable=durable and self._address.sync == "full")

    async def _do(self, work: Work[T], *, writes: bool, durable: bool) -> T:
        thread, loop = self.open_thread(), asyncio.get_running_loop()
        answer: asyncio.Future[T] = loop.create_future()
        thread.submit(request_of(work, answer, writes=writes, durable=durable))
        late = loop.call_later(CALL_TIMEOUT, self._give_up, answer)
        try:
            return await answer
        finally:
            late.cancel()

    def _give_up(self, answer: asyncio.Future[Any]) -> None:
        if not answer.done():
            answer.set_exception(StoreUnavailableError(self._address.url, _NO_ANSWER))

    def open_thread(self) -> FileThread:
        """The thread of the file; raises StoreError if the store is not open, or was opened before a fork."""
        thread = self._thread
        if thread is None:
            raise StoreError(f"the store at {self._address.url} is not open")
        if thread.is_inherited:
            raise StoreError(opened_before_fork(self._address.url))
        return thread


class BlockingKeyValue(SqliteKeyValue):
    """The file of another `SqliteKeyValue`, for threads without an event loop: each call blocks its thread."""

    def __init__(self, leading: SqliteKeyValue, address: SqliteAddress, clock: Clock) -> None:
        super().__init__(address, clock)
        self._leading = leading

    @property
    def full(self) -> bool:
        return self._leading.full

    def open_thread(self) -> FileThread:
        return self._leading.open_thread()

    async def txn(
        self, transactions: Sequence[Transaction], also: Transaction | None = None, guards: Sequence[Compare] = ()
    ) -> Applied:
        synced = self._address.sync == "full"
        applied = self.open_thread().write_here(transactions, also, guards, synced=synced)
        return applied if applied is not None else await super().txn(transactions, also, guards)

    async def _do(self, work: Work[T], *, writes: bool, durable: bool) -> T:
        thread, answer = self.open_thread(), BlockingAnswer()
        request = request_of(work, answer, writes=writes, durable=durable)
        try:
            with thread.unparked():
                thread.submit(request)
                self._wait(answer, thread)
        except BaseException:
            answer.give_up()
            raise
        if request.error is not None:
            raise request.error
        done: T = request.outcome
        return done

    def _wait(self, answer: BlockingAnswer, thread: FileThread) -> None:
        until = time.monotonic() + CALL_TIMEOUT
        while not answer.wait(_LOOK):
            if time.monotonic() > until:
                raise StoreUnavailableError(self._address.url, _NO_ANSWER)
            if not thread.is_alive:  # it ended while this thread gave it the request
                raise StoreUnavailableError(self._address.url, "it was closed")
