"""Threads without an event loop store runs on connections of their own; the event loop of the node takes what fails."""

import asyncio
import dis
import gc
import math
import signal
import sys
import threading
import time
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from types import CodeType, FrameType
from typing import Any
from uuid import UUID

import pytest

from peerjob import (
    INJECTED,
    ArgumentError,
    BlockingManager,
    Job,
    JobCancelled,
    JobFailed,
    KeyLimit,
    Node,
    NodeStateError,
    OptionError,
    Query,
    State,
    StoreError,
    StoreFullError,
    UnknownInstanceError,
)
from peerjob.model.clock import SystemClock
from peerjob.model.errors import StoreUnavailableError
from peerjob.model.ids import IdSource
from peerjob.model.record import Enqueued, NewInstance, StoreLimits
from peerjob.store.lua.client.blocking_driver import MAX_CALLS
from peerjob.store.lua.store import lua_store
from peerjob.store.url import Host
from peerjob.testing.factories import LONG_TTL_US, Factory, Peer
from support.etcd import Certificates
from support.forks import fork
from support.lua_site import CuttingProxy
from support.sentinels import WatchedServers
from support.servers import Server, StartServer, free_port, needed, tls_scheme
from support.waiting import IN_TIME, PATIENCE


def add(x: object, y: int) -> int:
    return y


def fail() -> None:
    raise ValueError("broken")


ADD = Job("add", add)
FAIL = Job("fail", fail, max_retries=0)
new_id = IdSource(SystemClock()).one
with_each_server = pytest.mark.parametrize("kind", ["redis", "valkey"])
with_each_store = pytest.mark.parametrize("kind", ["redis", "valkey", "sqlite"])


@pytest.fixture
def server(redis_server: Server) -> Server:
    return redis_server


@contextmanager
def opened(url: str, namespace: str = "default", **settings: object) -> Generator[BlockingManager]:
    """A manager without workers."""
    with Node(url, jobs=[ADD], workers=0, namespace=namespace, **settings).blocking() as manager:  # type: ignore[arg-type]
        manager.schedule(ADD, 0, 0)  # it looks who serves the kind, on the event loop
        yield manager


@contextmanager
def busy_loop(manager: BlockingManager) -> Generator[None]:
    """Keep the event loop of the node from doing anything."""
    node: Any = manager.manager
    # Without workers, a call looks on the event loop every few seconds which kinds are served.
    node._runtime.catalogue._looked_at = math.inf
    entered, leave = threading.Event(), threading.Event()
    left = list[bool]()

    def block(_: object) -> None:
        entered.set()
        left.append(leave.wait(IN_TIME))

    blocked = threading.Thread(target=manager.call_on_loop, args=(block,))
    blocked.start()
    assert entered.wait(IN_TIME)
    try:
        yield
    finally:
        leave.set()
        blocked.join()
    assert left == [True], "the calls waited for the event loop"


@contextmanager
def interrupted(seconds: float) -> Generator[None]:
    """Raise KeyboardInterrupt in the main thread after a time."""

    def interrupt(signum: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def raised_after(number: int, code: CodeType, work: Callable[[], object]) -> bool:
    """Do work, and raise an error in this code after its call with this number; False if it has fewer calls."""
    calls, is_call = 0, False

    def trace(frame: FrameType, event: str, _given: object) -> Any:
        nonlocal calls, is_call
        if frame.f_code is not code:
            return None
        frame.f_trace_opcodes = True
        if event == "opcode":
            calls += is_call
            if is_call and calls == number + 1:
                is_call = False
                raise KeyError
            is_call = dis.opname[code.co_code[frame.f_lasti]].startswith("CALL")
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        work()
    except KeyError:
        return True
    finally:
        sys.settrace(before)
    return False


def sums(manager: BlockingManager) -> list[int]:
    """What the stored runs add to 0, in order; without the first run."""
    found = [list(page.args)[1] for page in manager.iter_instances()]
    return sorted(found)[1:]


@pytest.fixture
def direct_url(kind: str, request: pytest.FixtureRequest) -> str:
    url: str = request.getfixturevalue(f"{kind}_url")
    return url


@with_each_store
def test_a_thread_needs_no_event_loop_to_store_a_run(direct_url: str, namespace: str) -> None:
    with opened(direct_url, namespace) as manager:
        with busy_loop(manager):
            plain = manager.schedule(ADD, 0, 1)
            under_id = manager.schedule_as(new_id(), ADD.call(0, 2))
            with_key = manager.schedule(ADD.with_options(key="one").call(0, 3))
            tagged = manager.schedule(ADD.with_options(tags=["a"], after="1h", priority=1).call(0, 4))
        stored = [plain, under_id, with_key, tagged]
        assert all(instance.is_new for instance in stored)
        assert [manager.lookup_instance(instance.id).state for instance in stored] == [State.SCHEDULED] * 4
        assert sums(manager) == [1, 2, 3, 4]
        again = manager.schedule(ADD.with_options(key="one").call(0, 5))
        assert (again.id, again.is_new) == (with_key.id, False)
        repeated = manager.schedule_as(under_id.id, ADD.call(0, 6))
        assert (repeated.id, repeated.is_new) == (under_id.id, False)
        assert sums(manager) == [1, 2, 3, 4]


@with_each_store
def test_a_thread_needs_no_event_loop_to_read_an_instance(direct_url: str, namespace: str) -> None:
    with Node(direct_url, jobs=[ADD, FAIL], namespace=namespace).blocking() as manager:
        done, failed = manager.schedule(ADD, 0, 1), manager.schedule(FAIL)
        done.wait(timeout=PATIENCE)
        failed.wait(timeout=PATIENCE)
        manager.drain()
        delayed = manager.schedule(ADD.with_options(after="1h"), 0, 2)
        old = manager.lookup_instance(delayed.id)
        unknown = new_id()
        with busy_loop(manager):
            found = manager.lookup_instance(done.id, ADD)
            assert (found.state, found.result(), found.args[1]) == (State.COMPLETED, 1, 1)
            assert manager.lookup_instance(UUID(delayed.id)).state is State.SCHEDULED
            assert old.refresh().state is State.SCHEDULED
            for instance in (delayed, done):
                assert manager.lookup_instance(instance.id).refresh().id == instance.id
            with pytest.raises(JobFailed, match="broken"):
                manager.lookup_instance(failed.id).result()
            assert manager.lookup_instance(failed.id).wait().state is State.TERMINATED
            with pytest.raises(UnknownInstanceError):
                manager.lookup_instance(unknown)
            with pytest.raises(UnknownInstanceError):
                manager.lookup_instance(done.id, FAIL)
        with pytest.raises(TimeoutError):
            delayed.result(timeout=0.1)
        assert delayed.cancel()
        with pytest.raises(JobCancelled):
            old.result(timeout=PATIENCE)
        untyped: Any = manager
        for wrong in (5, None, "x", b"x"):
            with pytest.raises(OptionError, match="uuid"):
                untyped.lookup_instance(wrong)
        with pytest.raises(OptionError, match="job"):
            untyped.lookup_instance(done.id, "add")
    for read in (done.refresh, done.wait, done.result, lambda: manager.lookup_instance(done.id)):
        with pytest.raises(NodeStateError, match="closed"):
            read()


def test_a_thread_reads_while_the_server_restarts(start_server: StartServer, namespace: str) -> None:
    server = start_server("redis", appendonly=True)
    with opened(server.url, namespace) as manager:
        instance = manager.schedule(ADD, 0, 1)
        server.kill()
        restarting = threading.Timer(0.5, server.start)
        restarting.start()
        assert instance.refresh().state is State.SCHEDULED
        restarting.join()


async def test_a_blocking_read_on_an_event_loop_is_refused(redis_url: str, namespace: str) -> None:
    with_manager = Node(redis_url, jobs=[ADD], workers=0, namespace=namespace).blocking()
    instance = await asyncio.to_thread(with_manager.schedule, ADD, 0, 1)
    for read in (instance.refresh, instance.result, instance.wait, lambda: with_manager.lookup_instance(instance.id)):
        with pytest.raises(RuntimeError, match="would stop the running event loop"):
            read()
    await asyncio.to_thread(with_manager.close)


@with_each_store
def test_a_run_of_a_thread_has_the_key_of_its_key_limit(direct_url: str, namespace: str) -> None:
    keyed = Job("keyed", add, limits=[KeyLimit("y/{y}", concurrency=2)])
    with Node(direct_url, jobs=[keyed], namespace=namespace).blocking() as worker:
        worker.pause_kind("keyed")
        with Node(direct_url, jobs=[keyed], namespace=namespace, workers=0).blocking() as manager:
            manager.schedule(keyed, 0, 1)  # it looks who serves the kind, on the event loop
            with busy_loop(manager):
                for _ in range(4):
                    assert manager.schedule(keyed, 0, 1).is_new
                assert manager.schedule_as(new_id(), keyed.call(0, 2)).is_new
            keys = {view.key: (view.admitted, view.waiting) for view in manager.key_limits("keyed")}
            assert keys == {"y/1": (2, 3), "y/2": (1, 0)}
        worker.resume_kind("keyed")
        worker.wait(timeout=IN_TIME)


@with_each_store
def test_a_sync_job_stores_runs_while_the_event_loop_is_busy(direct_url: str, namespace: str) -> None:
    held = threading.Event()

    def spawn(manager: BlockingManager = INJECTED) -> str:
        assert held.wait(IN_TIME)
        return manager.schedule(ADD, 0, 1).id

    job = Job("spawn", spawn)
    with Node(direct_url, jobs=[ADD, job], namespace=namespace).blocking() as manager:
        instance = manager.schedule(job.call())
        with busy_loop(manager):
            held.set()
        assert manager.lookup_instance(instance.result(timeout=IN_TIME)).result(timeout=IN_TIME) == 1


async def test_a_lost_answer_stores_nothing_twice(server: Server, namespace: str) -> None:
    def play(proxy: CuttingProxy) -> None:
        with opened(f"redis://127.0.0.1:{proxy.port}", namespace) as manager:
            manager.schedule(ADD, 0, 1)
            for number in range(2, 6):
                proxy.cuts = 1
                assert manager.schedule(ADD, 0, number).is_new
                proxy.cuts = 1
                assert manager.schedule_as(new_id(), ADD.call(0, 10 * number)).is_new
            assert sums(manager) == [1, 2, 3, 4, 5, 20, 30, 40, 50]

    async with CuttingProxy(server.port) as proxy:
        await asyncio.to_thread(play, proxy)


@with_each_store
def test_more_threads_than_connections(direct_url: str, namespace: str) -> None:
    threads, each = MAX_CALLS + 8, 25
    with opened(direct_url, namespace) as manager, ThreadPoolExecutor(threads) as pool:
        numbers = range(1, threads * each + 1)
        instances = list(pool.map(lambda number: manager.schedule(ADD, 0, number), numbers))
        assert len({instance.id for instance in instances}) == len(instances)
        # each caller has the instance of its own call
        found = {instance.id: instance.args[1] for instance in manager.iter_instances()}
        assert [found[instance.id] for instance in instances] == list(numbers)


@with_each_server
def test_a_server_that_restarts(kind: str, start_server: StartServer, namespace: str) -> None:
    server = start_server(kind, appendonly=True)  # type: ignore[arg-type]
    with opened(server.url, namespace) as manager:
        manager.schedule(ADD, 0, 1)
        server.kill()
        restarting = threading.Timer(0.5, server.start)
        restarting.start()
        assert manager.schedule(ADD, 0, 2).is_new
        restarting.join()
        assert manager.schedule(ADD, 0, 3).is_new
        assert sums(manager) == [1, 2, 3]


def test_a_server_that_stays_away(start_server: StartServer, namespace: str) -> None:
    server = start_server("redis")
    with opened(server.url, namespace, store_retry=0.2) as manager:
        server.kill()
        with pytest.raises(StoreUnavailableError):
            manager.schedule(ADD, 0, 1)


def test_a_server_that_gives_no_answer_costs_one_try(start_server: StartServer, namespace: str) -> None:
    server = start_server("redis")
    with opened(server.url, namespace, store_retry=0.2) as manager:
        instance = manager.schedule(ADD, 0, 1)
        driver: Any = manager.manager._store._direct  # type: ignore[attr-defined]
        usual, driver._call_timeout = driver._call_timeout, 0.5
        driver._drop_free()
        server.pause()
        try:
            with busy_loop(manager):  # the second try would be there
                with pytest.raises(StoreUnavailableError):
                    manager.schedule(ADD, 0, 2)
                with pytest.raises(StoreUnavailableError):
                    instance.refresh()
        finally:
            server.resume()
        driver._call_timeout = usual
        assert manager.schedule(ADD, 0, 3).is_new


def test_ctrl_c_in_a_call_leaves_no_answer_for_the_next_call(start_server: StartServer, namespace: str) -> None:
    server = start_server("redis")
    with opened(server.url, namespace) as manager:
        manager.schedule(ADD, 0, 1)
        server.pause()
        try:
            with interrupted(0.3), pytest.raises(KeyboardInterrupt):
                manager.schedule(ADD, 0, 2)
        finally:
            server.resume()
        third = manager.schedule(ADD, 0, 3)
        assert list(manager.lookup_instance(third.id).args) == [0, 3]
        assert {1, 3} <= set(sums(manager)) <= {1, 2, 3}


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # Python closes the lost sockets
def test_a_handler_that_raises_costs_no_later_call(start_server: StartServer, namespace: str) -> None:
    """It can raise after each call of a function, before the answer of that function is kept."""
    server = start_server("redis")
    with opened(server.url, namespace) as manager:
        driver: Any = manager.manager._store._direct  # type: ignore[attr-defined]
        places = 0
        while raised_after(places, driver.exchange.__code__, lambda: manager.schedule(ADD, 0, 1)):
            places += 1
            gc.collect()
            assert driver._permits.qsize() == MAX_CALLS
        assert places > 5


def test_a_full_server_is_told_as_such(start_server: StartServer, namespace: str) -> None:
    server = start_server("redis")
    with opened(server.url, namespace) as manager:
        server.command("CONFIG", "SET", "maxmemory", "1mb")
        with pytest.raises(StoreFullError):
            manager.schedule(ADD, 0, 1)
        server.command("CONFIG", "SET", "maxmemory", "0")
        assert manager.schedule(ADD, 0, 2).is_new


@with_each_store
def test_a_forked_child_has_connections_of_its_own(direct_url: str, namespace: str) -> None:
    with opened(direct_url, namespace) as manager:
        manager.schedule(ADD, 0, 1)

        def enqueue() -> None:
            manager.schedule(ADD, 0, 2)
            manager.schedule(ADD, 0, 3)
            manager.close()

        child = fork(enqueue)
        for number in range(4, 30):
            manager.schedule(ADD, 0, number)
        assert child.exit_code() == 0
        manager.schedule(ADD, 0, 30)
        assert sums(manager) == list(range(1, 31))


def test_threads_enqueue_while_a_worker_of_sqlite_runs_all(sqlite_url: str, namespace: str) -> None:
    """The counters of all states are those of the stored instances, and each instance ran once."""
    with (
        Node(sqlite_url, jobs=[ADD], namespace=namespace).blocking() as manager,
        ThreadPoolExecutor(8) as pool,
    ):
        manager.schedule(ADD, 0, 0)
        instances = list(pool.map(lambda number: manager.schedule(ADD, 0, number), range(1, 200)))
        assert [instance.result(timeout=PATIENCE) for instance in instances] == list(range(1, 200))
        assert manager.count(Query(kind="add", state=State.COMPLETED)) == 200
        assert {one.attempts for one in manager.iter_instances()} == {1}


def test_a_store_of_sqlite_that_has_ended_answers_at_once(sqlite_url: str, namespace: str) -> None:
    with opened(sqlite_url, namespace) as manager:
        node: Any = manager.manager
        calls, new = node._need_runtime().direct_calls, node._call_encoder.new(ADD.call(0, 2))
        assert calls.enqueue([new])[0].is_new
    with pytest.raises(StoreError, match="not open"):
        calls.enqueue([new])


def connections(server: Server) -> int:
    return str(server.command("CLIENT", "LIST")).count("name=peerjob")


def until_no_connection(server: Server) -> None:
    until = time.monotonic() + IN_TIME
    while connections(server):
        assert time.monotonic() < until
        time.sleep(0.02)


def test_no_connection_stays_after_the_end(start_server: StartServer, namespace: str) -> None:
    server = start_server("redis")
    with opened(server.url, namespace) as manager, ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: manager.schedule(ADD, 0, number), range(1, 200)))
        assert connections(server) > 2
    until_no_connection(server)


def test_a_call_at_the_end_of_the_node_leaves_no_connection(start_server: StartServer, namespace: str) -> None:
    server = start_server("redis")
    with opened(server.url, namespace) as manager:
        manager.schedule(ADD, 0, 1)
        node: Any = manager.manager
        calls, new = node._need_runtime().direct_calls, node._call_encoder.new(ADD.call(0, 2))
    calls.enqueue([new])  # as a thread that was about to call
    until_no_connection(server)
    with opened(server.url, namespace) as manager:
        assert {1, 2} <= set(sums(manager))


def test_connections_that_the_server_closed_fail_no_call(start_server: StartServer, namespace: str) -> None:
    server = start_server("redis")
    with opened(server.url, namespace) as manager, ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: manager.schedule(ADD, 0, number), range(1, 200)))
        server.command("CLIENT", "KILL", "TYPE", "normal")
        with busy_loop(manager):
            assert manager.schedule(ADD, 0, 200).is_new


def test_one_call_without_an_answer_ends_all_idle_connections(start_server: StartServer, namespace: str) -> None:
    server = start_server("redis")
    with opened(server.url, namespace) as manager, ThreadPoolExecutor(8) as pool:
        driver: Any = manager.manager._store._direct  # type: ignore[attr-defined]
        list(pool.map(lambda number: manager.schedule(ADD, 0, number), range(1, 200)))
        idle = driver._free
        assert len(idle) > 1
        driver._call_timeout = 0.5
        server.pause()
        try:
            stored = pool.submit(manager.schedule, ADD, 0, 200)
            until = time.monotonic() + IN_TIME
            while idle:
                assert time.monotonic() < until
                time.sleep(0.02)
        finally:
            server.resume()
        assert stored.result().is_new


async def test_a_thread_tells_what_every_script_needs(start_server: StartServer, namespace: str) -> None:
    """A node that is idle or watches, an instance that is there, a server without scripts: each has another script."""
    server = start_server("redis")
    clock = SystemClock()
    store = lua_store(server.url, namespace=namespace, clock=clock, limits=StoreLimits(), retry_for=0)
    await store.open()
    calls, make = store.direct_calls(), Factory(clock)
    assert calls is not None
    peer = await Peer(store=store, info=make.node(), make=make).join(LONG_TTL_US)
    stored = make.instances(7)

    def enqueue(instance: NewInstance) -> None:
        assert calls is not None
        assert calls.enqueue([instance], node="näher") == [Enqueued(instance.id, True)]
        assert calls.enqueue([instance], node="näher") == [Enqueued(instance.id, True, repeated=True)]

    try:
        enqueue(stored[0])
        assert [one.id for one in (await peer.take(10))] == [stored[0].id]
        assert not await peer.take(10)  # it is idle now
        enqueue(stored[1])
        assert [hint.what for hint in await store.next_hints(peer.incarnation, IN_TIME)] == ["work"]
        enqueue(stored[2])
        server.command("SCRIPT", "FLUSH")
        enqueue(stored[3])
        server.command("SET", f"{{peerjob:{namespace}}}:watching", "", "PX", 60_000)
        enqueue(stored[4])
        server.command("DEL", f"{{peerjob:{namespace}}}:watching")
        enqueue(stored[5])
        server.command("DEL", f"{{peerjob:{namespace}}}:layout")
        enqueue(stored[6])
        assert [one.id for one in (await peer.take(10))] == [one.id for one in stored[1:]]
        record = (await store.get([stored[6].id]))[0]
        assert record is not None
        assert {entry.node for entry in record.history[:2]} == {"näher"}
        with pytest.raises(ValueError, match="36"):
            calls.enqueue([make.instance(id="short")])
        wide = make.instance(id="é" * 36, spec=b"\r\n$1\r\n")  # more bytes than characters
        enqueue(wide)
        assert [one.id for one in (await peer.take(10))] == [wide.id]
    finally:
        await peer.close()
        await store.close()


async def test_a_server_that_is_no_longer_the_primary_gets_no_run(start_server: StartServer, namespace: str) -> None:
    old, new = start_server("redis"), start_server("redis")
    clock = SystemClock()
    store = lua_store(old.url, namespace=namespace, clock=clock, limits=StoreLimits(), retry_for=0)
    await store.open()
    calls, make = store.direct_calls(), Factory(clock)
    assert calls is not None
    calls.enqueue([make.instance()])
    before = old.command("DBSIZE"), new.command("DBSIZE")
    held: Any = store
    driver = held._driver
    await driver._moved(
        Host("127.0.0.1", new.port)
    )  # the word of a sentinel; the old one is cut off, and still answers
    late = [make.instance()]
    with pytest.raises(StoreUnavailableError):
        calls.enqueue(late)
    assert (old.command("DBSIZE"), new.command("DBSIZE")) == before
    await store.enqueue([make.instance()])
    calls.enqueue([make.instance()])
    assert old.command("DBSIZE") == before[0]
    await store.close()


def test_a_user_and_a_database(start_server: StartServer, namespace: str) -> None:
    server = start_server("redis")
    server.command("ACL", "SETUSER", "worker", "on", ">secret", "~*", "&*", "+@all")
    with opened(f"redis://worker:secret@127.0.0.1:{server.port}/3", namespace) as manager:
        with busy_loop(manager):
            manager.schedule(ADD, 0, 1)
        clients = [line for line in str(server.command("CLIENT", "LIST")).splitlines() if "user=worker" in line]
        ready = [
            line for line in clients if not any(f"cmd={one} " in line for one in ("hello", "auth", "client|setname"))
        ]
        assert any("cmd=evalsha " in line for line in ready)
        assert [line for line in ready if " db=3 " not in line or " name=peerjob " not in line] == []
        assert sums(manager) == [1]


def test_a_server_with_tls(start_server: StartServer, signed: Certificates, namespace: str) -> None:
    port = free_port()
    files = (
        "--tls-cert-file",
        signed.server_cert,
        "--tls-key-file",
        signed.server_key,
        "--tls-ca-cert-file",
        signed.ca,
    )
    start_server("redis", config=("--tls-port", str(port), *map(str, files), "--tls-auth-clients", "yes"))
    theirs = f"cert_file={signed.client_cert}&key_file={signed.client_key}&ca_certs={signed.ca}"
    with opened(f"{tls_scheme('redis')}://127.0.0.1:{port}?{theirs}", namespace) as manager:
        with busy_loop(manager):
            manager.schedule(ADD, 0, 1)
            manager.schedule(ADD, "x" * 200_000, 2)
        assert sums(manager) == [1, 2]


def test_a_socket_of_the_file_system(
    start_server: StartServer, namespace: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("s") / "s"
    start_server("redis", config=("--unixsocket", str(path)))
    with opened(f"redis+unix://{path}", namespace) as manager:
        with busy_loop(manager):
            manager.schedule(ADD, 0, 1)
        assert sums(manager) == [1]


def test_calls_go_to_the_new_primary(namespace: str) -> None:
    with needed(), WatchedServers("redis") as watched, opened(watched.url, namespace) as manager:
        manager.schedule(ADD, 0, 1)
        old = watched.primary()
        old.kill()
        second = manager.schedule(ADD, 0, 2)
        until = time.monotonic() + PATIENCE
        while watched.agreed_primary() in (None, old):
            assert time.monotonic() < until
            time.sleep(0.05)
        # The event loop reaches the new primary first. The server ends connections before the sentinels agree.
        manager.count()
        with busy_loop(manager):
            third = manager.schedule(ADD, 0, 3)
        assert manager.lookup_instance(second.id).state is State.SCHEDULED
        assert manager.lookup_instance(third.id).state is State.SCHEDULED


@pytest.mark.parametrize("wrong", [ADD, "add", 5, None], ids=["job", "kind", "number", "nothing"])
def test_what_is_no_call_is_refused(redis_url: str, namespace: str, wrong: Any) -> None:
    with opened(redis_url, namespace) as manager:
        with pytest.raises(OptionError, match="call"):
            manager.schedule_as(new_id(), wrong)
        for id in (5, "", "x", "00000000-0000-7000-8000-000000000000"):
            wrong_id: Any = id
            with pytest.raises(OptionError):
                manager.schedule_as(wrong_id, ADD.call(0, 1))
        too_few: Any = ADD
        with pytest.raises(ArgumentError):
            manager.schedule(too_few.call())
        assert sums(manager) == []
