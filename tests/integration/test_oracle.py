"""Random programs of contract calls: servers answer as the reference store does."""

from collections.abc import Sequence

import pytest

from support.oracle.soaking import findings
from support.searches import cases

SEEDS = {
    "redis": ([383015, *range(201, 208)], [345018, *range(208, 215)]),
    "valkey": (range(301, 308), range(308, 315)),
    "etcd": ([212, *range(401, 405)], [*range(405, 408), 935003, 380007]),
}
"""In two parts, each of which has the time of a test: a program waits for a server's time, or for another program."""
PARTS = [
    pytest.param(engine, seeds, id=f"{engine}-{part}")
    for engine, parts in SEEDS.items()
    for part, seeds in enumerate(parts)
]


@pytest.mark.search
@pytest.mark.parametrize(("engine", "seeds"), PARTS)
async def test_a_server_answers_as_the_reference(
    engine: str, seeds: Sequence[int], request: pytest.FixtureRequest
) -> None:
    url: str = request.getfixturevalue(f"{engine}_url")
    assert await findings(url, cases(seeds)) == []
