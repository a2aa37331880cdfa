"""Probes and drain of real daemons: what they answer when a loop stalls, a store goes away, and the end begins."""

import asyncio
import signal

from peerjob import Client
from support.jobd import Jobd, target
from support.peers import until
from support.processes import ChildProcess
from support.servers import StartServer

TERM, USR1 = signal.SIGTERM, signal.SIGUSR1
STALLING = '''
import time
from pathlib import Path


async def stall(seconds: float) -> None:
    """Block the loop, as no job should."""
    Path("stalled").touch()
    time.sleep(seconds)


stall_job = Job("stall", stall)
'''


class Probed:
    """A daemon, and the commands that ask about it."""

    def __init__(self, jobd: Jobd, child: ChildProcess) -> None:
        self._jobd = jobd
        self.child = child
        self.listen = child.wait_for(r"metrics are at http://([\w.:]+)/")[1]

    def launch(self, *words: str) -> ChildProcess:
        return self._jobd.launch(*words, "--metrics-listen", self.listen)

    async def ask(self, probe: str, *options: str) -> tuple[int, str]:
        """The exit status and the one line of `jobd probe`."""
        child = self.launch("probe", probe, *options)
        status = await child.exit()
        (line,) = child.lines
        return status, line

    async def answers(self, probe: str, status: int) -> bool:
        return (await self.ask(probe))[0] == status


async def test_a_stalled_loop_makes_live_fail(jobd: Jobd) -> None:
    jobd.module.write_text(jobd.module.read_text() + STALLING)
    probed = Probed(jobd, jobd.run("--workers", "1"))
    for probe in ("live", "ready", "started"):
        assert await probed.ask(probe) == (0, "ok")

    async with Client(target(probed.child)) as client:
        await client.schedule("stall", 600)
        await until(lambda: asyncio.sleep(0, (jobd.folder / "stalled").exists()), 15)

        status, line = await probed.ask("live", "--timeout", "0.5s")

    assert (status, line) == (1, f"jobd: not live: {probed.listen} did not answer within 0.5 s")


async def test_a_store_that_is_away_makes_ready_fail_and_not_live(
    jobd: Jobd, start_server: StartServer, namespace: str
) -> None:
    server = start_server("redis", appendonly=True)
    probed = Probed(jobd, jobd.run("--store", server.url, "--namespace", namespace, "--lease-ttl", "1s"))
    assert await probed.ask("ready") == (0, "ok")

    server.kill()
    await until(lambda: probed.answers("ready", 1), 20)
    status, line = await probed.ask("ready")
    assert (status, line.startswith("jobd: not ready: lease: is not trusted")) == (1, True)
    assert await probed.ask("live") == (0, "ok")

    server.restart()
    await until(lambda: probed.answers("ready", 0), 30)
