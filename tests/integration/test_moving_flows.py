"""Instances that wait move to another store in the middle: approvals, parents with children, and flows."""

import asyncio
import json
import random  # places at which an import stops
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest

from peerjob import (
    INJECTED,
    Context,
    Flow,
    Job,
    LayoutError,
    Node,
    Query,
    Signal,
    State,
    SystemClock,
    export_namespace,
    import_namespace,
)
from peerjob.model.errors import DecodeError
from peerjob.model.record import LAST_MOMENT_US, MAX_BATCH
from peerjob.store.base import Store
from peerjob.testing.factories import Factory
from peerjob.transfer.lines import MovedInstance, line_of, opened
from support.waiting import until

APPROVAL = Signal("approval", bool)
LARGE = 300
"""Steps of the body whose steps need several lines."""
MEMBERS = 200
JOBCTL = Path(sys.executable).with_name("jobctl")
ran: Counter[str] = Counter()


def note(what: str) -> None:
    ran[what] += 1


async def charge(number: int) -> int:
    note(f"charge {number}")
    return number * 2


async def quick(number: int) -> int:
    note(f"quick {number}")
    return number


async def slow(number: int, before: int = 0) -> int:
    note(f"slow {number}")
    return number + before


async def fail(number: int) -> int:
    note(f"fail {number}")
    raise ValueError(number)


async def order(number: int, context: Context = INJECTED) -> list[int]:
    """A step, children of which the slow ones wait for a node, and an approval."""
    note(f"order {number}")
    paid = await context.step("charge", charge, number)
    first = await context.start("failing", FAIL.call(number))
    done = await context.map("pack", [QUICK.call(number + n) for n in range(3)])
    late = await context.map("late", [SLOW.call(number + n) for n in range(3)])
    ended = await first.ended()
    approved = await context.wait_for(APPROVAL, timeout="1h")
    return [paid, *done, *late, int(approved), int(ended.state is State.TERMINATED)]


async def nested(number: int, context: Context = INJECTED) -> list[int]:
    """A child that is a parent."""
    return [len(await context.call("inner", ORDER.call(number)))]


async def approve(number: int, context: Context = INJECTED) -> list[bool]:
    note(f"approve {number}")
    await context.step("charge", charge, number)
    return [await context.wait_for(APPROVAL, timeout="1h")]


async def many(number: int, context: Context = INJECTED) -> list[int]:
    for n in range(LARGE):
        await context.step(f"step {n}", charge, number + n)
    return [int(await context.wait_for(APPROVAL))]


QUICK, SLOW, FAIL = Job("quick", quick), Job("slow", slow), Job("fail", fail, max_retries=0)
ORDER, NESTED, APPROVE, MANY = Job("order", order), Job("nested", nested), Job("approve", approve), Job("many", many)


@pytest.fixture(autouse=True)
def nothing_ran() -> None:
    ran.clear()


async def exported(url: str, namespace: str) -> list[bytes]:
    return [line async for line in export_namespace(url, namespace=namespace)]


async def waits(node: Node, *ids: str) -> None:
    """Wait until these instances are suspended."""

    async def look() -> bool:
        return all([(await node.lookup_instance(id)).waits_for is not None for id in ids])

    async with asyncio.timeout(60):
        await until(look)


async def idle(node: Node, kinds: Sequence[str]) -> None:
    """Wait until no job of these kinds is left, and all others wait."""

    async def look() -> bool:
        left = [one async for one in node.iter_instances(Query(state=State.ACTIVE))]
        return not any(one.kind in kinds or (one.kind != "slow" and one.waits_for is None) for one in left)

    async def rests() -> bool:
        # a parent also waits until the end of its last child is settled, and then it goes on
        return await look() and not (await node.stats()).settling and await look()

    async with asyncio.timeout(60):
        await until(rests)


def graph(members: int) -> Flow:
    """A flow whose members are pairs: a quick one, and a slow one that needs it; and a last one for all."""
    flow = Flow("import")
    parts = []
    for number in range(members // 2):
        first = flow.add(QUICK.call(1_000 + number))
        parts.append(flow.add(SLOW.call(1_000 + number, first.output)))
    flow.add(TOTAL.call([part.output for part in parts]))
    return flow


async def sum_up(numbers: list[int]) -> int:
    note("total")
    return sum(numbers)


TOTAL = Job("total", sum_up)
JOBS = (QUICK, SLOW, FAIL, ORDER, NESTED, APPROVE, MANY, TOTAL)


@asynccontextmanager
async def half(url: str, namespace: str) -> AsyncGenerator[Node]:
    """A node that runs all jobs but the slow ones."""
    async with Node(url, namespace=namespace, jobs=JOBS, workers=0) as manager:
        await manager.pause_kind("slow")
        async with Node(url, namespace=namespace, jobs=JOBS, workers=20) as node:
            yield node
            await idle(node, ["quick", "fail"])


async def begin(url: str, namespace: str, members: int) -> dict[str, str]:
    """Instances of each kind, in the middle of their work."""
    async with half(url, namespace) as node:
        flow = await node.schedule_flow(graph(members))
        return {
            "flow": flow.id,
            "approve": (await node.schedule(APPROVE, 1)).id,
            "order": (await node.schedule(ORDER, 10)).id,
            "nested": (await node.schedule(NESTED, 20)).id,
            "many": (await node.schedule(MANY, 2_000)).id,
        }


async def finish(url: str, namespace: str, made: dict[str, str], members: int) -> None:
    """Run all to their ends, and check that each body went on."""
    async with Node(url, namespace=namespace, jobs=JOBS, workers=20) as node:
        for name in ("approve", "order", "many"):
            assert await node.signal(made[name], APPROVAL, True)
        (inner,) = [one.id async for one in node.iter_instances(Query(parent=made["nested"]))]
        assert await node.signal(inner, APPROVAL, False)
        async with asyncio.timeout(90):
            results = {name: await (await node.lookup_instance(id)).result() for name, id in made.items()}
        total = [one async for one in node.iter_instances(Query(kind="total"))]
    assert results == {
        "flow": None,
        "approve": [True],
        "order": [20, 10, 11, 12, 10, 11, 12, 1, 1],
        "nested": [9],
        "many": [1],
    }
    assert [await one.result() for one in total] == [sum(2 * (1_000 + number) for number in range(members // 2))]
    twice = {what: times for what, times in ran.items() if times > 1 and not what.startswith(("order", "approve"))}
    assert twice == {}
    wanted = 1 + LARGE + 2 + 2 * (1 + 3 + 3) + members + 1
    assert sum(not what.startswith(("order", "approve")) for what in ran) == wanted


@pytest.mark.timeout(300)
@pytest.mark.matrix("takes ten seconds; the parts of an import stay in make test")
async def test_what_waits_goes_on_in_the_next_store(
    redis_url: str, etcd_url: str, sqlite_url: str, namespace: str
) -> None:
    made = await begin(redis_url, namespace, MEMBERS)
    lines = await exported(redis_url, namespace)
    added = await import_namespace(etcd_url, lines, namespace=namespace)
    assert (added.refusals, added.known_instances) == (0, 0)
    async with opened(redis_url, namespace) as source, opened(etcd_url, namespace) as target:
        (before,), (after,) = await source.get([made["approve"]]), await target.get([made["approve"]])
        assert before is not None
        assert after is not None
        assert (after.wait, after.has_steps, after.state) == (before.wait, True, State.SCHEDULED)
    # the bodies of parents run again in the second store, and wait again
    runs = ran["approve 1"]
    async with half(etcd_url, namespace):
        pass
    assert ran["approve 1"] == runs
    # in the third one, nothing runs
    lines = await exported(etcd_url, namespace)
    assert (await import_namespace(sqlite_url, lines, namespace=namespace)).refusals == 0
    last = f"{namespace}-last"
    lines = await exported(sqlite_url, namespace)
    added = await import_namespace(redis_url, lines, namespace=last)
    again = await import_namespace(redis_url, lines, namespace=last)
    assert (again.instances, again.known_instances, again.refusals) == (0, added.instances, 0)
    await finish(redis_url, last, made, MEMBERS)
    late = await import_namespace(redis_url, lines, namespace=last)
    assert (late.instances, late.refusals) == (0, 0)


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("source", "target", "seed"),
    [
        ("redis_url", "sqlite_url", 1),
        *(
            pytest.param(source, target, seed, marks=pytest.mark.matrix("more places at which an import stops"))
            for seed in (2, 3)
            for source, target in (("sqlite_url", "redis_url"), ("redis_url", "etcd_url"))
        ),
    ],
)
async def test_an_import_that_stops_can_be_repeated(
    source: str, target: str, seed: int, namespace: str, request: pytest.FixtureRequest
) -> None:
    old, new = str(request.getfixturevalue(source)), str(request.getfixturevalue(target))
    made = await begin(old, namespace, 12)
    lines = await exported(old, namespace)
    for stop in sorted(random.Random(seed).sample(range(1, len(lines)), 4)):
        with pytest.raises(DecodeError, match="not whole"):
            await import_namespace(new, lines[:stop], namespace=namespace)
        async with Node(new, namespace=namespace, jobs=JOBS, workers=20):
            await asyncio.sleep(0.3)
    done = await import_namespace(new, lines, namespace=namespace)
    assert done.refusals == 0
    await finish(new, namespace, made, 12)


async def test_an_export_with_lost_or_moved_lines_is_told(sqlite_url: str, namespace: str) -> None:
    await begin(sqlite_url, namespace, 2)
    lines = await exported(sqlite_url, namespace)
    steps = next(number for number, line in enumerate(lines) if b'"steps","id"' in line)
    with pytest.raises(DecodeError, match="lines with steps"):
        await import_namespace(sqlite_url, lines[:steps] + lines[steps + 1 :], namespace=f"{namespace}-lost")
    child = next(line for line in lines if b'"instance"' in line and b'"parent"' in line and b'"state"' not in line)
    moved = json.loads(child)
    lines.remove(child)
    lines.insert(
        next(number for number, line in enumerate(lines) if json.loads(line).get("id") == moved["parent"]), child
    )
    done = await import_namespace(sqlite_url, lines, namespace=f"{namespace}-moved")
    assert (moved["id"], moved["parent"]) in done.refused


@pytest.mark.parametrize(
    "target", ["redis_url", pytest.param("etcd_url", marks=pytest.mark.matrix("another engine as the target"))]
)
async def test_a_killed_import_runs_no_body_without_its_steps(
    target: str, redis_url: str, namespace: str, request: pytest.FixtureRequest
) -> None:
    url, last = str(request.getfixturevalue(target)), f"{namespace}-last"
    made = await begin(redis_url, namespace, 12)
    lines = await exported(redis_url, namespace)
    # the last line of the body with many steps closes it
    stop = max(at for at, line in enumerate(lines) if b'"steps","id":"' + made["many"].encode() in line)
    arguments = ["import", "-", "--store", url, "--namespace", last]
    make = Factory(SystemClock())
    later = (
        MovedInstance(id=make.id(), kind="later", spec=b"", priority=5, due_us=LAST_MOMENT_US, max_crashes=3)
        for _ in range(MAX_BATCH)
    )
    child = await asyncio.create_subprocess_exec(JOBCTL, *arguments, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
    assert child.stdin is not None
    # the last lines fill a batch, so all lines are written, and the import waits for the next one
    child.stdin.write(b"".join([*lines[:stop], *map(line_of, later)]))
    async with opened(url, last) as store, asyncio.timeout(60):
        await until(lambda: _is_known(store, made["many"]))
    child.kill()
    await child.wait()
    async with opened(url, last) as store:
        (record,) = await store.get([made["many"]])
        assert record is not None
        assert (record.open, record.state) == (True, State.SCHEDULED)
    runs = ran["charge 2000"]
    async with Node(url, namespace=last, jobs=JOBS, workers=20) as node:
        await asyncio.sleep(0.5)
        assert "its import" in str((await node.lookup_instance(made["many"])).waits_for)
    assert ran["charge 2000"] == runs
    assert (await import_namespace(url, lines, namespace=last)).refusals == 0
    await finish(url, last, made, 12)


async def _is_known(store: Store, id: str) -> bool:
    return (await store.get([id])) != [None]


async def test_a_node_that_does_not_know_children_refuses_them(redis_url: str, namespace: str) -> None:
    await begin(redis_url, namespace, 2)
    lines, last = await exported(redis_url, namespace), f"{namespace}-last"
    async with opened(redis_url, last) as store:
        make = Factory(SystemClock())
        info = msgspec.structs.replace(make.node("old one"), reads_layout=2)
        await store.join(info, ttl_us=60_000_000)
        with pytest.raises(LayoutError, match=r"steps and children need layout 4 .*old one"):
            await import_namespace(redis_url, lines, namespace=last)
        assert (await store.health()).counts == {}
        await store.leave(info.incarnation)
    assert (await import_namespace(redis_url, lines, namespace=last)).refusals == 0


async def test_a_parent_whose_key_is_taken_stays_behind_with_its_children(
    redis_url: str, namespace: str, tmp_path: Path
) -> None:
    async with half(redis_url, namespace) as node:
        parent = await node.schedule(ORDER.with_options(key="k"), 1)
    lines, last = await exported(redis_url, namespace), f"{namespace}-last"
    async with Node(redis_url, namespace=last, jobs=JOBS, workers=0) as node:
        holder = await node.schedule(ORDER.with_options(key="k"), 2)
        done = await import_namespace(redis_url, lines, namespace=last)
        assert await node.count() == 1
    assert (done.instances, done.refusals) == (0, 8)
    assert done.refused[0] == (parent.id, holder.id)
    assert {known for _, known in done.refused[1:]} == {parent.id}
    file = tmp_path / "moved"
    file.write_bytes(b"".join(lines))
    arguments: list[Path | str] = ["import", file, "--store", redis_url, "--namespace", last]
    child = await asyncio.create_subprocess_exec(JOBCTL, *arguments, stderr=subprocess.PIPE)
    _, said = await child.communicate()
    assert said.decode().count(f"instance {holder.id} has its key") == 1
    assert said.decode().count(f"nor was its parent {parent.id}") == 7
