"""Permits: a call in line gets the next one, and a call that is cancelled at that moment loses none."""

from __future__ import annotations

import asyncio

from peerjob.model.permits import Permits


async def test_takes_no_more_than_the_count() -> None:
    permits = Permits(2)
    assert [permits.take() for _ in range(3)] == [True, True, False]
    permits.give_back()
    assert permits.take()


async def test_gives_to_the_first_in_line() -> None:
    permits = Permits(1)
    assert permits.take()
    order: list[int] = []

    async def call(number: int) -> None:
        await permits.wait()
        order.append(number)

    calls = [asyncio.create_task(call(number)) for number in range(3)]
    await asyncio.sleep(0)
    permits.give_back()
    assert not permits.take(), "the first in line has it"
    await calls[0]
    permits.give_back()
    permits.give_back()
    await asyncio.gather(*calls)
    assert order == [0, 1, 2]


async def test_a_cancelled_call_gives_its_permit_to_the_next() -> None:
    permits = Permits(1)
    assert permits.take()
    left, given, last = (asyncio.create_task(permits.wait()) for _ in range(3))
    await asyncio.sleep(0)
    left.cancel()  # before it got a permit
    await asyncio.sleep(0)
    permits.give_back()
    given.cancel()  # at the moment when it got one
    await asyncio.gather(left, given, return_exceptions=True)
    await asyncio.wait_for(last, 5)
    permits.give_back()
    assert permits.take()
    assert not permits.take()
