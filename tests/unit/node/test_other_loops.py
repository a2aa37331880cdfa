"""A running node belongs to its event loop: a call in another one says so."""

import asyncio
import sys
import weakref
from pathlib import Path

import pytest

from peerjob import INJECTED, Instance, Job, Manager, Node, NodeStateError
from support.closed_loops import after_a_closed_loop

ERROR = "was started in another event loop"


def add(x: int, y: int) -> int:
    return x + y


def misuse(manager: Manager = INJECTED) -> str:
    """A sync job that starts an event loop of its own for the verbs of its node."""
    with pytest.raises(NodeStateError, match=f"{ERROR}.*BlockingManager") as caught:
        asyncio.run(_schedule(manager))
    return str(caught.value)


async def _schedule(manager: Manager) -> Instance[int]:
    return await manager.schedule(ADD, 1, 2)


ADD, MISUSE = Job("add", add), Job("misuse", misuse)


async def test_a_job_that_starts_a_loop_of_its_own_is_told() -> None:
    async with Node("memory://", jobs=[ADD, MISUSE]) as node:
        assert ERROR in await (await node.schedule(MISUSE)).result(30)
        made = await node.schedule(ADD.with_options(after="1h"), 1, 2)

        def wait() -> int:
            return asyncio.run(made.result(1))

        with pytest.raises(NodeStateError, match=ERROR):
            await asyncio.to_thread(wait)
        assert await node.count() == 2


async def test_a_call_from_another_thread_through_the_loop_works() -> None:
    async with Node("memory://", jobs=[ADD]) as node:
        loop = asyncio.get_running_loop()

        def call() -> int:
            made = asyncio.run_coroutine_threadsafe(node.schedule(ADD, 1, 2), loop).result(30)
            return asyncio.run_coroutine_threadsafe(made.result(), loop).result(30)

        assert await asyncio.to_thread(call) == 3


async def test_a_stop_in_another_loop_is_told_and_leaves_the_node_as_it_is() -> None:
    async with Node("memory://", jobs=[ADD]) as node:

        async def stop() -> None:
            await asyncio.wait_for(node.stop(), 10)

        with pytest.raises(NodeStateError, match=ERROR):
            await asyncio.to_thread(asyncio.run, stop())
        assert await (await node.schedule(ADD, 1, 2)).result(30) == 3
    await asyncio.to_thread(asyncio.run, stop())


async def double(number: int) -> int:
    return 2 * number


EAGER = pytest.mark.skipif(sys.version_info < (3, 12), reason="Python 3.11 has no eager tasks")


def use_eager_tasks() -> None:
    asyncio.get_running_loop().set_task_factory(getattr(asyncio, "eager_task_factory"))  # noqa: B009  # see the mark


@EAGER
async def test_bodies_of_a_loop_with_eager_tasks_end() -> None:
    """A body can end within the call that starts it."""
    use_eager_tasks()
    job, numbers = Job("double", double), range(1_000)
    async with Node("memory://", jobs=[job], workers=1) as node:
        made = await node.schedule_many([job.call(number) for number in numbers])
        assert [await one.result(30) for one in made] == [2 * number for number in numbers]


@pytest.mark.parametrize("eager", [False, pytest.param(True, marks=EAGER)])
async def test_the_task_of_a_run_ends_before_the_commit(eager: bool) -> None:
    """Objects that live until the commit cause garbage collections."""
    if eager:
        use_eager_tasks()
    tasks: list[weakref.ref[object]] = []
    alive: list[int] = []

    async def body() -> None:
        alive.append(sum(task() is not None for task in tasks))
        tasks.append(weakref.ref(asyncio.current_task()))

    job = Job("body", body)
    async with Node("memory://", jobs=[job], workers=1) as node:
        for one in await node.schedule_many([job.call() for _ in range(100)]):
            await one.result(30)
    assert max(alive) == 0


ALIKE = pytest.mark.matrix("the store, and the other way to give it, stay in make test")


@pytest.mark.parametrize(
    ("scheme", "given"),
    [
        ("memory", "url"),
        ("shared", "store"),
        ("file", "url"),
        pytest.param("memory", "store", marks=ALIKE),
        pytest.param("shared", "url", marks=ALIKE),
        pytest.param("file", "store", marks=ALIKE),
    ],
)
def test_a_node_whose_loop_was_closed_is_released_by_a_stop_and_starts_again(
    scheme: str, given: str, tmp_path: Path
) -> None:
    url = {"memory": "memory://", "shared": "memory://shared", "file": f"sqlite:///{tmp_path}/jobs.db"}[scheme]
    told = after_a_closed_loop(url, given)
    assert "was closed without a stop: bodies and results" in told
    assert "unexpected error" not in told
