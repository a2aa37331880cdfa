"""Random programs against the store contract on real servers keep every invariant."""

import pytest

from support.searches import seeds
from support.simulation.storm_soak import ENGINES, judged

SEEDS = (1, 2)


@pytest.fixture(params=ENGINES)
def engine_url(request: pytest.FixtureRequest) -> str:
    """A store of each kind in turn."""
    url: str = "memory://" if request.param == "memory" else request.getfixturevalue(f"{request.param}_url")
    return url


@pytest.mark.parametrize("seed", seeds(SEEDS))
async def test_a_random_program_keeps_every_invariant(engine_url: str, seed: int) -> None:
    violations, happened = await judged(engine_url, seed)
    assert violations == []
    assert happened
