"""Commands of `jobctl` that wait for instances, or watch them."""

import asyncio
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any, cast

import pytest

from peerjob import Job, Node, Query, State
from peerjob.cli.ctl.events import _present  # pyright: ignore[reportPrivateUsage]
from peerjob.cli.ctl.instances import Targets, wait
from peerjob.cli.ctl.output import Format, Printer
from peerjob.cli.ctl.schedule import show_end
from peerjob.testing import VirtualClock, running_node


async def test_an_interrupted_wait_names_the_instance_that_goes_on(capsys: pytest.CaptureFixture[str]) -> None:
    work = Job("work", lambda: None)
    async with Node("memory://", jobs=[work], workers=0) as node:
        instance = await node.schedule(work)
        # the session is used after the end only
        waiting = asyncio.create_task(show_end(cast("Any", None), instance, None))
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
    assert (
        capsys.readouterr().err == f"jobctl: instance {instance.id} goes on; `jobctl wait {instance.id}` waits for it\n"
    )


@pytest.mark.parametrize(
    ("kind", "state", "status"),
    [
        ("works", State.COMPLETED, 0),
        ("fails", State.TERMINATED, 1),
        ("hangs", State.TIMED_OUT, 1),
        ("waits", State.CANCELLED, 1),
    ],
)
async def test_the_status_says_whether_each_instance_completed(
    clock: VirtualClock, capsys: pytest.CaptureFixture[str], kind: str, state: State, status: int
) -> None:
    async def hang() -> None:
        await asyncio.sleep(60)

    def fail() -> None:
        raise ValueError

    jobs = [Job("works", lambda: None), Job("fails", fail), Job("hangs", hang, timeout=1), Job("waits", hang)]
    async with running_node(jobs, clock=clock) as node:
        works, other = [await node.schedule(name) for name in ("works", kind)]
        if state is State.CANCELLED:
            await node.cancel_instance(other.id)
        session = cast("Any", SimpleNamespace(client=lambda: nullcontext(node), out=Printer(Format.NAME), now=None))
        assert await clock.run(wait(session, Targets(uuids=[works.id, other.id]))) == status
        assert (await node.lookup_instance(other.id)).state is state
    assert capsys.readouterr().out.split() == [works.id, other.id]


@pytest.mark.parametrize(
    "query", [Query(kind="work"), Query(tag="blue"), Query(state="scheduled")], ids=["kind", "tag", "state"]
)
async def test_a_live_table_begins_with_what_the_criteria_select(clock: VirtualClock, query: Query) -> None:
    work = Job("work", lambda: None)
    async with running_node(work, Job("other", lambda: None), clock=clock) as node:
        first = await node.schedule(work.with_options(tags=["blue"], after="1h"))
        second = await node.schedule(work.with_options(tags=["blue"], after="1h"))
        other = await node.schedule(Job("other").with_options(tags=["red"], after="1h"))
        if query.state is not None:
            await node.cancel_instance(other.id)
        assert await _present(cast("Any", node), query) == [first, second]
