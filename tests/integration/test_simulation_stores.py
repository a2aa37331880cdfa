"""Random programs against the store contract on real servers keep every invariant."""

import uuid

import pytest

from peerjob.clock import SystemClock
from peerjob.record import StoreLimits
from peerjob.store.url import open_store
from support.simulation.storming import storm

SEEDS = (1, 2)
SHORT_TTL_US = {"memory": 100_000, "redis": 100_000, "valkey": 100_000, "etcd": 1_000_000}


@pytest.fixture(params=SHORT_TTL_US)
def engine_url(request: pytest.FixtureRequest) -> str:
    """A store of each kind in turn; with a server where there is one."""
    engine = request.param
    url: str = "memory://" if engine == "memory" else request.getfixturevalue(f"{engine}_url")
    return url


@pytest.mark.parametrize("seed", SEEDS)
async def test_a_random_program_keeps_every_invariant(engine_url: str, seed: int) -> None:
    clock = SystemClock()
    store = open_store(engine_url, namespace=uuid.uuid4().hex, clock=clock, limits=StoreLimits())
    await store.open()
    try:
        ttl_us = SHORT_TTL_US[store.capabilities.engine]
        violations, happened = await storm(store, clock, seed, short_ttl_us=ttl_us)
    finally:
        await store.close()
    assert violations == []
    assert happened
