"""Random programs of contract calls: servers answer as the reference store does."""

import pytest

from support.oracle.soaking import findings
from support.searches import cases

SEEDS = {
    "redis": [383015, 345018, *range(201, 215)],
    "valkey": range(301, 315),
    "etcd": [212, *range(401, 408), 935003, 380007],
}


@pytest.mark.search
@pytest.mark.parametrize("engine", SEEDS)
async def test_a_server_answers_as_the_reference(engine: str, request: pytest.FixtureRequest) -> None:
    url: str = request.getfixturevalue(f"{engine}_url")
    assert await findings(url, cases(SEEDS[engine])) == []
