"""What each path costs is what `expected.toml` says, and the guard sees a path that costs more."""

import hashlib
from collections.abc import Sequence
from typing import Any

import pytest

from peerjob.model.record import Enqueued, NewInstance
from peerjob.store.kv.store import KVStore
from peerjob.store.lua.client import driver
from peerjob.store.lua.scripts.script import Script, load_scripts
from peerjob.store.lua.store import LuaStore
from support.guard.comparing import ADVICE, LIMITS, differences, expected
from support.guard.measuring import ENGINES, NODE, SCHEDULE, measured, metered
from support.guard.store_paths import store_paths
from support.servers import needed

PATH = "enqueue one"


@pytest.mark.parametrize("part", ENGINES)
async def test_each_path_costs_what_is_expected(part: str) -> None:
    with needed():
        found = await measured([part])

    assert "\n".join(differences({part: expected()[part]}, found)) == ""


async def _enqueue_differs(engine: str) -> list[str]:
    async with metered(engine) as (url, meter):
        found = await store_paths(url, meter, PATH)
    return differences({engine: {PATH: expected()[engine][PATH]}}, {engine: found})


@pytest.mark.parametrize("engine", [engine for engine in ENGINES if engine != NODE])
async def test_the_guard_sees_an_added_round_trip(engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for store in (LuaStore, KVStore):
        enqueue = store.enqueue

        async def twice(
            self: Any, instances: Sequence[NewInstance], *, node: str = "", enqueue: Any = enqueue
        ) -> list[Enqueued]:
            await self.published_kinds(["work"])
            return list(await enqueue(self, instances, node=node))

        monkeypatch.setattr(store, "enqueue", twice)

    with needed():
        line, advice = await _enqueue_differs(engine)

    assert line.startswith(f"{engine}, {PATH}: ")
    assert ("select 5 → " if engine == "sqlite" else "round trips 1 → 2") in line
    assert advice == ADVICE


async def test_the_guard_sees_an_added_command_in_a_script(monkeypatch: pytest.MonkeyPatch) -> None:
    name = "enqueue_one"
    first, _, rest = load_scripts()[name].source.partition("\n")
    source = f"{first}\nredis.call('EXISTS', KEYS[1])\n{rest}"
    planted = Script(name=name, pieces=(source,), sha=hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest())
    monkeypatch.setattr(driver, "load_scripts", lambda: {**load_scripts(), name: planted})

    with needed():
        line, _ = await _enqueue_differs("redis")

    assert line == f"redis, {PATH}: exists 1 → 2"


def test_the_guard_sees_a_count_above_its_limit() -> None:
    within = LIMITS[SCHEDULE]
    assert differences({}, {"redis": {SCHEDULE: within}}) == []
    most = within["coroutines"]
    line, _ = differences({}, {"redis": {SCHEDULE: {**within, "coroutines": most + 1}}})
    assert line == f"redis, {SCHEDULE}: coroutines {most} → {most + 1}"
