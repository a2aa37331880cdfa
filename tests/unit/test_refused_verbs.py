"""Each argument of a verb is used, or refused with an error of peerjob: in process and over the network."""

import asyncio
import inspect
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import pytest

import peerjob
from peerjob import Client, Filter, Flow, Job, Manager, PeerjobError, Query
from peerjob.model.ids import IdSource
from peerjob.model.printable import shown
from support.odd_values import ODD, allowed, out_of_bounds, parameters_of
from support.rpc import served


def work(n: int = 1) -> int:
    return n


WORK = Job("work", work)
DAILY = WORK.with_options(every="1d", name="daily")
NAMES = {name: getattr(peerjob, name) for name in peerjob.__all__}
VERBS = sorted(
    name
    for name, verb in vars(Manager).items()
    if inspect.isfunction(verb) and not name.startswith("_") and len(inspect.signature(verb).parameters) > 1
)
INTERNAL = {"keep_line", "keep_audit", "read_result"}
"""Methods that peerjob itself calls, with values of its own."""
SUMS = {("state", int), ("level", int)}


async def good_arguments(manager: Manager) -> dict[str, Any]:
    made = await manager.schedule(WORK)
    await made.wait(30)
    await manager.add_schedule(DAILY)
    return {
        "source": WORK,
        "kind": "work",
        "job": WORK,
        "id": IdSource(manager.clock).one(),
        "call": WORK.call(),
        "calls": [WORK.call()],
        "uuid": made.id,
        "instance": made.id,
        "flow": Flow("work"),
        "query": Query(kind="work"),
        "filter": Filter(older_than="1d"),
        "schedule": "daily",
        "name": "daily",
        "start": datetime(2026, 1, 1, tzinfo=UTC),
        "end": datetime(2026, 1, 2, tzinfo=UTC),
        "n": 2,
        "prefix": "a",
        "minutes": 5,
        "timeout": 5,
    }


async def called(manager: Manager, verb: str, arguments: dict[str, Any]) -> object:
    call = getattr(manager, verb)
    names = inspect.signature(getattr(Manager, verb)).parameters
    positional = [one.name for one in names.values() if one.kind is one.POSITIONAL_ONLY and one.name != "self"]
    answer = call(
        *(arguments[name] for name in positional), **{k: v for k, v in arguments.items() if k not in positional}
    )
    if isinstance(answer, AsyncIterator):
        return await anext(answer, None)
    return await answer if inspect.isawaitable(answer) else answer


@pytest.mark.parametrize("verb", [verb for verb in VERBS if verb not in INTERNAL])
@pytest.mark.parametrize("over", ["node", "client"])
async def test_each_argument_of_a_verb_is_used_or_refused(verb: str, over: str) -> None:
    wrong: list[str] = []
    async with served(WORK) as (node, server), Client(server.target, jobs=[WORK]) as client:
        manager: Manager = node if over == "node" else client
        known = await good_arguments(manager)
        function = getattr(Manager, verb)
        hints = parameters_of(function, NAMES)
        hints.pop("self", None)
        required = [
            one.name
            for one in inspect.signature(function).parameters.values()
            if one.default is one.empty and one.name in hints
        ]
        good = {name: known[name] for name in required}
        for name, annotation in hints.items():
            for value in ODD:
                place = f"{verb}({name}={shown(value)[:40]})"
                fits = allowed(value, annotation) and not out_of_bounds(value, annotation)
                if fits and not isinstance(value, int | float):
                    continue
                try:
                    async with asyncio.timeout(5):
                        await called(manager, verb, {**good, name: value})
                except (PeerjobError, TimeoutError):
                    pass
                except Exception as error:  # noqa: BLE001  # any other error is the finding
                    wrong.append(f"{place}: {type(error).__name__}: {error!s:.100}")
                else:
                    if not fits:
                        wrong.append(f"{place}: accepted")
    assert not wrong, "\n".join(wrong)
