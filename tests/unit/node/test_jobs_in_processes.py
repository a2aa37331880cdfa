"""Jobs that a node runs in processes: they can be ended, and take nothing with them when they die."""

import asyncio
import importlib
import logging
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from peerjob import Job, JobCancelled, JobFailed, JobTimedOut, Node, Query, State, SystemClock
from peerjob.testing import running_node
from support import bodies
from support.division import in_matrix
from support.factories import lines_of, notes_of, shared_url
from support.waiting import until

PID = Job("pid", bodies.pid, run_in="process")
EXITS = Job("exits", bodies.exits, run_in="process")
JOBS = [
    PID,
    EXITS,
    Job("sleeps", bodies.sleeps, run_in="process"),
    Job("report", bodies.report, run_in="process", timeout=30),
    Job("reports_too_much", bodies.reports_too_much, run_in="process"),
    Job("raises", bodies.raises, run_in="process"),
]


@pytest.fixture
async def node() -> AsyncIterator[Node]:
    async with running_node(JOBS, store=shared_url(), clock=SystemClock(), workers=2) as node:
        yield node


async def begun(path: Path) -> int:
    """Wait until a body has reported its pid, and the node knows that the body began."""

    def read() -> str:
        return path.read_text() if path.exists() else ""

    async def has_pid() -> bool:
        return read() != ""

    await until(has_pid)
    for _ in range(2):  # the process told its node before, and the loop reads the connection in its next pass
        await asyncio.sleep(0)
    return int(read())


async def ended(pid: int) -> None:
    """Wait until a process is gone."""

    async def gone() -> bool:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        return False

    await until(gone)


async def test_a_body_in_a_process_knows_its_instance_and_its_schedule(node: Node) -> None:
    schedule = await node.add_schedule(
        Job("knows", bodies.knows, run_in="process", timeout=600, every="1h", name="hourly")
    )
    instance = await schedule.trigger()
    assert instance is not None
    id, kind, attempt, deadline, name, nominal = await instance.result(timeout=60)
    assert [id, kind, attempt, name] == [instance.id, "knows", 1, "hourly"]
    assert nominal == instance.nominal_at
    assert deadline > nominal


async def test_results_lines_and_progress_come_back(node: Node, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    assert await (await node.schedule(PID)).result(timeout=60) != os.getpid()
    instance = await node.schedule("report")
    assert await instance.result(timeout=60) is not None
    assert "info line" in await lines_of(instance)
    assert instance.progress is not None
    assert instance.progress.fraction == 0.5


async def test_a_progress_outside_its_range_ends_no_job(node: Node) -> None:
    instance = await node.schedule("reports_too_much")
    assert await instance.result(timeout=60) == "done"
    assert instance.progress is not None
    assert instance.progress.fraction == 1
    (line,) = await lines_of(instance)
    assert "progress(1.0002)" in line


async def test_its_errors_are_those_of_any_job(node: Node) -> None:
    failing = await node.schedule(node.job("raises").with_options(max_retries=1), "value")
    with pytest.raises(JobFailed, match="bad") as caught:
        await failing.result(timeout=60)
    assert (caught.value.type, failing.attempts) == ("ValueError", 2)
    assert "in raises" in caught.value.traceback


ALIKE = "test_processes.py has this end of a process"


@pytest.mark.parametrize("how", ["SIGKILL", in_matrix("os._exit", ALIKE), in_matrix("segfault", ALIKE)])
async def test_one_that_dies_fails_its_instance_alone(node: Node, how: str) -> None:
    instance = await node.schedule(EXITS.with_options(max_retries=1), how)
    with pytest.raises(JobFailed) as caught:
        await instance.result(timeout=60)
    assert caught.value.type == "peerjob.JobProcessDied"
    assert (instance.attempts, instance.crashes) == (2, 0)
    assert await (await node.schedule(PID)).result(timeout=60)


async def test_a_timeout_ends_any_body(monkeypatch: pytest.MonkeyPatch, node: Node, tmp_path: Path) -> None:
    instance = await node.schedule(node.job("sleeps").with_options(timeout="1h"), str(tmp_path / "started"))
    pid = await begun(tmp_path / "started")
    loop = asyncio.get_running_loop()
    monkeypatch.setattr(loop, "time", lambda time=loop.time: time() + 3600)  # however long it took to begin
    with pytest.raises(JobTimedOut):
        await instance.result(timeout=60)
    await ended(pid)
    assert [worker.instance for worker in node.workers()] == [None, None]


async def test_a_cancel_ends_any_body(node: Node, tmp_path: Path) -> None:
    instance = await node.schedule("sleeps", str(tmp_path / "started"))
    pid = await begun(tmp_path / "started")
    assert await instance.cancel()
    with pytest.raises(JobCancelled):
        await instance.result(timeout=60)
    await ended(pid)


async def test_a_node_that_stops_ends_it_and_hands_it_back(
    monkeypatch: pytest.MonkeyPatch, node: Node, tmp_path: Path
) -> None:
    monkeypatch.setattr("peerjob.node.runtime.MIN_WAIT", 20.0)  # its processes are killed after a second of it
    instance = await node.schedule("sleeps", str(tmp_path / "started"))
    pid = await begun(tmp_path / "started")
    url = node._store.url  # pyright: ignore[reportPrivateUsage]
    await node.stop(grace=0)
    await ended(pid)
    async with running_node(store=url, clock=SystemClock(), workers=0) as looker:
        found = await looker.lookup_instance(instance.id)
        assert (found.state, found.attempts, found.crashes) == (State.SCHEDULED, 0, 0)
        assert (await notes_of(found))[-1] == "Scheduled: node stopped"
        assert await looker.count(Query(state=State.PROCESSING)) == 0


SLOW = """
import sys, time
import pathlib
if "peerjob.node.body.process_child" in sys.modules:
    while not pathlib.Path({gate!r}).exists():
        time.sleep(0.01)

def deadline(ctx) -> float:
    return (ctx.deadline - datetime.datetime.now(datetime.UTC)).total_seconds()

import datetime
from peerjob import Context
deadline.__annotations__["ctx"] = Context
"""


async def test_a_timeout_begins_when_the_body_does(monkeypatch: pytest.MonkeyPatch, node: Node, tmp_path: Path) -> None:
    monkeypatch.setattr("peerjob.node.body.processes.START_LIMIT", 3600.0)
    (tmp_path / "slow_to_import.py").write_text(SLOW.format(gate=str(tmp_path / "gate")))
    monkeypatch.syspath_prepend(str(tmp_path))
    body = importlib.import_module("slow_to_import").deadline
    job = Job("slow", body, run_in="process", timeout=600)
    node.register(job)
    instance = await node.schedule(job)

    async def running() -> bool:
        return any(worker.instance for worker in node.workers())

    await until(running)
    loop = asyncio.get_running_loop()
    monkeypatch.setattr(loop, "time", lambda time=loop.time: time() + 700)  # it imports for longer than its timeout
    (tmp_path / "gate").touch()
    assert 0 < await instance.result(timeout=60) <= 600


async def test_a_process_that_imported_an_older_module_ends(
    monkeypatch: pytest.MonkeyPatch, node: Node, tmp_path: Path
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "reloaded.py").write_text("import os\n\ndef body():\n    return os.getpid()\n")
    pids: list[int] = []
    for kind in ("before", "after"):
        sys.modules.pop("reloaded", None)
        job = Job(kind, importlib.import_module("reloaded").body, run_in="process")
        pids.append(await (await node.schedule(job)).result(timeout=60))
    assert pids[0] != pids[1]
    await ended(pids[0])


async def test_an_import_that_never_ends_fails_the_attempt(
    monkeypatch: pytest.MonkeyPatch, node: Node, tmp_path: Path
) -> None:
    monkeypatch.setattr("peerjob.node.body.processes.START_LIMIT", 0.5)
    (tmp_path / "never_imported.py").write_text(SLOW.format(gate=str(tmp_path / "never")))
    monkeypatch.syspath_prepend(str(tmp_path))
    job = Job("slow", importlib.import_module("never_imported").deadline, run_in="process", timeout=600)
    node.register(job)
    with pytest.raises(JobFailed, match=r"did not start and import 'never_imported' within 0\.5 s"):
        await (await node.schedule(job)).result(timeout=60)


@pytest.mark.parametrize(("name", "said"), [("a.b.py", "OptionError"), ("noext", "OptionError"), ("odd name.py", "ok")])
async def test_a_script_that_no_process_can_import_is_refused_when_its_job_is_registered(
    tmp_path: Path, name: str, said: str
) -> None:
    (tmp_path / name).write_text(
        "from peerjob import Node, job\n"
        "@job(run_in='process')\n"
        "def body() -> None: ...\n"
        "if __name__ == '__main__':\n"
        "    try: Node(jobs=[body]); print('ok')\n"
        "    except Exception as error: print(type(error).__name__)\n"
    )
    process = await asyncio.create_subprocess_exec(sys.executable, str(tmp_path / name), stdout=asyncio.subprocess.PIPE)
    out, _ = await process.communicate()
    assert out.decode().strip() == said
