"""A limit that is damaged while a node runs: the claim that finds it lets the node publish it again."""

import asyncio
import contextlib
import logging

import pytest

from peerjob import INJECTED, Context, Job, KeyLimit, Limit, Node
from peerjob.model.clock import SystemClock
from peerjob.testing.helpers import running_node
from support.damage.values import Etcd, Holder, Redis, Value
from support.waiting import until

BAD = b"\x80\xff"
each_server = pytest.mark.parametrize("store_url", ["redis", "valkey", "etcd"], indirect=True)


async def few(seconds: float, context: Context = INJECTED) -> None:
    await asyncio.sleep(seconds)


JOBS = (Job("few", few, limits=[Limit("shared", concurrency=1)]), Job("other", few))
STORED = {"limit": ("limit/shared", "limits", b"lshared"), "rule": ("limited/few", "limits", b"kfew")}
"""What a damage hits: its key on etcd, and its key and field on Redis."""


@pytest.fixture
def holder(store_url: str) -> Holder:
    return Etcd(store_url) if store_url.startswith("etcd") else Redis(store_url)


def stored(holder: Holder, namespace: str, what: str) -> Value:
    of_etcd, of_redis, field = STORED[what]
    (value,) = (
        value
        for value in holder.values(namespace, {})
        if value.key.endswith(of_etcd) or (value.key.endswith(f":{of_redis}") and value.part == field)
    )
    return value


async def concurrency_of(node: Node) -> int | None:
    views = [view async for view in node.limits()]
    return next((view.concurrency for view in views if view.name == "shared" and view.kinds), None)


def reread(holder: Holder, namespace: str) -> None:
    """Let a store of etcd read all limits again, as it does after another store has changed a limit."""
    if isinstance(holder, Etcd):
        (layout,) = (value for value in holder.values(namespace, {}) if value.name == "layout")
        holder.put(layout, layout.data)


@each_server
@pytest.mark.parametrize("what", ["limit", "rule"])
async def test_a_node_publishes_a_damaged_limit_again(
    holder: Holder, store_url: str, namespace: str, what: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with running_node(*JOBS, store=store_url, namespace=namespace, clock=SystemClock(), workers=3) as node:
        assert await concurrency_of(node) == 1
        before = stored(holder, namespace, what).data
        with caplog.at_level(logging.ERROR, logger="peerjob"), contextlib.closing(holder):
            holder.put(stored(holder, namespace, what), BAD)
            reread(holder, namespace)
            await (await node.schedule("few", 0)).result(10)
            await until(lambda: stored(holder, namespace, what).data == before)
            assert await concurrency_of(node) == 1
            # the next claims find nothing more to report
            await (await node.schedule("few", 0)).result(10)
    (error,) = (record.getMessage() for record in caplog.records if record.levelno == logging.ERROR)
    assert ("shared" if what == "limit" else "few") in error


@each_server
async def test_a_limit_that_is_gone_comes_back(holder: Holder, store_url: str, namespace: str) -> None:
    """The node whose claim reported the damage can die before it publishes the limit."""
    async with running_node(*JOBS, store=store_url, namespace=namespace, clock=SystemClock(), workers=3) as node:
        with contextlib.closing(holder):
            value = stored(holder, namespace, "limit")
            if isinstance(holder, Redis):
                holder.put(value, b"")
            else:
                holder.remove(value)
            reread(holder, namespace)
            await (await node.schedule("few", 0)).result(10)
            await until(lambda: concurrency_of(node))


@pytest.mark.parametrize("store_url", ["redis", "valkey"], indirect=True)
async def test_limits_that_are_all_gone_come_back(
    holder: Redis, store_url: str, namespace: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A node without limits finds it, too, and cannot mend it: it publishes its kinds only once."""
    keyed = Job("keyed", few, limits=[KeyLimit("{seconds}")])
    async with (
        running_node(*JOBS, keyed, store=store_url, namespace=namespace, clock=SystemClock(), workers=3) as node,
        Node(store_url, namespace=namespace, jobs=[Job("unlimited", few)]) as other,
    ):
        assert await concurrency_of(node) == 1
        with contextlib.closing(holder):
            holder.remove(stored(holder, namespace, "limit"))
        await (await other.schedule("keyed", 0)).result(10)
        for _ in range(3):
            await (await other.schedule("unlimited", 0)).result(10)
        await until(lambda: concurrency_of(node))
        views = [view async for view in node.limits()]
        assert sorted(view.kinds for view in views) == [("few",), ("keyed",)]
    assert "the store lacks limits of kinds; the node publishes its kinds again" in caplog.text


@pytest.mark.parametrize("store_url", ["redis", "valkey"], indirect=True)
@pytest.mark.parametrize("what", ["limit", "rule"])
async def test_a_key_of_limits_with_another_type_is_written_again(
    holder: Redis, store_url: str, namespace: str, what: str
) -> None:
    async with running_node(*JOBS, store=store_url, namespace=namespace, clock=SystemClock(), workers=3) as node:
        before = stored(holder, namespace, what).data
        with contextlib.closing(holder):
            holder.put_type(stored(holder, namespace, what))
            await (await node.schedule("few", 0)).result(10)
            await until(lambda: [one for one in holder.values(namespace, {}) if one.data == before])
            assert await concurrency_of(node) == 1
