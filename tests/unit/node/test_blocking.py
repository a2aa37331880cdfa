"""The blocking facade: for code without an event loop, in threads, and in processes that fork."""

import asyncio
import contextlib
import functools
import gc
import os
import signal
import subprocess
import sys
import threading
from collections.abc import AsyncGenerator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any, cast

import pytest

from peerjob import (
    INJECTED,
    ArgumentError,
    BlockingInstance,
    BlockingManager,
    Context,
    Filter,
    Job,
    JobCancelled,
    JobFailed,
    Node,
    NodeStateError,
    OptionError,
    Query,
    State,
    Store,
)
from peerjob.model.clock import SystemClock
from peerjob.model.record import StoreLimits
from peerjob.store.drivers import open_store
from peerjob.testing import running_node
from support.factories import shared_url
from support.forks import in_child
from support.waiting import IN_TIME


def add(x: int, y: int) -> int:
    return x + y


def stay(seconds: float, ctx: Context = INJECTED) -> None:
    if ctx.wait(seconds):
        ctx.raise_if_cancelled()


ADD = Job("add", add)
STAY = Job("stay", stay)


@pytest.fixture
def manager() -> Iterator[BlockingManager]:
    with Node(jobs=[ADD, STAY]).blocking() as manager:
        yield manager


def test_every_verb_blocks_until_its_answer(manager: BlockingManager) -> None:
    one = manager.schedule(ADD, 40, 2)
    assert one.result(timeout=60) == 42
    assert one.refresh().state is State.COMPLETED
    assert manager.schedule("add", "1", y=2).result(timeout=60) == 3
    many = manager.schedule_many(ADD.call(x, x) for x in range(20))
    manager.wait(Query(kind="add"), timeout=60)
    assert [each.refresh().result() for each in many] == [2 * x for x in range(20)]
    assert manager.lookup_instance(one.id).id == one.id
    assert manager.lookup_instance(one.id, ADD).result() == 42
    assert [found.id for found in manager.lookup_instances(Query(limit=1))] == [one.id]
    assert len(list(manager.iter_instances(Query(limit=7)))) == manager.count() == 22
    assert manager.stats().total(State.COMPLETED) == 22
    assert [str(entry.state) for entry in one.history()] == ["Created", "Scheduled", "Processing", "Completed"]
    assert [entry.state for entry in manager.lookup_history(Query(uuid=one.id))][-1] is State.COMPLETED
    assert one.logs() == list(manager.lookup_logs())
    assert [job.kind for job in manager.jobs()] == ["add", "stay"]
    assert [view.info.name for view in manager.nodes()] != []
    again = one.retry()
    assert again.result(timeout=60) == 42
    assert manager.clear_logs() >= 0
    assert manager.clear_history(Filter()) > 0
    assert manager.clear_instances() == 23
    assert manager.count() == 0


def test_jobs_are_registered_and_cancelled(manager: BlockingManager) -> None:
    assert manager.unregister("add") is ADD
    waiting = manager.schedule(ADD, 1, 2)
    running = manager.schedule(STAY, 60)
    with pytest.raises(TimeoutError):
        running.result(timeout=0.05)
    assert [one.id for one in manager.cancel_instances(Query(kind="add"))] == [waiting.id]
    assert running.cancel()
    with pytest.raises(JobCancelled):
        running.result(timeout=60)
    manager.register(ADD)
    assert manager.job("add") is ADD
    assert manager.schedule("add", 1, 2).result(timeout=60) == 3


def test_errors_are_raised_as_they_are(manager: BlockingManager) -> None:
    with pytest.raises(ArgumentError):
        manager.schedule("add", 1)

    def fail(number: int) -> None:
        raise ValueError(f"{number} must not be negative")

    manager.register(Job("fail", fail))
    failing = manager.schedule("fail", -1)
    with pytest.raises(JobFailed, match="-1 must not be negative"):
        failing.result(timeout=60)


def test_a_stream_is_an_iterator(manager: BlockingManager) -> None:
    seen: list[tuple[str, str]] = []
    begun = threading.Event()

    def watch() -> None:
        stream = manager.watch(Query(kind="add"))
        for event in stream:
            begun.set()
            seen.append((event.instance.id, str(event.state)))
            if event.state.is_final and event.instance.args == (1, 2):
                break
        stream.close()  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]  # a generator

    watcher = threading.Thread(target=watch)
    watcher.start()
    while not begun.wait(0.05):  # a stream that blocks shows by its first event alone that it has begun
        manager.schedule(ADD, 0, 0)
    one = manager.schedule(ADD, 1, 2)
    watcher.join(60)
    assert [state for id, state in seen if id == one.id] == ["Created", "Scheduled", "Processing", "Completed"]


def test_many_threads_share_one(manager: BlockingManager) -> None:
    results: list[int] = []

    def work(number: int) -> None:
        results.append(manager.schedule(ADD, number, 0).result(timeout=60))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(20)]
    for one in threads:
        one.start()
    for one in threads:
        one.join(60)
    assert sorted(results) == list(range(20))


def test_it_starts_with_the_first_call_and_not_before() -> None:
    before = set(threading.enumerate())

    def threads() -> list[str]:
        names = [one.name for one in threading.enumerate() if one not in before]
        return [name for name in names if name in ("peerjob-blocking", "peerjob-lease")]

    manager = Node(jobs=ADD).blocking()
    assert threads() == []
    assert manager.schedule(ADD, 1, 2).result(timeout=60) == 3
    assert sorted(threads()) == ["peerjob-blocking", "peerjob-lease"]
    manager.close()
    manager.close()
    assert threads() == []
    with pytest.raises(NodeStateError, match="closed"):
        manager.count()


async def test_it_refuses_to_stop_a_running_loop() -> None:
    manager = Node(jobs=ADD).blocking()
    schedule = functools.partial(manager.schedule, ADD, 1, 2)
    calls: list[Callable[..., object]] = [manager.count, manager.start, schedule]
    for call in calls:
        with pytest.raises(RuntimeError, match="running event loop"):
            call()
    assert await asyncio.to_thread(lambda: manager.schedule(ADD, 1, 2).result(timeout=60)) == 3
    await asyncio.to_thread(manager.close)


def test_a_failed_start_raises_and_can_be_repeated() -> None:
    manager = Node("redis://127.0.0.1:1").blocking()
    for _ in range(2):
        with pytest.raises(ConnectionError, match=r"127\.0\.0\.1:1"):
            manager.count()
    manager.close()


def test_sync_jobs_get_the_blocking_twins() -> None:
    def parent(x: int, manager: BlockingManager = INJECTED, instance: BlockingInstance[Any] = INJECTED) -> Any:
        child = manager.schedule(ADD, x, 1)
        assert instance.refresh().state is State.PROCESSING
        return child.result(timeout=60) * 2

    with Node(jobs=[ADD, Job("parent", parent)]).blocking() as manager:
        assert manager.schedule("parent", 20).result(timeout=60) == 42


# -- forks -----------------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_it_works_on_both_sides_of_a_fork() -> None:
    manager = Node(jobs=ADD).blocking()

    def use() -> None:
        assert manager.schedule(ADD, 1, 2).result(timeout=60) == 3
        assert manager.schedule("add", 3, 4).result(timeout=60) == 7

    assert in_child(use) == 0  # forked before its first call
    use()
    assert in_child(use) == 0  # forked while it runs
    use()
    manager.close()
    assert in_child(lambda: raises_closed(manager)) == 0


def raises_closed(manager: BlockingManager) -> None:
    with pytest.raises(NodeStateError):
        manager.count()


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_fork_while_another_thread_is_inside_a_call_does_not_hang() -> None:
    manager = Node(jobs=[ADD, STAY]).blocking()
    manager.start()
    calling = threading.Thread(target=lambda: manager.schedule(STAY, 1).wait(timeout=60))
    calling.start()

    def use() -> None:
        assert manager.schedule(ADD, 1, 2).result(timeout=60) == 3

    for _ in range(3):
        assert in_child(use) == 0
    calling.join(60)
    manager.close()


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_child_whose_first_start_failed_starts_at_the_next_call(tmp_path: Path) -> None:
    folder = tmp_path / "store"
    folder.mkdir()
    manager = Node(f"sqlite://{folder}/jobs.db", jobs=ADD).blocking()
    manager.start()

    def use() -> None:
        folder.rename(tmp_path / "away")
        with pytest.raises(OptionError, match="store"):
            manager.count()
        (tmp_path / "away").rename(folder)
        assert manager.schedule(ADD, 1, 2).result(timeout=60) == 3
        manager.close()

    assert in_child(use) == 0
    assert manager.schedule(ADD, 1, 2).result(timeout=60) == 3
    manager.close()


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_thread_of_a_child_waits_for_the_start_by_another_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    manager = Node(jobs=ADD).blocking()
    manager.start()
    start, begun, go_on = Node.start, threading.Event(), threading.Event()

    async def held(node: Node) -> Any:
        begun.set()
        await asyncio.to_thread(go_on.wait, 60)
        return await start(node)

    def use() -> None:
        monkeypatch.setattr(Node, "start", held)
        with ThreadPoolExecutor() as threads:
            one = threads.submit(manager.schedule, ADD, 1, 2)
            assert begun.wait(60)
            other = threads.submit(manager.schedule, ADD, 1, 2)
            while not other.done() and not waits_for_a_start(besides=1):
                pass
            go_on.set()
            assert [call.result(60).result(timeout=60) for call in (one, other)] == [3, 3]
        manager.close()

    assert in_child(use) == 0
    manager.close()


def waits_for_a_start(*, besides: int) -> bool:
    """Whether more than this number of threads are inside of a start."""
    inside = 0
    for frame in sys._current_frames().values():  # pyright: ignore[reportPrivateUsage]
        at: FrameType | None = frame
        while at is not None:
            inside += at.f_code.co_name == "_started_loop"
            at = at.f_back
    return inside > besides


def test_a_module_that_another_thread_imports_does_not_fail_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "multiprocessing.process", ModuleType("multiprocessing.process"))
    manager = Node(jobs=ADD).blocking()
    manager.start()
    manager.close()


def test_a_remade_node_has_the_same_settings() -> None:
    node = Node("memory://remade", jobs=[ADD], name="named", workers=3, namespace="other", lease_ttl="7s")
    node.register(STAY)

    def get() -> str:
        return "real"

    node.override(get, lambda: "fake")
    again = node.remake()
    assert again is not node
    assert (again.name, again.num_workers, again.namespace, again.lease_ttl) == ("named", 3, "other", 7.0)
    assert again.jobs() == [ADD, STAY]
    assert again.remake().jobs() == [ADD, STAY]
    assert again._overrides == node._overrides  # pyright: ignore[reportPrivateUsage]


def test_a_node_with_a_store_object_cannot_be_remade() -> None:
    given: Any = Node("memory://")._store  # pyright: ignore[reportPrivateUsage]
    with pytest.raises(OptionError, match="URL"):
        Node(given).remake()


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_fork_while_another_thread_starts_it_does_not_hang() -> None:
    lifespan_entered, go_on = threading.Event(), threading.Event()

    @contextlib.asynccontextmanager
    async def slow_start(node: Node) -> AsyncGenerator[None]:
        if not lifespan_entered.is_set():
            lifespan_entered.set()
            await asyncio.to_thread(go_on.wait, 60)
        yield

    manager = Node(jobs=[ADD], lifespan=slow_start).blocking()
    starting = threading.Thread(target=manager.start)
    starting.start()
    lifespan_entered.wait(60)

    def use() -> None:
        signal.alarm(60)
        assert manager.schedule(ADD, 1, 2).result(timeout=60) == 3

    assert in_child(use) == 0
    go_on.set()
    starting.join(60)
    assert manager.schedule(ADD, 1, 2).result(timeout=60) == 3
    manager.close()


async def test_closing_on_a_running_loop_is_refused_and_leaves_it_usable() -> None:
    manager = Node(jobs=ADD).blocking()
    await asyncio.to_thread(manager.start)
    with pytest.raises(RuntimeError, match="running event loop"):
        manager.close()
    assert await asyncio.to_thread(manager.count) == 0
    await asyncio.to_thread(manager.close)


def green() -> int:
    return 0


green.__module__ = "gevent.thread"  # as gevent.monkey.patch_all() leaves it


async def test_green_threads_are_refused_with_what_to_use_instead() -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(threading, "get_ident", green)
        with pytest.raises(NodeStateError, match=r"gevent\.thread.*gthread"):
            await Node().start()


def test_green_threads_are_refused_without_a_loop() -> None:
    manager = Node().blocking()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(threading, "get_ident", green)
        with pytest.raises(NodeStateError, match=r"gevent\.thread.*gthread"):
            manager.nodes()


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, TimeoutError])
def test_a_verb_that_ctrl_c_interrupts_is_given_up(manager: BlockingManager, error: type[BaseException]) -> None:
    """Or any other signal, by the error that its handler raises."""
    raised, given_up = threading.Event(), threading.Event()

    async def work() -> None:
        try:
            # Python sees a signal that comes just before the thread waits for a lock only at the next signal
            while not raised.is_set():
                os.kill(os.getpid(), signal.SIGINT)
                await asyncio.sleep(1)
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            given_up.set()
            raise

    def interrupt(_number: int, _frame: object) -> None:
        # a signal that was under way while the call ended must not end the test run
        if not raised.is_set():
            raise error

    before = signal.signal(signal.SIGINT, interrupt)
    try:
        with pytest.raises(error):
            manager.call(work())
        raised.set()
        assert given_up.wait(20)
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_verb_is_given_up_that_ctrl_c_interrupts_before_it_is_waited_for(
    manager: BlockingManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, given_up = threading.Event(), threading.Event()
    manager.start()
    loop = cast("Any", manager)._loop
    send = loop.call_soon_threadsafe

    async def work() -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            given_up.set()
            raise

    def interrupted(*args: Any) -> None:
        monkeypatch.undo()
        send(*args)
        assert begun.wait(60)
        raise KeyboardInterrupt

    monkeypatch.setattr(loop, "call_soon_threadsafe", interrupted)
    with pytest.raises(KeyboardInterrupt):
        manager.call(work())
    assert given_up.wait(60)


def test_a_verb_that_waits_at_the_exit_of_the_process_raises_what_close_raises(manager: BlockingManager) -> None:
    begun = threading.Event()

    async def work() -> None:
        begun.set()
        await asyncio.Event().wait()

    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(manager.call, work())
        assert begun.wait(60)
        cast("Any", manager)._exit()
        with pytest.raises(NodeStateError, match="was closed"):
            waiting.result(60)


async def test_a_verb_that_is_refused_in_an_event_loop_leaves_nothing_open(recwarn: pytest.WarningsRecorder) -> None:
    """A coroutine that is never awaited would be a warning."""

    def asks(manager: BlockingManager = INJECTED) -> str:
        async def ask() -> str:
            with pytest.raises(RuntimeError, match="event loop") as refused:
                manager.count()
            return str(refused.value)

        return asyncio.run(ask())

    async with running_node(Job("asks", asks), clock=SystemClock(), store=shared_url()) as node:
        assert await (await node.schedule("asks")).result(timeout=60)
        with pytest.raises(RuntimeError, match="event loop"):
            node.blocking().count()
    gc.collect()
    assert [str(one.message) for one in recwarn if "never awaited" in str(one.message)] == []


async def test_a_stop_ends_a_body_that_waits_for_another_job() -> None:
    """What interrupts the wait is the cancellation itself: the run is handed back, uncounted."""
    began = threading.Event()

    def waits(manager: BlockingManager = INJECTED) -> None:
        later = manager.schedule(Job("later", add, after="1h"), 1, 2)
        began.set()
        later.wait()

    url = shared_url()
    async with running_node(clock=SystemClock(), store=url, workers=0) as other:
        async with running_node(Job("waits", waits), clock=SystemClock(), store=url, workers=1) as node:
            instance = await node.schedule("waits")
            assert await asyncio.to_thread(began.wait, 60)
            await node.stop(grace=0)
        after = await other.lookup_instance(instance.id)
        assert (after.state, after.attempts) == (State.SCHEDULED, 0)


@pytest.mark.one_python
def test_the_blocking_verbs_are_those_of_the_asynchronous_classes() -> None:
    script = Path(__file__).parents[3] / "scripts" / "generate_blocking.py"

    done = subprocess.run([sys.executable, str(script), "--check"], capture_output=True, text=True, check=False)

    assert (done.returncode, done.stdout) == (0, ""), done.stderr


class OlderStore:
    """A store by a third party, made before threads had calls of their own."""

    def __init__(self, inner: object) -> None:
        self._inner = inner

    def __getattr__(self, name: str) -> Any:
        if name == "direct_calls":
            raise AttributeError(name)
        return getattr(self._inner, name)


def test_a_store_without_calls_for_threads(tmp_path: Path) -> None:
    inner = open_store(f"sqlite://{tmp_path}/store.db", namespace="default", clock=SystemClock(), limits=StoreLimits())
    store = cast("Store", OlderStore(inner))
    with Node(store, jobs=[ADD]).blocking() as manager:
        assert manager.schedule(ADD, 40, 2).result(timeout=60) == 42


def test_a_verb_of_a_node_that_runs_takes_no_lock() -> None:
    """A signal handler can have interrupted another verb anywhere, and call this one."""
    with Node("memory://", workers=0).blocking() as manager:
        held: Any = manager
        with held._lock:
            verb = threading.Thread(target=manager.jobs, daemon=True)
            verb.start()
            verb.join(IN_TIME)
            assert not verb.is_alive()
