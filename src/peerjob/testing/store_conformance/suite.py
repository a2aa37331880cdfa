"""Shared by all parts of the suite: stores, peers, time, and readers."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Iterable, Sequence
from functools import cached_property
from itertools import pairwise
from typing import ClassVar, TypeVar

import pytest

from peerjob.model.clock import Clock, SystemClock
from peerjob.model.query import Query
from peerjob.model.record import Action, Claim, Hint, LogLine, NewInstance, Page, Reaped, Record, StoreLimits
from peerjob.model.state import ARROWS, State
from peerjob.store.base import Store
from peerjob.testing.factories import LONG_TTL_US, Factory, Peer

Result = TypeVar("Result")

PLAIN_ACTIONS = tuple(action for action in Action if action is not Action.SUSPEND)
"""The actions without a wait."""


class StoreSuite:
    """Base of the parts: it makes stores and lets time pass."""

    short_ttl: ClassVar[float] = 0.1
    """Seconds of a lease that a test lets expire. A store that needs longer leases sets a higher value."""

    hint_wait: ClassVar[float] = 0.05
    """Seconds for which a test that expects no hint waits for one."""

    renewals_tell: ClassVar[bool] = False
    """Whether the answers to renewals say if work is due, and when a peer can be dead (`Renewed`)."""

    claims_wait: ClassVar[bool] = False
    """Whether the claim of `claim_on_hint` waits in the store, which runs it even if the event loop is blocked."""

    patience: ClassVar[float] = 20.0
    """Seconds in which an expected event must come.

    The period is long, because the machine may be paused for a while.
    """

    def make_store(self, namespace: str, limits: StoreLimits) -> Store:
        """A new store, not opened yet."""
        raise NotImplementedError

    @cached_property
    def clock(self) -> Clock:
        """The clock for ids, and for stores without a server's clock."""
        return SystemClock()

    async def pass_time(self, seconds: float) -> None:
        """Let time pass, also for the store."""
        await asyncio.sleep(seconds)

    def paused(self, began: float, seconds: float) -> bool:
        """Whether a period that began at a time of `clock.elapsed` is over: the machine may have been paused.

        What a rule asserts about the period is then unknown.
        """
        return self.clock.elapsed() - began >= seconds

    async def wait_given_up(self) -> None:
        """Return when the server knows that a wait was cancelled; most drivers themselves wait for that."""

    async def in_time(self, awaitable: Awaitable[Result]) -> Result:
        """Await something that needs time to pass."""
        return await awaitable

    async def leftovers(self, store: Store) -> Sequence[str]:
        """Data of the namespace that nothing owns: no node lives, and every instance was removed.

        Data that expires by itself does not count. A store that can read its server overrides this.
        """
        return ()

    async def assert_nothing_left(self, store: Store) -> None:
        """Assert that the namespace has no data that nothing owns."""
        assert list(await self.leftovers(store)) == []

    async def check_all(self, store: Store) -> int:
        """Check all pages of admissions; returns how many belonged to no instance."""
        freed, cursor = await store.check_limits()
        while cursor is not None:
            more, cursor = await store.check_limits(cursor)
            freed += more
        return freed

    async def traces(self, store: Store, *ended: Peer) -> Sequence[str]:
        """Data that names one of these peers, which have ended, and that has no reason to stay.

        Other nodes may live. A store that can read its server overrides this.
        """
        return ()

    # -- stores and peers of a test

    @cached_property
    def make(self) -> Factory:
        """Makes instances and nodes."""
        return Factory(self.clock)

    @cached_property
    def namespace(self) -> str:
        """A namespace that no other test uses."""
        return f"conformance-{self.make.id()[-12:]}"

    @cached_property
    def _cleanup(self) -> contextlib.AsyncExitStack:
        return contextlib.AsyncExitStack()

    @pytest.fixture
    async def store(self) -> AsyncIterator[Store]:
        """An empty store with default limits."""
        async with self._cleanup:
            yield await self.open()

    async def open(self, limits: StoreLimits | None = None, namespace: str | None = None) -> Store:
        """Open another store, by default on the namespace of the test; cleared and closed after the test."""
        store = self.make_store(namespace or self.namespace, limits or StoreLimits())
        await store.open()
        self._cleanup.push_async_callback(store.close)
        self._cleanup.push_async_callback(store.clear)
        return store

    async def join(
        self,
        store: Store,
        name: str = "node",
        kinds: Sequence[str] = ("work",),
        *,
        ttl_us: int = LONG_TTL_US,
        previous: str | None = None,
    ) -> Peer:
        """A new peer that has joined the store."""
        peer = Peer(store=store, info=self.make.node(name, kinds), make=self.make)
        self._cleanup.push_async_callback(peer.close)
        return await peer.join(ttl_us, previous)

    async def join_briefly(self, store: Store, name: str = "mortal", kinds: Sequence[str] = ("work",)) -> Peer:
        """A new peer with a short lease."""
        return await self.join(store, name, kinds, ttl_us=round(self.short_ttl * 1_000_000))

    async def lapse(self) -> None:
        """Let short leases expire."""
        await self.pass_time(self.short_ttl * 1.5)

    async def reap(self, reaper: Peer, limit: int = 100) -> list[Reaped]:
        """Let short leases expire, then take back their claims."""
        await self.lapse()
        for _ in range(50):
            if reaped := await reaper.store.reap(limit, reaper=reaper.incarnation):
                return reaped
            await self.pass_time(self.short_ttl / 5)
        return []

    async def reap_all(self, reaper: Peer) -> list[Reaped]:
        """Let short leases expire, then take back all their claims."""
        reaped = more = await self.reap(reaper)
        while more:
            more = await reaper.store.reap(100, reaper=reaper.incarnation)
            reaped = reaped + more
        return reaped

    # -- reads of the store, with checks

    async def read(self, store: Store, id: str) -> Record:
        """The record of an instance that must exist; its history must be legal."""
        (record,) = await store.get([id])
        assert record is not None, f"instance {id} is gone"
        assert_legal(record)
        return record

    async def lines(self, store: Store, id: str) -> tuple[LogLine, ...]:
        """All log lines of an instance."""
        return (await store.logs(id)).lines

    async def everything(self, store: Store, *ids: str) -> list[object]:
        """All visible data of some instances, to compare before and after."""
        return [[await self.read(store, id), await store.logs(id)] for id in ids]

    async def found(self, store: Store, query: Query) -> list[str]:
        """Ids from all pages of a lookup, which must be in order."""
        ids: list[str] = []
        cursor: str | None = None
        while True:
            page = await store.lookup(query.at(cursor))
            assert len(page.records) <= query.limit
            ids += [record.id for record in page.records]
            cursor = page.cursor
            if cursor is None:
                break
        assert ids == sorted(set(ids), reverse=query.order == "desc")
        return ids

    async def first_page(self, store: Store) -> Page:
        """The first hundred records."""
        return await store.lookup(Query())

    async def counts(self, store: Store, kind: str = "work") -> dict[State, int]:
        """Number of instances of a kind by state, as counted by the store."""
        health = await store.health()
        return {state: count for state, count in health.counts.get(kind, {}).items() if count}

    async def hints(self, peer: Peer, timeout: float | None = None) -> list[Hint]:
        """The first hints for a peer within a time, by default `hint_wait`."""
        wait = self.hint_wait if timeout is None else timeout
        return await self.in_time(peer.store.next_hints(peer.incarnation, wait))

    async def hinted(self, peer: Peer, what: str, id: str | None = None) -> bool:
        """Whether a certain hint comes to a peer; earlier hints are dropped."""
        for _ in range(round(self.patience / 0.1)):
            for hint in await self.hints(peer, 0.1):
                if hint.what == what and id in (None, hint.id):
                    return True
        return False

    async def woken(self, peers: Sequence[Peer], least: int = 0) -> list[str]:
        """Names of the peers with a work hint, when there are at least this many."""
        told: set[str] = set()
        for _ in range(round(self.patience / self.hint_wait)):
            left = [peer for peer in peers if peer.incarnation not in told]
            waits = (peer.store.next_hints(peer.incarnation, self.hint_wait) for peer in left)
            for peer, hints in zip(left, await self.in_time(asyncio.gather(*waits)), strict=True):
                if any(hint.what == "work" for hint in hints):
                    told.add(peer.incarnation)
            if len(told) >= least:
                break
        return [peer.name for peer in peers if peer.incarnation in told]


def assert_legal(record: Record) -> None:
    """Assert that a history follows the arrows, in the order of time, to the state of the record."""
    first = record.history[0]
    assert first.count > 1 or first.state == State.CREATED
    for earlier, later in pairwise(record.history):
        assert later.count == 1
        assert later.at_us >= earlier.at_us
        assert earlier.count > 1 or later.state & ARROWS[earlier.state], record.history
    assert record.history[-1].state == record.state


def states(record: Record) -> list[State]:
    """The states in the history of an instance."""
    return [entry.state for entry in record.history]


def ids_of(items: Iterable[Claim | Record | Reaped | NewInstance]) -> list[str]:
    """The ids of claims, records or reaped instances, in their order."""
    return [item.id for item in items]
