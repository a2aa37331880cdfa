"""The node that a client talks to is killed: the client goes on with another, and nothing is done twice."""

import asyncio
import contextlib
from collections.abc import Generator
from datetime import timedelta
from pathlib import Path

import pytest

from peerjob import Client, Query, State
from support.division import in_matrix
from support.processes import ChildProcess
from support.serving_process import TELL
from support.waiting import PATIENCE

PAUSE = timedelta(milliseconds=100)


@contextlib.contextmanager
def serving(store_url: str, namespace: str, folder: Path) -> Generator[tuple[list[ChildProcess], str]]:
    """Two nodes that serve, each a process, and the target of a client of both."""
    with contextlib.ExitStack() as stack:
        children = [
            ChildProcess.python("support.serving_process", store_url, namespace, name, output=folder / f"{name}.log")
            for name in ("one", "two")
        ]
        for child in children:
            stack.callback(child.close)
        targets = [child.wait_for(r"serving (\S+)")[1] for child in children]
        yield children, ",".join(targets)


@pytest.mark.parametrize("store_url", ["redis", in_matrix("etcd")], indirect=True)
async def test_a_client_of_a_node_that_is_killed_goes_on(store_url: str, namespace: str, tmp_path: Path) -> None:
    with serving(store_url, namespace, tmp_path) as (children, target):
        async with Client(target) as client:
            first = await client.schedule(TELL, -1, timedelta(seconds=1))
            followed = asyncio.ensure_future(_lines(client, first.id))
            waiting = asyncio.ensure_future(first.result(PATIENCE))
            half = asyncio.Event()
            scheduling = [asyncio.ensure_future(_later(client, number, half)) for number in range(200)]
            await half.wait()
            assert not all(one.done() for one in scheduling)
            children[0].kill()

            ids = await asyncio.gather(*scheduling)
            await client.wait(timeout=PATIENCE)
            assert await waiting == -1
            lines = await followed
            assert lines[-3:] == ["-1: line 0", "-1: line 1", "-1: line 2"], "the last run, whole"
            ended = [one async for one in client.iter_instances(Query(kind="tell"))]
            assert {one.state for one in ended} == {State.COMPLETED}
            assert sorted(one.id for one in ended) == sorted([first.id, *ids]), "each call made one instance"
            assert sorted(one.outcome() for one in ended) == list(range(-1, 200))


async def _later(client: Client, number: int, half: asyncio.Event) -> str:
    await asyncio.sleep(number * 0.01)
    id = (await client.schedule(TELL, number, PAUSE)).id
    if number == 100:
        half.set()
    return id


async def _lines(client: Client, id: str) -> list[str]:
    return [line.message async for line in client.iter_logs(id, follow=True)]
