"""Resources: made, shared and closed where and when their scope says, in an order that their needs give."""

import asyncio
import contextlib
import contextvars
import itertools
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator
from typing import Any

import pytest

from peerjob.handles.context import Context
from peerjob.handles.instance import Instance
from peerjob.handles.manager import Manager
from peerjob.model.clock import SystemClock
from peerjob.model.errors import Fail, NodeStateError, OptionError
from peerjob.model.injected import Depends, Resource, current_run
from peerjob.model.job import Job
from peerjob.model.spec import encode_arguments
from peerjob.node.body.binding import Binding
from peerjob.node.body.executor import Executor
from peerjob.node.body.injection import Resources


class Trace(list[str]):
    """What happened, in order."""


@pytest.fixture
def trace() -> Trace:
    return Trace()


@pytest.fixture
def overrides() -> dict[Any, Any]:
    return {}


@pytest.fixture
def resources(overrides: dict[Any, Any]) -> Resources:
    return Resources(overrides)


@pytest.fixture
async def executor(resources: Resources) -> AsyncIterator[Executor]:
    executor = Executor(clock=SystemClock(), threads=4, resources=resources)
    yield executor
    await executor.close()


async def run(executor: Executor, body: Callable[..., Any], context: Context | None = None) -> Any:
    binding = Binding(Job("kind", body))
    return await executor.call(binding, binding.encode((), {}), context or Context(), "auto")


# -- kinds of factories


class Plain:
    pass


class SyncManager:
    def __init__(self, trace: Trace) -> None:
        self._trace = trace

    def __enter__(self) -> str:
        self._trace.append("enter")
        return "value"

    def __exit__(self, *exc: object) -> None:
        self._trace.append("exit")


class AsyncManager(SyncManager):
    async def __aenter__(self) -> str:
        self._trace.append("enter")
        return "value"

    async def __aexit__(self, *exc: object) -> None:
        self._trace.append("exit")


def factories(trace: Trace) -> dict[str, Any]:
    def function() -> str:
        return "value"

    async def coroutine() -> str:
        return "value"

    def generator() -> Generator[str]:
        trace.append("enter")
        yield "value"
        trace.append("exit")

    async def async_generator() -> AsyncGenerator[str]:
        trace.append("enter")
        yield "value"
        trace.append("exit")

    def manager() -> SyncManager:
        return SyncManager(trace)

    def async_manager() -> AsyncManager:
        return AsyncManager(trace)

    class Called:
        async def __call__(self) -> str:
            return "value"

    return {
        "function": function,
        "coroutine": coroutine,
        "generator": generator,
        "decorated": contextlib.contextmanager(generator),
        "async generator": async_generator,
        "async decorated": contextlib.asynccontextmanager(async_generator),
        "manager": manager,
        "async manager": async_manager,
        "called": Called(),
    }


@pytest.mark.parametrize("kind", factories(Trace()))
@pytest.mark.parametrize("scope", ["attempt", "node"])
@pytest.mark.parametrize("mode", ["async", "thread"])
async def test_every_kind_of_factory(
    kind: str, scope: Any, mode: str, executor: Executor, resources: Resources, trace: Trace
) -> None:
    made: Any = Depends(factories(trace)[kind], scope=scope)

    async def on_loop(x: str = made) -> str:
        trace.append("body")
        return x

    def in_thread(x: str = made) -> str:
        trace.append("body")
        return x

    body = on_loop if mode == "async" else in_thread
    managed = kind in ("generator", "decorated", "async generator", "async decorated", "manager", "async manager")
    assert await run(executor, body) == "value"
    assert trace == (["enter", "body", "exit"] if managed else ["body"])[: 2 if scope == "node" else 3]
    await resources.close()
    assert trace == (["enter", "body", "exit"] if managed else ["body"])


def test_a_class_makes_its_own_kind() -> None:
    assert isinstance(Depends(Plain), Resource)


async def test_a_class_as_factory(executor: Executor) -> None:
    async def body(x: Plain = Depends(Plain)) -> Plain:
        return x

    assert type(await run(executor, body)) is Plain


# -- attempts


@pytest.mark.parametrize("mode", ["async", "thread"])
async def test_one_per_attempt_shared_within_it(executor: Executor, mode: str) -> None:
    made: list[object] = []

    def base() -> object:
        made.append(object())
        return made[-1]

    def left(x: object = Depends(base)) -> object:
        return x

    def right(x: object = Depends(base)) -> object:
        return x

    def body(a: object = Depends(left), b: object = Depends(right), c: object = Depends(base)) -> bool:
        return a is b is c

    async def later(a: object = Depends(left), b: object = Depends(right), c: object = Depends(base)) -> bool:
        return a is b is c

    for count in (1, 2):
        assert await run(executor, body if mode == "thread" else later)
        assert len(made) == count


def chain(trace: Trace) -> tuple[Any, Any]:
    async def first() -> AsyncGenerator[str]:
        trace.append("first made")
        try:
            yield "1"
        except BaseException as error:
            trace.append(f"first saw {type(error).__name__}")
            raise
        finally:
            trace.append("first closed")

    def second(one: str = Depends(first)) -> Generator[str]:
        trace.append("second made")
        try:
            yield one + "2"
        except BaseException as error:
            trace.append(f"second saw {type(error).__name__}")
            raise
        finally:
            trace.append("second closed")

    return first, second


@pytest.mark.parametrize("mode", ["async", "thread"])
async def test_closed_in_reverse_with_the_error_of_the_body(executor: Executor, trace: Trace, mode: str) -> None:
    _, second = chain(trace)

    def body(x: str = Depends(second)) -> None:
        raise KeyError(x)

    async def later(x: str = Depends(second)) -> None:
        raise KeyError(x)

    with pytest.raises(KeyError, match="12"):
        await run(executor, body if mode == "thread" else later)
    assert trace == [
        "first made",
        "second made",
        "second saw KeyError",
        "second closed",
        "first saw KeyError",
        "first closed",
    ]


async def test_closed_when_cancelled(executor: Executor, trace: Trace) -> None:
    _, second = chain(trace)
    begun = asyncio.Event()

    async def body(x: str = Depends(second)) -> None:
        begun.set()
        await asyncio.Event().wait()

    task = asyncio.create_task(run(executor, body))
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert trace[2:] == ["second saw CancelledError", "second closed", "first saw CancelledError", "first closed"]


@pytest.mark.parametrize("mode", ["async", "thread"])
async def test_what_was_made_is_closed_when_the_next_cannot_be_made(
    executor: Executor, trace: Trace, mode: str
) -> None:
    _, second = chain(trace)

    def broken(x: str = Depends(second)) -> str:
        raise LookupError("no database")

    def body(x: str = Depends(broken)) -> None:
        trace.append("body")

    async def later(x: str = Depends(broken)) -> None:
        trace.append("body")

    with pytest.raises(LookupError, match="no database"):
        await run(executor, body if mode == "thread" else later)
    assert "body" not in trace
    assert trace[-1] == "first closed"


@pytest.mark.parametrize("mode", ["async", "thread"])
async def test_a_resource_that_swallows_the_error_does_not_undo_it(executor: Executor, mode: str) -> None:
    @contextlib.contextmanager
    def swallowing() -> Generator[str]:
        with contextlib.suppress(KeyError):
            yield "x"

    def body(x: str = Depends(swallowing)) -> None:
        raise KeyError(x)

    async def later(x: str = Depends(swallowing)) -> None:
        raise KeyError(x)

    with pytest.raises(KeyError):
        await run(executor, body if mode == "thread" else later)


@pytest.mark.parametrize("mode", ["async", "thread"])
async def test_an_error_while_closing_is_logged_and_the_body_has_returned(
    executor: Executor, caplog: pytest.LogCaptureFixture, mode: str
) -> None:
    def leaving() -> Generator[str]:
        yield "x"
        raise OSError("cannot close")

    def body(x: str = Depends(leaving)) -> str:
        return x

    async def later(x: str = Depends(leaving)) -> str:
        return x

    assert await run(executor, body if mode == "thread" else later) == "x"
    assert "a resource failed to close" in caplog.text
    assert "OSError: cannot close" in caplog.text


@pytest.mark.parametrize("mode", ["async", "thread"])
async def test_an_error_while_closing_does_not_replace_that_of_the_body(executor: Executor, mode: str) -> None:
    def leaving() -> Generator[str]:
        try:
            yield "x"
        finally:
            raise OSError("cannot close")

    def body(x: str = Depends(leaving)) -> str:
        raise Fail("never again")

    async def later(x: str = Depends(leaving)) -> str:
        raise Fail("never again")

    with pytest.raises(Fail):
        await run(executor, body if mode == "thread" else later)


async def test_wrong_arguments_make_no_resources(executor: Executor, trace: Trace) -> None:
    def make() -> str:
        trace.append("made")
        return "x"

    def body(n: int, x: str = Depends(make)) -> None: ...

    binding = Binding(Job("kind", body))
    with pytest.raises(TypeError):
        await executor.call(binding, encode_arguments(("x",), {}), Context(), "auto")
    assert trace == []


# -- threads


async def test_a_sync_resource_lives_in_the_thread_of_its_body(executor: Executor) -> None:
    threads: list[int] = []

    def connection() -> Generator[str]:
        threads.append(threading.get_ident())
        yield "connection"
        threads.append(threading.get_ident())

    def cursor(connection: str = Depends(connection)) -> str:
        threads.append(threading.get_ident())
        return connection

    def body(x: str = Depends(cursor)) -> None:
        threads.append(threading.get_ident())

    await run(executor, body)
    assert len(threads) == 4
    assert len(set(threads)) == 1
    assert threads[0] != threading.get_ident()


async def test_a_sync_resource_that_an_async_one_needs_is_made_on_the_loop(executor: Executor) -> None:
    threads: list[int] = []

    def settings() -> str:
        threads.append(threading.get_ident())
        return "settings"

    async def pool(settings: str = Depends(settings)) -> str:
        threads.append(threading.get_ident())
        return f"pool of {settings}"

    def body(a: str = Depends(settings), b: str = Depends(pool)) -> tuple[str, str]:
        return a, b

    assert await run(executor, body) == ("settings", "pool of settings")
    assert threads == [threading.get_ident()] * 2


async def test_a_surprise_in_a_thread_is_refused(executor: Executor, trace: Trace) -> None:
    class OnlyAsync:
        async def __aenter__(self) -> str:
            return "x"

        async def __aexit__(self, *exc: object) -> None: ...

    def body(x: Any = Depends(OnlyAsync)) -> None: ...

    with pytest.raises(OptionError, match="no async context manager"):
        await run(executor, body)


# -- what factories are given


class Given:
    def time_us(self) -> int:
        return 1_000_000

    def durable_run(self, context: Context, verb: str) -> Any:
        return "the durable run"

    def report_progress(self, context: Context, fraction: float, message: str) -> None: ...

    async def check_owner(self, context: Context) -> bool:
        return True

    async def throttle(self, context: Context, limit: str, delay_us: int) -> None: ...

    def make_instance(self, context: Context) -> Any:
        return "the instance"

    def make_worker(self, context: Context) -> Any:
        return "the worker"

    def log_line(self, context: Context, level: int, message: str, fields: dict[str, object] | None) -> bool:
        return True


async def test_factories_are_injected_too(executor: Executor) -> None:
    manager: Any = "the manager"
    context = Context(id="run", backend=Given(), manager=manager)

    def of_node(node: Manager) -> list[Any]:
        return [node]

    def of_attempt(
        ctx: Context, one: Instance[Any], above: list[Any] = Depends(of_node, scope="node"), limit: int = 5
    ) -> list[Any]:
        return [*above, ctx, one, limit, Context.current()]

    async def body(x: list[Any] = Depends(of_attempt)) -> list[Any]:
        return x

    assert await run(executor, body, context) == [manager, context, "the instance", 5, context]


# -- the node's own


async def test_made_once_when_many_ask_at_once(executor: Executor, resources: Resources, trace: Trace) -> None:
    made = asyncio.Event()

    async def pool() -> AsyncGenerator[object]:
        trace.append("made")
        await made.wait()
        yield object()
        trace.append("closed")

    async def body(x: object = Depends(pool, scope="node")) -> object:
        return x

    tasks = [asyncio.create_task(run(executor, body)) for _ in range(5)]
    await asyncio.sleep(0)
    tasks[0].cancel()  # a cancelled first request must not end the creation for the others
    await asyncio.sleep(0)
    made.set()
    first, *others = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(first, asyncio.CancelledError)
    assert len(set(map(id, others))) == 1
    assert trace == ["made"]
    await resources.close()
    assert trace == ["made", "closed"]


async def test_closed_in_reverse(executor: Executor, resources: Resources, trace: Trace) -> None:
    def first() -> Generator[str]:
        yield "1"
        trace.append("first")

    async def second(one: str = Depends(first, scope="node")) -> AsyncGenerator[str]:
        yield one + "2"
        trace.append("second")

    def third(two: str = Depends(second, scope="node")) -> Generator[str]:
        yield two + "3"
        trace.append("third")

    async def body(x: str = Depends(third, scope="node")) -> str:
        return x

    assert await run(executor, body) == "123"
    await resources.close()
    assert trace == ["third", "second", "first"]


async def test_opened_and_closed_by_one_task(executor: Executor, resources: Resources) -> None:
    tasks: list[Any] = []
    variable = contextvars.ContextVar[str]("variable", default="none")

    async def pool() -> AsyncGenerator[str]:
        tasks.append(asyncio.current_task())
        async with asyncio.timeout(None), asyncio.TaskGroup():
            token = variable.set("mine")
            assert current_run.get() is None
            yield "pool"
            variable.reset(token)
        tasks.append(asyncio.current_task())

    async def body(x: str = Depends(pool, scope="node")) -> str:
        return x

    assert await asyncio.create_task(run(executor, body)) == "pool"
    await resources.close()
    assert tasks[0] is tasks[1]


async def test_the_next_run_tries_again_after_a_failure(executor: Executor, resources: Resources) -> None:
    answers: list[Any] = [OSError("away"), SystemExit(3), "pool"]

    async def pool() -> str:
        answer = answers.pop(0)
        if isinstance(answer, BaseException):
            raise answer
        return str(answer)

    async def body(x: str = Depends(pool, scope="node")) -> str:
        return x

    with pytest.raises(OSError, match="away"):
        await run(executor, body)
    with pytest.raises(Exception, match="SystemExit"):
        await run(executor, body)
    assert await run(executor, body) == "pool"
    assert await run(executor, body) == "pool"
    await resources.close()


async def test_one_that_fails_to_close_leaves_none_open(
    executor: Executor, resources: Resources, trace: Trace, caplog: pytest.LogCaptureFixture
) -> None:
    def first() -> Generator[str]:
        yield "1"
        trace.append("first closed")

    def second(one: str = Depends(first, scope="node")) -> Generator[str]:
        yield "2"
        raise OSError("stuck")

    async def body(x: str = Depends(second, scope="node")) -> str:
        return x

    await run(executor, body)
    await resources.close()
    assert trace == ["first closed"]
    assert "second failed to close" in caplog.text


async def test_a_node_that_has_stopped_makes_nothing(executor: Executor, resources: Resources) -> None:
    async def body(x: str = Depends(lambda: "x", scope="node")) -> str:
        return x

    await resources.close()
    with pytest.raises(NodeStateError, match="the node has stopped"):
        await run(executor, body)


async def test_closing_ends_what_is_being_made(executor: Executor, resources: Resources) -> None:
    begun = asyncio.Event()

    async def pool() -> str:
        begun.set()
        await asyncio.Event().wait()
        return "never"

    async def body(x: str = Depends(pool, scope="node")) -> str:
        return x

    task = asyncio.create_task(run(executor, body))
    await begun.wait()
    await resources.close()
    with pytest.raises(NodeStateError, match="the node has stopped"):
        await task


# -- overrides


def real() -> str:
    return "real"


def needs_real(x: str = Depends(real)) -> str:
    return f"needs {x}"


@pytest.mark.parametrize("scope", ["attempt", "node"])
async def test_overrides(executor: Executor, overrides: dict[Any, Any], resources: Resources, scope: Any) -> None:
    async def fake() -> AsyncGenerator[str]:
        yield "fake"

    async def body(x: str = Depends(real, scope=scope), y: str = Depends(needs_real)) -> tuple[str, str]:
        return x, y

    assert await run(executor, body) == ("real", "needs real")
    overrides[real] = fake
    assert await run(executor, body) == ("fake", "needs fake")
    del overrides[real]
    assert await run(executor, body) == ("real", "needs real")
    await resources.close()


async def test_an_override_that_needs_what_it_replaces(executor: Executor, overrides: dict[Any, Any]) -> None:
    async def body(x: str = Depends(real)) -> str:
        return x

    overrides[real] = needs_real
    with pytest.raises(OptionError, match="needs_real -> needs_real"):
        await run(executor, body)


# -- what can never be made


def circular() -> Any:
    def first(x: Any = None) -> None: ...
    def second(x: Any = Depends(first)) -> None: ...

    first.__defaults__ = (Depends(second),)
    return first


def attempt_for_node(x: Any = Depends(real)) -> None: ...
def context_for_node(ctx: Context) -> None: ...
def wants_more(x: int) -> None: ...


REFUSED: list[tuple[Any, Any, str]] = [
    (circular(), "attempt", "a factory that does not need itself: .*first -> .*second -> .*first"),
    (attempt_for_node, "node", "a factory whose x has scope='node' too"),
    (context_for_node, "node", "a factory that asks for manager, not ctx"),
    (wants_more, "attempt", "a factory with a default or Depends for x"),
]


@pytest.mark.parametrize(("factory", "scope", "problem"), REFUSED, ids=itertools.count())
def test_what_can_never_be_made_is_refused(factory: Any, scope: Any, problem: str) -> None:
    def body(x: Any = Depends(factory, scope=scope)) -> None: ...

    with pytest.raises(OptionError, match=problem):
        Binding(Job("kind", body))
