"""One of three daemons hangs: its clients go on with the others, and nothing is done twice."""

import asyncio
from pathlib import Path

import pytest

from peerjob import Client, Query, State
from peerjob.remote.client.connection import MAX_SILENCE
from support.jobd import Jobd, target
from support.stalls import Stalls, now_us

QUIET = MAX_SILENCE + 1
"""Seconds after which a client no longer takes for granted that a node is there."""


@pytest.mark.matrix("a long fault; shorter ones have the same promises")
async def test_clients_of_daemons_that_hang_go_on_in_time(
    jobd: Jobd, redis_url: str, namespace: str, tmp_path: Path
) -> None:
    options = ("--store", redis_url, "--namespace", namespace, "--lease-ttl", "2s")
    daemons = [jobd.run(*options, "--name", name) for name in ("one", "two", "three")]
    async with Client(",".join(map(target, daemons))) as client:
        held = await client.schedule("held", str(tmp_path / "go"))
        begun: asyncio.Queue[int] = asyncio.Queue()
        watching = asyncio.ensure_future(_watch(client, held.id, begun))
        await begun.get()
        waiting = asyncio.ensure_future(held.result(60))

        with Stalls() as stalls:
            daemons[0].pause()
            hung_us = now_us()
            assert len(await client.nodes()) >= 2
            assert stalls.took(hung_us) < 2 * MAX_SILENCE, "one address was given up"
            again_us = now_us()
            made = await client.schedule("double", 21)
            assert await made.result(60) == 42
            assert stalls.took(again_us) < MAX_SILENCE, "the address that hangs is left alone"
            assert stalls.took(hung_us, await begun.get()) < 25, "streams go on, too"

        queued = await client.schedule("nobody-runs-it", allow_unknown=True)
        waiting.cancel()
        await asyncio.sleep(QUIET)  # no answer of the second is fresh when it hangs, too
        daemons[1].pause()
        assert [one.id for one in await client.cancel_instances(Query(kind="nobody-runs-it"))] == [queued.id]

        (tmp_path / "go").touch()
        assert await held.result(60) == str(tmp_path / "go")
        for daemon in daemons[:2]:
            daemon.resume()
        await client.wait(timeout=60)
        ended = [(one.kind, one.state) async for one in client.iter_instances()]
        assert sorted(ended) == [
            ("double", State.COMPLETED),
            ("held", State.COMPLETED),
            ("nobody-runs-it", State.CANCELLED),
        ]
        watching.cancel()


async def _watch(client: Client, id: str, begun: "asyncio.Queue[int]") -> None:
    async def begin() -> None:
        begun.put_nowait(now_us())

    async for _ in client.watch(Query(uuid=id), on_begin=begin):
        pass
