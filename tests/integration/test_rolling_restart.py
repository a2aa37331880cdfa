"""Three daemons are restarted one after the other under load: no client sees it, and no fire is missed."""

import asyncio
import signal
from pathlib import Path

import pytest

from peerjob import Client, Query, State
from support.fires import fired_until, neglected, settled
from support.jobd import READY, Jobd
from support.peers import everything, peers
from support.processes import ChildProcess
from support.servers import ServerProcess, free_port
from support.waiting import PATIENCE

pytestmark = pytest.mark.matrix("a long fault; shorter ones have the same promises")

TICKING = """
@job(kind="tick", cron="* * * * * *", overlap="allow")
async def tick() -> None:
    await asyncio.sleep(0.05)
"""
CALLERS = 3
PAUSE = 0.02
"""Seconds between two calls of one caller, so that the audit at the end has some thousands to read at most."""


@pytest.fixture(
    params=[
        "redis",
        pytest.param("valkey", marks=pytest.mark.soak),
        pytest.param("etcd", marks=pytest.mark.soak),
    ]
)
def server(request: pytest.FixtureRequest) -> ServerProcess:
    found: ServerProcess = request.getfixturevalue(f"{request.param}_server")
    return found


class Callers:
    """Schedule and await results all the time, over one client that knows every daemon."""

    def __init__(self, addresses: list[str]) -> None:
        self._addresses = addresses
        self._over = asyncio.Event()
        self.done = 0
        self.slowest = 0.0

    async def run(self) -> None:
        """Call until `end`; raises what a call raises."""
        async with Client(",".join(self._addresses)) as client, asyncio.TaskGroup() as group:
            for number in range(CALLERS):
                group.create_task(self._call(client, number))

    async def _call(self, client: Client, number: int) -> None:
        loop = asyncio.get_running_loop()
        while not self._over.is_set():
            number += CALLERS
            began = loop.time()
            assert await (await client.schedule("double", number)).result(timeout=PATIENCE) == 2 * number
            self.slowest = max(self.slowest, loop.time() - began)
            self.done += 1
            await asyncio.sleep(PAUSE)

    def end(self) -> None:
        self._over.set()


@pytest.mark.timeout(300)
async def test_a_rolling_restart_shows_no_error_and_misses_no_fire(
    jobd: Jobd, server: ServerProcess, namespace: str, tmp_path: Path
) -> None:
    jobd.module.write_text(jobd.module.read_text().replace("import Job\n", "import Job, job\n") + TICKING)
    addresses = [f"127.0.0.1:{free_port()}" for _ in range(3)]

    def launch(number: int) -> ChildProcess:
        options = ("--store", server.url, "--namespace", namespace, "--name", f"node-{number}", "--grace", "20s")
        where = ("--listen", addresses[number], "--metrics-listen", "127.0.0.1:0")
        return jobd.launch("run", "shop.jobs", *options, *where)

    daemons = [launch(number) for number in range(3)]
    for daemon in daemons:
        await daemon.line(READY)
    async with peers(server.url, namespace, tmp_path) as group:
        client = group.client
        await fired_until(client, "tick", client.clock.time_us())
        callers = Callers(addresses)
        calling = asyncio.ensure_future(callers.run())
        handovers = 0
        for number, daemon in enumerate(daemons):
            leader = await client.leader()
            handovers += leader is not None and leader.name == f"node-{number}"
            daemon.signal(signal.SIGTERM)
            assert await daemon.exit() == 0
            await launch(number).line(READY)
            await fired_until(client, "tick", client.clock.time_us())
            assert not calling.done(), calling.exception()
        callers.end()
        await calling

        ledger = (await settled(client))["tick"]
        print(f"{callers.done} calls, the slowest {callers.slowest:.2f} s; {len(ledger)} fires; {handovers} handovers")
        assert not neglected(ledger, group.stalls)
        assert handovers, "no leader was restarted"
        assert await client.count(Query(kind="double", state=State.COMPLETED)) == callers.done
        assert {(one.attempts, one.crashes, one.losses) for one in await everything(client)} == {(1, 0, 0)}
