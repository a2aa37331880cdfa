"""Child tasks of a parent that ends, or whose event loop was closed."""

import asyncio
from collections.abc import AsyncGenerator

from peerjob.model.child_tasks import AsyncClosing, cancel, end


async def test_tasks_are_cancelled_and_awaited() -> None:
    tasks = [asyncio.create_task(asyncio.Event().wait()) for _ in range(2)]
    await asyncio.sleep(0)
    await end(tasks)
    assert all(task.cancelled() for task in tasks)
    await end([])


def test_a_parent_that_python_destroys_cancels_no_task_of_its_closed_loop() -> None:
    """A cancelled task of a closed loop is held by its `asyncio.timeout` alone: Python 3.11 frees it too early."""
    loop = asyncio.new_event_loop()
    loop.set_exception_handler(lambda _loop, _context: None)  # asyncio tells each lost task
    tasks: list[asyncio.Task[bool]] = []

    async def parent() -> None:
        tasks.append(asyncio.create_task(asyncio.Event().wait()))
        try:
            await asyncio.Event().wait()
        finally:
            await end(tasks)

    work = parent()
    lost = loop.create_task(work)
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()
    work.close()
    cancel(lost, *tasks)
    assert [task.cancelling() for task in (lost, *tasks)] == [0, 0]


async def test_an_iterator_is_closed_after_its_use() -> None:
    ended: list[str] = []

    async def numbers() -> AsyncGenerator[int]:
        try:
            yield 1
            yield 2
        finally:
            ended.append("closed")

    async with AsyncClosing(numbers()) as iterator:
        async for _ in iterator:
            break
    assert ended == ["closed"]


def test_a_coroutine_that_python_destroys_closes_no_iterator_that_it_awaits() -> None:
    loop = asyncio.new_event_loop()
    loop.set_exception_handler(lambda _loop, _context: None)  # asyncio tells each lost task

    async def silent() -> AsyncGenerator[int]:
        await asyncio.Event().wait()
        yield 1

    async def reader() -> None:
        async with AsyncClosing(silent()) as iterator:
            async for _ in iterator:
                pass

    work = reader()
    lost = loop.create_task(work)
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()
    work.close()
    cancel(lost)
