"""A watch whose stream fails again and again."""

import asyncio
from itertools import pairwise
from types import SimpleNamespace
from typing import Any, cast

from peerjob.store.etcd.api import aio
from peerjob.store.etcd.client import EtcdClient
from peerjob.store.etcd.watch import EtcdWatch
from peerjob.testing.clock import VirtualClock


async def test_a_watch_is_opened_again_each_second_also_after_a_long_outage(clock: VirtualClock) -> None:
    opened: list[float] = []

    async def replies() -> Any:
        opened.append(clock.elapsed())
        raise aio.AioRpcError(cast(Any, None), cast(Any, None), cast(Any, None))
        yield

    client = SimpleNamespace(
        revision=1,
        metadata=(),
        on_move=set(),
        endpoint=SimpleNamespace(watch=lambda requests, metadata: replies()),
        failed=lambda endpoint, error: None,
        start=lambda run, name: asyncio.get_running_loop().create_task(run, name=name),
    )
    watch = EtcdWatch(cast(EtcdClient, client), ["prefix/"])
    await clock.advance(60)
    watch.close()
    gaps = [later - earlier for earlier, later in pairwise(opened)]
    assert gaps[0] < 0.1
    assert 0.9 < max(gaps) < 1.1
    assert len(gaps) > 50
