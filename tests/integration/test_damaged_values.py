"""One damaged stored value beside two nodes at work costs no other work, on each engine."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

import pytest

from support.damage.logs import case_logs
from support.damage.matrix import Case, Drawn, plan, play
from support.damage.values import Etcd, Holder, Sqlite

SEED = 1
SHARE = 5
"""Cases of each engine in each test run, all at the same time. They take about as long as one case."""


@pytest.fixture
def etcd(etcd_url: str) -> Iterator[Etcd]:
    with closing(Etcd(etcd_url)) as holder:
        yield holder


@pytest.fixture
def sqlite(tmp_path: Path) -> Sqlite:
    return Sqlite(tmp_path)


async def problems(holder: Holder, cases: Sequence[Case | Drawn], prefix: str) -> list[str]:
    """What went wrong in these cases."""
    with case_logs() as logs:
        verdicts = [verdict async for verdict in play(holder, cases, logs, prefix=prefix)]
    return [str(verdict) for verdict in verdicts if verdict.problems]


async def test_a_share_of_the_damages_costs_no_other_work(etcd: Etcd, sqlite: Sqlite) -> None:
    cases = [Drawn(SEED, number) for number in range(SHARE)]
    found = await asyncio.gather(problems(etcd, cases, "etcd"), problems(sqlite, cases, "sqlite"))
    assert [problem for part in found for problem in part] == []


@pytest.mark.soak
@pytest.mark.timeout(7_200)
@pytest.mark.parametrize("engine", ["etcd", "sqlite"])
async def test_no_damage_costs_other_work(request: pytest.FixtureRequest, engine: str) -> None:
    holder: Holder = request.getfixturevalue(engine)
    assert await problems(holder, await plan(holder, "plan"), "all") == []
