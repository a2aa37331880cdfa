"""Steps shrink while the store refuses them, and grow again up to their limit."""

import pytest

from peerjob.cluster.batch_size import BatchSize
from peerjob.model.errors import StoreRefusedError

MOST = 100


async def test_a_step_is_never_larger_than_its_limit() -> None:
    asked: list[int] = []
    steps = BatchSize(MOST)

    async def call(size: int) -> int:
        asked.append(size)
        return size

    assert [await steps.step(call) for _ in range(5)] == [MOST] * 5
    assert asked == [MOST] * 5


async def test_a_refused_step_is_halved_and_grows_again() -> None:
    accepted = 30
    steps = BatchSize(MOST)

    async def call(size: int) -> int:
        if size > accepted:
            raise StoreRefusedError("memory://", "too large")
        return size

    assert await steps.step(call) == 25
    accepted = MOST
    assert [await steps.step(call) for _ in range(4)] == [50, MOST, MOST, MOST]


async def test_a_refused_step_of_one_record_is_an_error() -> None:
    async def call(size: int) -> int:
        raise StoreRefusedError("memory://", "too large")

    with pytest.raises(StoreRefusedError):
        await BatchSize(MOST).step(call)
