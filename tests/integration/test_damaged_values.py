"""One damaged stored value beside two nodes at work costs no other work, on each engine."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

import pytest

from support.damage.logs import CaseLogs, case_logs
from support.damage.matrix import Case, Drawn, plan, play
from support.damage.values import Etcd, Holder, Redis, Sqlite

pytestmark = pytest.mark.matrix("a share of a soak; test_lua_damaged.py and the unit tests have each kind of damage")

ENGINES = ("redis", "valkey", "etcd", "sqlite")
SEED = 1
SHARE = 4
"""Cases of each engine in each test run, all at the same time. They take about as long as one case."""


@pytest.fixture
def etcd(etcd_url: str) -> Iterator[Etcd]:
    with closing(Etcd(etcd_url)) as holder:
        yield holder


@pytest.fixture
def redis(redis_url: str) -> Iterator[Redis]:
    with closing(Redis(redis_url)) as holder:
        yield holder


@pytest.fixture
def valkey(valkey_url: str) -> Iterator[Redis]:
    with closing(Redis(valkey_url)) as holder:
        yield holder


@pytest.fixture
def sqlite(tmp_path: Path) -> Sqlite:
    return Sqlite(tmp_path)


async def problems(holder: Holder, cases: Sequence[Case | Drawn], logs: CaseLogs, prefix: str) -> list[str]:
    """What went wrong in these cases."""
    verdicts = [verdict async for verdict in play(holder, cases, logs, prefix=prefix)]
    return [str(verdict) for verdict in verdicts if verdict.problems]


async def test_a_share_of_the_damages_costs_no_other_work(request: pytest.FixtureRequest) -> None:
    cases = [Drawn(SEED, number) for number in range(SHARE)]
    holders: dict[str, Holder] = {engine: request.getfixturevalue(engine) for engine in ENGINES}
    with case_logs() as logs:
        found = await asyncio.gather(*(problems(holder, cases, logs, engine) for engine, holder in holders.items()))
    assert [problem for part in found for problem in part] == []


@pytest.mark.soak
@pytest.mark.timeout(7_200)
@pytest.mark.parametrize("engine", ENGINES)
async def test_no_damage_costs_other_work(request: pytest.FixtureRequest, engine: str) -> None:
    holder: Holder = request.getfixturevalue(engine)
    with case_logs() as logs:
        assert await problems(holder, await plan(holder, "plan"), logs, "all") == []
