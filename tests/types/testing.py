"""Tests of jobs: runs without a node, and the fixtures of the pytest plugin."""

from typing import assert_type

import pytest

from peerjob import BlockingInstance, BlockingManager, Instance, Node, job
from peerjob.testing import (
    Eager,
    EagerRun,
    TestCluster,
    Verdict,
    VirtualClock,
    advance,
    blocking_node,
    eager,
    eager_async,
    running_node,
)


@job
def add(x: int, y: int) -> int:
    return x + y


@job(kind="shout", max_retries=3)
async def shout(text: str) -> str:
    return text.upper()


def test_eager() -> None:
    assert_type(eager(add, 1, 2), EagerRun[int])
    assert_type(eager(shout, "a").result, str)
    assert_type(eager(add.call(1, 2)).result, int)
    assert_type(Eager(max_attempts=2).run(shout, "a").verdict, Verdict)
    eager(add, 1, "2")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
    eager(shout)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]


async def test_eager_async() -> None:
    assert_type(await eager_async(add, 1, 2), EagerRun[int])
    assert_type((await Eager().run_async(shout, "a")).result, str)


@pytest.mark.peerjob(jobs=[add], seed=5)
async def test_fixtures(peerjob_node: Node, peerjob_cluster: TestCluster, peerjob_clock: VirtualClock) -> None:
    instance = await peerjob_cluster.schedule(add, 1, 2)
    assert_type(instance, Instance[int])
    await peerjob_clock.advance("1h")
    assert_type(await advance(peerjob_node, "1h"), None)
    async with running_node(add, shout) as node:
        assert_type(await (await node.schedule(shout, "a")).result(), str)


def test_sync(peerjob_manager: BlockingManager) -> None:
    with blocking_node(add) as manager:
        assert_type(manager.schedule(add, 1, 2), BlockingInstance[int])
        advance(manager, "1h")
    advance(peerjob_manager, "1h")
