"""Probes and drain of real daemons: what they answer when a loop stalls, a store goes away, and the end begins."""

import asyncio
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from peerjob import Client, Instance, Job, Query, State
from peerjob.node.runtime import MAX_WAIT
from support.jobd import Jobd, target
from support.processes import ChildProcess
from support.servers import StartServer
from support.stalls import Stalls, now_us
from support.waiting import PATIENCE, until

TERM = signal.SIGTERM
FIFTY = 50
GRACE = 2.0
"""Seconds that running jobs have in these tests, which is not enough for them."""
HELD = Job[[str], str]("held")
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
        """The exit status and the one line of `jobd probe`, which by default is patient."""
        child = self.launch("probe", probe, *(options or ("--timeout", f"{PATIENCE:g}s")))
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
        await until(lambda: asyncio.sleep(0, (jobd.folder / "stalled").exists()))

        status, line = await probed.ask("live", "--timeout", "0.5s")

    assert (status, line) == (1, f"jobd: not live: {probed.listen} did not answer within 0.5 s")


async def test_a_store_that_is_away_makes_ready_fail_and_not_live(
    jobd: Jobd, start_server: StartServer, namespace: str
) -> None:
    server = start_server("redis", appendonly=True)
    probed = Probed(jobd, jobd.run("--store", server.url, "--namespace", namespace, "--lease-ttl", "1s"))
    await until(lambda: probed.answers("ready", 0))

    server.kill()
    await until(lambda: probed.answers("ready", 1))
    status, line = await probed.ask("ready")
    assert (status, line.startswith("jobd: not ready: lease: is not trusted")) == (1, True)
    assert await probed.ask("live") == (0, "ok")

    server.restart()
    await until(lambda: probed.answers("ready", 0))


async def fifty_running(client: Client, path: Path) -> list[Instance[Any]]:
    """Instances that run until a file exists, all of them at work."""
    instances = await client.schedule_many([HELD.call(str(path)) for _ in range(FIFTY)])
    running = Query(kind="held", state=State.PROCESSING)

    async def all_run() -> bool:
        return await client.count(running) == FIFTY

    await until(all_run)
    return instances


async def has_begun(instance: Instance[Any]) -> bool:
    return (await instance.refresh()).state is State.PROCESSING


async def check_none_counted(jobd: Jobd, options: Sequence[str], instances: Sequence[Instance[Any]]) -> None:
    """Another daemon runs what is left; each ran to its end, as its first attempt, and no crash was counted."""
    child = jobd.run(*options)
    async with Client(target(child)) as client:
        for instance in instances:
            found = await client.lookup_instance(instance.id)
            await found.result(timeout=PATIENCE)
            await found.refresh()
            assert (found.state, found.attempts, found.crashes, found.losses) == (State.COMPLETED, 1, 0, 0)


async def test_fifty_running_jobs_outlive_a_sigterm_uncounted(
    jobd: Jobd, redis_url: str, namespace: str, tmp_path: Path
) -> None:
    options = ["--store", redis_url, "--namespace", namespace, "--workers", str(FIFTY), "--grace", f"{GRACE}s"]
    probed = Probed(jobd, jobd.run(*options))
    async with Client(target(probed.child)) as client:
        instances = await fifty_running(client, tmp_path / "go")

    async def end() -> int:
        assert await probed.child.exit() == 0
        return now_us()

    with Stalls() as stalls:
        began_us = now_us()
        probed.child.signal(TERM)
        ending = asyncio.create_task(end())
        await probed.child.line("SIGTERM: running jobs have")
        assert (await probed.ask("ready"))[0] == 1
        ended_us = await ending
        took = stalls.took(began_us, ended_us)
    print(f"{FIFTY} running jobs and a grace of {GRACE:g} s: ended {took:.2f} s after SIGTERM")
    assert took < GRACE + MAX_WAIT
    assert ended_us - began_us >= GRACE * 1_000_000

    (tmp_path / "go").touch()
    await check_none_counted(jobd, options, instances)


async def test_a_drain_then_a_sigterm_lets_fifty_running_jobs_end(
    jobd: Jobd, redis_url: str, namespace: str, tmp_path: Path
) -> None:
    options = ["--store", redis_url, "--namespace", namespace, "--workers", str(FIFTY)]
    probed = Probed(jobd, jobd.run(*options))
    pid = str(probed.child.pid)
    async with Client(target(probed.child)) as client:
        instances = await fifty_running(client, tmp_path / "go")

        first = probed.launch("drain", "--pid", pid, "--timeout", "0.5s")
        assert await first.exit() == 1
        assert first.lines == ["jobd: not drained after 0.5 s: workers: 50 instances still in a worker"]
        assert await probed.ask("live") == (0, "ok")
        status, line = await probed.ask("ready")
        assert (status, line) == (1, "jobd: not ready: intake: drains or stops, and takes no work")
        late = await client.schedule("double", 21)

        second = probed.launch("drain", "--pid", pid)
        (tmp_path / "go").touch()
        assert await second.exit() == 0
        assert second.lines == ["drained"]
        assert await client.count(Query(kind="held", state=State.COMPLETED)) == FIFTY
        assert (await late.refresh()).state is State.SCHEDULED

    probed.child.signal(TERM)
    assert await probed.child.exit() == 0
    await check_none_counted(jobd, options, [*instances, late])


@pytest.mark.parametrize("buried", [True, False])
async def test_a_drain_ends_with_the_daemon(jobd: Jobd, tmp_path: Path, buried: bool) -> None:
    """Also where the program that started the daemon does not ask for its exit status."""
    probed = Probed(jobd, jobd.run())
    async with Client(target(probed.child)) as client:
        held = await client.schedule("held", str(tmp_path / "never"))
        await until(lambda: has_begun(held))
        drain = probed.launch("drain", "--pid", str(probed.child.pid), "--timeout", f"{PATIENCE:g}s")
        await probed.child.line("SIGUSR1: the node claims nothing more")

    if buried:
        probed.child.kill()
    else:
        probed.child.signal(signal.SIGKILL)

    assert await drain.exit() == 0
    assert drain.lines == ["the daemon has ended"]
