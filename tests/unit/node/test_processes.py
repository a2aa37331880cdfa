"""Bodies in real processes: killed, crashed, cancelled, and never outliving their node."""

import asyncio
import contextlib
import json
import os
import re
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from peerjob.handles.context import Context, Reason
from peerjob.handles.instance import Instance
from peerjob.model.clock import SystemClock, to_us
from peerjob.model.codec import decode_value
from peerjob.model.errors import (
    EncodeError,
    Fail,
    JobProcessDied,
    NodeStateError,
    OptionError,
    OwnershipLost,
    PayloadTooLargeError,
    Retry,
    Snooze,
    StoreUnavailableError,
)
from peerjob.model.job import Job
from peerjob.model.spec import encode_arguments
from peerjob.model.worker import Worker
from peerjob.node.body import frames, processes
from peerjob.node.body.binding import Binding, StoredArgumentError
from peerjob.node.body.child_watcher import ChildWatcher
from peerjob.node.body.errors import BodyError, RemoteBodyError, describe_error
from peerjob.node.body.executor import Executor
from peerjob.node.body.injection import Resources
from peerjob.node.body.typed_positions import Encoded
from peerjob.testing.clock import VirtualClock
from support import bodies
from support.division import in_matrix
from support.processes import ChildProcess
from support.waiting import IN_TIME, until

BOOT = processes._BOOT  # pyright: ignore[reportPrivateUsage]


@pytest.fixture
async def executor() -> AsyncIterator[Executor]:
    executor = Executor(clock=SystemClock(), threads=2, resources=Resources())
    yield executor
    await executor.close()


class Recorder:
    """What the processes say to their node."""

    def __init__(self) -> None:
        self.progress: list[tuple[float, str]] = []
        self.lines: list[tuple[int, str, Any]] = []
        self.owner: bool | Exception = True
        self.throttled: list[tuple[str, int]] = []

    def time_us(self) -> int:
        return 1_000_000

    def durable_run(self, context: Context, verb: str) -> Any:
        raise AssertionError(verb)

    def report_progress(self, context: Context, fraction: float, message: str) -> None:
        self.progress.append((fraction, message))

    async def check_owner(self, context: Context) -> bool:
        if isinstance(self.owner, Exception):
            raise self.owner
        return self.owner

    async def throttle(self, context: Context, limit: str, delay_us: int) -> None:
        if isinstance(self.owner, Exception):
            raise self.owner
        self.throttled.append((limit, delay_us))

    def make_instance(self, context: Context) -> Instance[Any]:
        raise NotImplementedError

    def make_worker(self, context: Context) -> Worker:
        return Worker(number=3, node="the node")

    def log_line(self, context: Context, level: int, message: str, fields: dict[str, object] | None) -> bool:
        self.lines.append((level, message, fields))
        return True


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


@pytest.fixture
def long_notice(monkeypatch: pytest.MonkeyPatch) -> None:
    """However slow the machine is, a body that heeds its notice ends before it is killed."""
    monkeypatch.setattr("peerjob.node.body.processes.NOTICE", 600.0)


async def run(executor: Executor, body: Any, *args: Any, context: Context | None = None) -> Any:
    binding = Binding(Job("kind", body))
    returned = await executor.call(binding, binding.encode(args, {}), context or Context(id="run"), "process")
    assert type(returned) is Encoded
    return None if returned.data is None else decode_value(returned.data)


async def written(path: Path) -> list[int]:
    """The numbers of processes that a body has written into a file."""
    await until(lambda: read(path))
    return [int(one) for one in read(path).split()]


def read(path: Path) -> str:
    return path.read_text() if path.exists() else ""


async def gone(pid: int) -> None:
    await until(lambda: not is_running(pid))


def is_running(pid: int) -> bool:
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False
    return not re.search(r"^State:\s+[ZX]", status, re.MULTILINE)


# -- results


async def test_results_come_back(executor: Executor) -> None:
    assert await run(executor, bodies.add, "1", 2) == 3
    assert await run(executor, bodies.add_later, 1, 2) == 3
    assert await run(executor, bodies.decorated.executor, "5s") == timedelta(seconds=10)
    assert await run(executor, bodies.Adder.static, 1, 2) == 3


async def test_values_keep_their_types(executor: Executor) -> None:
    value = {1: (UUID(int=1), {2}), "when": datetime(2026, 1, 1, tzinfo=UTC), "big": 2**100, "bytes": b"\xff"}
    assert await run(executor, bodies.echo, value) == value


async def test_one_process_is_used_again(executor: Executor) -> None:
    pids = [await run(executor, bodies.pid) for _ in range(3)]
    assert len(set(pids)) == 1
    assert pids[0] != os.getpid()


@pytest.mark.usefixtures("long_notice")
@pytest.mark.parametrize("resized", ["while they run", "after them"])
async def test_as_many_processes_as_bodies_at_a_time(executor: Executor, tmp_path: Path, resized: str) -> None:
    contexts = [Context(id=str(number)) for number in range(2)]
    tasks = [
        asyncio.create_task(run(executor, bodies.heeds, str(tmp_path / context.id), context=context))
        for context in contexts
    ]
    pids = [(await written(tmp_path / context.id))[0] for context in contexts]
    assert len(set(pids)) == 2
    if resized == "while they run":
        executor.resize(1)
    for context, task in zip(contexts, tasks, strict=True):
        context.cancel("drain")
        task.cancel()
    assert await asyncio.gather(*tasks) == ["ended by drain"] * 2
    if resized == "after them":
        executor.resize(1)
    await until(lambda: sum(map(is_running, pids)) <= 1)
    assert await run(executor, bodies.pid) in pids


async def test_the_process_is_like_its_node(executor: Executor) -> None:
    path, cwd = await run(executor, bodies.where)
    assert path == sys.path
    assert cwd == str(Path.cwd())


async def test_wrong_arguments_start_no_process(executor: Executor) -> None:
    binding = Binding(Job("kind", bodies.add))
    with pytest.raises(StoredArgumentError, match=r"x: .*integer"):
        await executor.call(binding, encode_arguments(("x", 1), {}), Context(), "process")


# -- the context


async def test_the_context_is_known(executor: Executor, recorder: Recorder) -> None:
    deadline = datetime(2026, 1, 1, tzinfo=UTC)
    context = Context(id="id", kind="kind", fence=7, attempt=2, deadline_us=to_us(deadline), backend=recorder)
    about = await run(executor, bodies.about, context=context)
    assert about.pop(4) > deadline  # which moved on while the process started
    assert about == [
        "id",
        "kind",
        7,
        2,
        False,
        False,
        True,
        (3, "the node"),
    ]


async def test_progress_and_log_lines(executor: Executor, recorder: Recorder, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    await run(executor, bodies.report, context=Context(id="run", backend=recorder))
    assert recorder.progress == [(0.25, "a quarter"), (0.5, "")]
    assert recorder.lines == [(20, "info line", {"colour": "red"})]
    recorder.lines.clear()
    caplog.set_level("DEBUG")
    await run(executor, bodies.report, context=Context(id="run", backend=recorder))
    assert [line[:2] for line in recorder.lines] == [(20, "info line"), (10, "debug line")]


async def test_snooze(executor: Executor) -> None:
    with pytest.raises(Snooze) as caught:
        await run(executor, bodies.snoozes)
    assert caught.value.seconds == 5


async def test_there_is_no_instance(executor: Executor) -> None:
    with pytest.raises(NodeStateError, match="and no Instance"):
        await run(executor, bodies.instance)


async def test_ownership_is_asked_of_the_node(executor: Executor, recorder: Recorder) -> None:
    context = Context(id="run", backend=recorder)
    await run(executor, bodies.asks_owner, context=context)
    recorder.owner = False
    with pytest.raises(OwnershipLost):
        await run(executor, bodies.asks_owner, context=context)


# -- errors


async def test_errors_are_the_same_as_in_the_node(executor: Executor) -> None:
    with pytest.raises(ValueError, match="bad") as value:
        await run(executor, bodies.raises, "value")
    assert value.value.args == ("bad", 5)
    info = describe_error(value.value)
    assert (info.type, info.message) == ("ValueError", "('bad', 5)")
    assert info.traceback.splitlines()[1].endswith("in raises")
    with pytest.raises(bodies.OwnError) as own:
        await run(executor, bodies.raises, "own")
    assert own.value.code == 7
    with pytest.raises(Retry) as retry:
        await run(executor, bodies.raises, "retry")
    assert (retry.value.after, retry.value.reason) == (5, "later")
    with pytest.raises(Fail, match="never"):
        await run(executor, bodies.raises, "fail")
    with pytest.raises(RecursionError):
        await run(executor, bodies.raises, "recursion")
    with pytest.raises(asyncio.CancelledError):
        await run(executor, bodies.raises, "cancelled")


@pytest.mark.parametrize(
    ("what", "type_", "message"),
    [
        ("local", "support.bodies.LocalError", "not importable"),
    ],
)
async def test_errors_that_stay_behind_are_described(executor: Executor, what: str, type_: str, message: str) -> None:
    with pytest.raises(RemoteBodyError) as caught:
        await run(executor, bodies.raises, what)
    info = describe_error(caught.value)
    assert (info.type, info.message) == (type_, message)


async def test_a_group_comes_with_the_errors_in_it(executor: Executor) -> None:
    with pytest.raises(ExceptionGroup) as caught:
        await run(executor, bodies.raises, "group")
    assert repr(caught.value.exceptions) == repr((ValueError("a"),))
    info = describe_error(caught.value)
    assert (info.type, info.message) == ("ExceptionGroup", "several (1 sub-exception)")
    assert "ValueError: a" in info.traceback


async def test_an_error_that_cannot_be_shown(executor: Executor) -> None:
    with pytest.raises(bodies.UnprintableError) as caught:
        await run(executor, bodies.raises, "unprintable")
    assert describe_error(caught.value).message == "UnprintableError()"


@pytest.mark.parametrize(
    ("body", "arg", "kind"),
    [("exits", "exit", SystemExit), ("raises", "interrupt", KeyboardInterrupt), ("raises", "stop", StopIteration)],
)
async def test_errors_that_would_do_harm(executor: Executor, body: str, arg: str, kind: type[BaseException]) -> None:
    with pytest.raises(BodyError) as caught:
        await run(executor, getattr(bodies, body), arg)
    assert type(caught.value.cause) is kind
    assert describe_error(caught.value).type == kind.__name__


async def test_a_result_that_cannot_be_stored(executor: Executor) -> None:
    with pytest.raises(EncodeError, match="lock cannot be stored"):
        await run(executor, bodies.unstorable)


async def test_a_result_that_is_far_too_large(executor: Executor) -> None:
    assert len(await run(executor, bodies.large, 2 << 20)) == 2 << 20
    with pytest.raises(PayloadTooLargeError, match="result of 'kind'"):
        await run(executor, bodies.large, 40 << 20)
    assert await run(executor, bodies.add, 1, 2) == 3


# -- dying


@pytest.mark.parametrize(
    ("how", "status", "text"),
    [
        ("os._exit", 3, "exit status 3"),
        ("SIGKILL", -9, "signal 9, SIGKILL"),
        ("segfault", -11, "signal 11, SIGSEGV"),
        pytest.param("SIGABRT", -6, "signal 6, SIGABRT", marks=pytest.mark.matrix("other signals stay in make test")),
    ],
)
async def test_a_process_that_dies_is_an_error_of_its_body(
    executor: Executor, how: str, status: int, text: str
) -> None:
    before = await run(executor, bodies.pid)
    with pytest.raises(JobProcessDied, match=text) as caught:
        await run(executor, bodies.exits, how)
    assert caught.value.status == status
    assert await run(executor, bodies.pid) != before


@pytest.mark.parametrize("number", ["SIGTERM", "SIGINT"])
async def test_the_node_decides_about_its_processes(executor: Executor, number: str) -> None:
    assert await run(executor, bodies.exits, number) is None


async def test_one_that_is_killed_from_outside(executor: Executor, tmp_path: Path) -> None:
    task = asyncio.create_task(run(executor, bodies.sleeps, str(tmp_path / "pid")))
    (pid,) = await written(tmp_path / "pid")
    other = asyncio.create_task(run(executor, bodies.add, 1, 2))
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(JobProcessDied, match="SIGKILL"):
        await task
    assert await other == 3


async def test_one_that_died_while_it_was_idle_costs_nothing(executor: Executor) -> None:
    pid = await run(executor, bodies.pid)
    os.kill(pid, signal.SIGKILL)  # and the node may or may not have noticed
    assert await run(executor, bodies.pid) != pid


async def test_one_that_is_stopped_and_killed_costs_nothing_that_had_not_begun(executor: Executor) -> None:
    pid = await run(executor, bodies.pid)
    os.kill(pid, signal.SIGSTOP)
    task = asyncio.create_task(run(executor, bodies.pid))
    await asyncio.sleep(0)
    os.kill(pid, signal.SIGKILL)
    assert await task != pid


async def test_a_fork_does_not_hide_the_death_of_its_parent(executor: Executor, tmp_path: Path) -> None:
    with pytest.raises(JobProcessDied, match="SIGKILL"):
        await run(executor, bodies.forks, str(tmp_path / "pid"))
    _, forked = await written(tmp_path / "pid")
    await gone(forked)


@pytest.mark.parametrize("body", [bodies.writes_nonsense, bodies.closes_everything])
async def test_a_body_that_breaks_the_connection(executor: Executor, body: Any) -> None:
    with pytest.raises(JobProcessDied):
        await run(executor, body)
    assert await run(executor, bodies.add, 1, 2) == 3


# -- cancellation


async def cancelling(
    executor: Executor, body: Callable[..., Any], path: Path, reason: Reason
) -> tuple["asyncio.Task[Any]", list[int]]:
    context = Context(id="run")
    task = asyncio.create_task(run(executor, body, str(path), context=context))
    pids = await written(path)
    context.cancel(reason)
    task.cancel(reason)
    return task, pids


ALIKE = "another reason stays in make test"


@pytest.mark.parametrize("reason", ["user", in_matrix("timeout", ALIKE), in_matrix("lost", ALIKE)])
@pytest.mark.parametrize("body", [bodies.sleeps, bodies.heeds])
async def test_killed_at_once(executor: Executor, body: Any, reason: Any, tmp_path: Path) -> None:
    task, (pid,) = await cancelling(executor, body, tmp_path / "pid", reason)
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not is_running(pid)


@pytest.mark.usefixtures("long_notice")
@pytest.mark.parametrize("body", [bodies.heeds, bodies.heeds_later])
async def test_noticed_when_the_node_drains(executor: Executor, body: Any, tmp_path: Path) -> None:
    task, (pid,) = await cancelling(executor, body, tmp_path / "pid", "drain")
    assert await task == "ended by drain"
    assert await run(executor, bodies.pid) == pid


@pytest.mark.parametrize("before", [bodies.heeds, bodies.heeds_later])
async def test_a_notice_is_to_one_body_alone(
    executor: Executor, before: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its time ends while the next body runs in the process, which has a notice of its own."""
    ends: list[Callable[[], None]] = []
    monkeypatch.setattr(ChildWatcher, "call_later", lambda _watcher, _seconds, call: ends.append(call))
    task, (pid,) = await cancelling(executor, before, tmp_path / "before", "drain")
    assert await task == "ended by drain"
    context = Context(id="next")
    task = asyncio.create_task(run(executor, bodies.heeds, str(tmp_path / "next"), context=context))
    assert await written(tmp_path / "next") == [pid]
    (end,) = ends
    end()
    context.cancel("drain")
    task.cancel()
    assert await task == "ended by drain"


async def test_killed_when_it_does_not_heed_the_notice(executor: Executor, tmp_path: Path) -> None:
    task, (pid,) = await cancelling(executor, bodies.sleeps, tmp_path / "pid", "drain")
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not is_running(pid)


@pytest.mark.usefixtures("long_notice")
async def test_a_second_cancellation_does_not_wait(executor: Executor, tmp_path: Path) -> None:
    task, (pid,) = await cancelling(executor, bodies.sleeps, tmp_path / "pid", "drain")
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait({task}, timeout=60)
    assert task.cancelled()
    assert not is_running(pid)


async def test_what_it_started_is_killed_with_it(executor: Executor, tmp_path: Path) -> None:
    task, pids = await cancelling(executor, bodies.with_children, tmp_path / "pid", "timeout")
    with pytest.raises(asyncio.CancelledError):
        await task
    for pid in pids:
        await gone(pid)


async def test_cancelled_before_the_process_is_up(executor: Executor) -> None:
    context = Context(id="run")
    task = asyncio.create_task(run(executor, bodies.add, 1, 2, context=context))
    await asyncio.sleep(0)
    context.cancel("user")
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await run(executor, bodies.add, 1, 2) == 3


@pytest.mark.parametrize("steps", range(6))
async def test_closing_waits_for_no_connection_that_was_cancelled(steps: int) -> None:
    """As at the end of `asyncio.run`, which cancels every task, while a process is being started."""
    executor = Executor(clock=SystemClock(), threads=2, resources=Resources())
    present = asyncio.all_tasks()
    running = asyncio.create_task(run(executor, bodies.add, 1, 2))
    for _ in range(steps):
        await asyncio.sleep(0)
    begun = asyncio.all_tasks() - present
    for task in begun:
        task.cancel()
    async with asyncio.timeout(60):
        await executor.close()
        await asyncio.wait(begun)
    assert running.done()


async def test_closing_leaves_no_process() -> None:
    executor = Executor(clock=SystemClock(), threads=3, resources=Resources())
    pids = await asyncio.gather(*(run(executor, bodies.pid) for _ in range(3)))
    await executor.close()
    assert not any(map(is_running, pids))


async def test_time_stands_still_while_a_process_works(tmp_path: Path) -> None:
    clock = VirtualClock()
    with clock:
        executor = Executor(clock=clock, threads=1, resources=Resources())
        context = Context(id="run")
        task = asyncio.create_task(run(executor, bodies.sleeps, str(tmp_path / "pid"), context=context))
        advancing = asyncio.create_task(clock.advance("1h"))
        await asyncio.to_thread(lambda: asyncio.run(written(tmp_path / "pid")))
        assert clock.elapsed() == 0
        context.cancel("drain")
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task  # the notice is a second of real time
        await advancing
        assert clock.elapsed() == 3600
        await executor.close()


# -- never without a node

ON_LINUX = pytest.mark.skipif(sys.platform != "linux", reason="no other kernel ends a process with its parent")

NODE = """
import asyncio, sys
from peerjob.model.clock import SystemClock
from peerjob.handles.context import Context
from peerjob.model.job import Job
from peerjob.node.body.binding import Binding
from peerjob.node.body.executor import Executor
from peerjob.node.body.injection import Resources
from peerjob.node.body.typed_positions import Encoded
from support import bodies

async def main():
    executor = Executor(clock=SystemClock(), threads=2, resources=Resources())
    binding = Binding(Job("prints", bodies.prints))
    await executor.call(binding, binding.encode(("printed by a body",), {}), Context(), "process")
    binding = Binding(Job("sleeps", getattr(bodies, sys.argv[2])))
    await executor.call(binding, binding.encode((sys.argv[1],), {}), Context(), "process")

asyncio.run(main())
"""


@pytest.mark.parametrize("body", ["sleeps", pytest.param("holds_the_interpreter", marks=ON_LINUX)])
async def test_processes_die_with_their_node(tmp_path: Path, body: str) -> None:
    """Also one whose body lets no other thread see that the node is gone."""
    script = tmp_path / "node.py"
    script.write_text(NODE)
    with ChildProcess.python(script, str(tmp_path / "pid"), body, output=tmp_path / "output") as node:
        (pid,) = await written(tmp_path / "pid")
        await node.line("printed by a body")
        assert is_running(pid)
        node.kill()
        await gone(pid)


@pytest.mark.parametrize("busy", [False, True], ids=["idle", "in a body"])
async def test_a_process_ends_with_its_connection(tmp_path: Path, busy: bool) -> None:
    """No system but Linux ends a process when its parent dies, so the parent lives on here."""
    ours, theirs = socket.socketpair()
    with theirs:
        order = json.dumps([theirs.fileno(), os.getpid(), sys.path])
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-P", "-c", BOOT, order, pass_fds=[theirs.fileno()]
        )
    with ours:
        if busy:
            binding = Binding(Job("sleeps", bodies.sleeps))
            start = frames.Start(
                path=binding.import_path, kind="sleeps", data=binding.encode((str(tmp_path / "pid"),), {}), id="run",
                fence=1, attempt=1, deadline_us=None, worker=None, log_level=20, sent_ns=time.monotonic_ns(), now_us=0,
            )  # fmt: skip
            ours.sendall(frames.pack(start))
            assert await written(tmp_path / "pid") == [process.pid]
    try:
        assert await asyncio.wait_for(process.wait(), IN_TIME) == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def test_a_process_whose_node_is_stopped_waits(tmp_path: Path) -> None:
    script = tmp_path / "node.py"
    script.write_text(NODE)
    with ChildProcess.python(script, str(tmp_path / "pid"), "sleeps", output=tmp_path / "output") as node:
        (pid,) = await written(tmp_path / "pid")
        node.pause()
        assert is_running(pid)
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        node.resume()
        await node.line("JobProcessDied")


def test_on_uvloop(tmp_path: Path) -> None:
    uvloop = pytest.importorskip("uvloop")

    async def main() -> None:
        executor = Executor(clock=SystemClock(), threads=1, resources=Resources())
        assert await run(executor, bodies.add, 1, 2) == 3
        with pytest.raises(JobProcessDied):
            await run(executor, bodies.exits, "os._exit")
        task, (pid,) = await cancelling(executor, bodies.sleeps, tmp_path / "pid", "user")
        with pytest.raises(asyncio.CancelledError):
            await task
        assert not is_running(pid)
        await executor.close()

    uvloop.run(main())


async def test_a_limit_is_throttled_through_the_node(executor: Executor, recorder: Recorder) -> None:
    await run(executor, bodies.throttles, "stripe", context=Context(id="run", backend=recorder))
    assert recorder.throttled == [("stripe", 30_000_000)]
    recorder.owner = OptionError("limit", "stripe", "the name of a limit that a kind has")
    with pytest.raises(OptionError, match="limit: expected"):
        await run(executor, bodies.throttles, "stripe", context=Context(id="run", backend=recorder))


async def test_a_body_may_give_up_its_question_for_the_owner(executor: Executor, recorder: Recorder) -> None:
    context = Context(id="run", backend=recorder)
    assert await run(executor, bodies.gives_up_asking, context=context) == "cancelled"


async def test_a_question_for_the_owner_ends_with_the_error_of_the_store(
    executor: Executor, recorder: Recorder
) -> None:
    recorder.owner = StoreUnavailableError("memory://", "no answer")
    with pytest.raises(StoreUnavailableError, match="no answer"):
        await run(executor, bodies.asks_owner, context=Context(id="run", backend=recorder))


async def test_a_thread_that_a_body_leaves_behind_reports_for_no_other_body(
    executor: Executor, recorder: Recorder, tmp_path: Path
) -> None:
    go, said = tmp_path / "go", tmp_path / "said"
    context = Context(id="run", backend=recorder)
    process = await run(executor, bodies.leaves_a_thread, str(go), str(said), context=context)
    go.touch()
    await until(lambda: read(said))
    assert said.read_text() == "lost"
    assert await run(executor, bodies.pid) == process
    assert (recorder.lines, recorder.progress) == ([], [])
