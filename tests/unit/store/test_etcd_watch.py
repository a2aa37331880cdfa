"""A watch whose stream fails again and again."""

import asyncio
from collections.abc import Callable, Coroutine
from itertools import pairwise
from types import SimpleNamespace
from typing import Any, cast

from peerjob.store.etcd.api import aio
from peerjob.store.etcd.client import EtcdClient
from peerjob.store.etcd.watch import EtcdWatch
from peerjob.testing.clock import VirtualClock


class Failing:
    """A client of which each watch ends at once."""

    def __init__(self, clock: VirtualClock) -> None:
        self.clock = clock
        self.revision = 1
        self.metadata = ()
        self.on_move: set[Callable[[], None]] = set()
        self.endpoint = SimpleNamespace(watch=lambda requests, metadata: self.replies())
        self.opened: list[float] = []

    def watch(self) -> EtcdWatch:
        return EtcdWatch(cast(EtcdClient, self), ["prefix/"])

    async def replies(self) -> Any:
        self.opened.append(self.clock.elapsed())
        raise aio.AioRpcError(cast(Any, None), cast(Any, None), cast(Any, None))
        yield

    def failed(self, endpoint: object, error: object) -> None:
        pass

    def start(self, run: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        return asyncio.get_running_loop().create_task(run, name=name)


async def test_a_watch_is_opened_again_each_second_also_after_a_long_outage(clock: VirtualClock) -> None:
    client = Failing(clock)
    watch = client.watch()
    await clock.advance(60)
    watch.close()
    gaps = [later - earlier for earlier, later in pairwise(client.opened)]
    assert gaps[0] < 0.1
    assert 0.9 < max(gaps) < 1.1
    assert len(gaps) > 50


async def test_a_watch_that_was_closed_does_not_begin_again_with_another_member(clock: VirtualClock) -> None:
    client = Failing(clock)
    open_, closed = client.watch(), client.watch()
    await clock.advance(0)
    closed.close()
    before = len(client.opened)
    for restart in [*client.on_move]:
        restart()
    await clock.advance(0)
    open_.close()
    assert len(client.opened) == before + 1
