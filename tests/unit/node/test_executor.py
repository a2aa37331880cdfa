"""Bodies on the loop and in threads: results, errors of every kind, cancellation, and what the node survives."""

import asyncio
import contextlib
import contextvars
import functools
import gc
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable
from typing import Any, NoReturn, cast

import pytest

from peerjob.handles.context import Context, Reason
from peerjob.model.clock import SystemClock
from peerjob.model.errors import ArgumentError, DecodeError, JobFailed, OptionError, OwnershipLost, Retry, Snooze
from peerjob.model.injected import current_run
from peerjob.model.job import Job
from peerjob.model.spec import ErrorInfo, encode, encode_arguments
from peerjob.node.body.binding import Binding, StoredArgumentError
from peerjob.node.body.errors import MAX_TEXT, BodyError, RemoteBodyError, describe_error, pack_error, unpack_error
from peerjob.node.body.executor import Executor
from peerjob.node.body.injection import Resources
from peerjob.node.body.threads import ThreadPool
from peerjob.testing.clock import VirtualClock
from support.waiting import until


@pytest.fixture
async def executor() -> AsyncIterator[Executor]:
    executor = Executor(clock=SystemClock(), threads=4, resources=Resources())
    yield executor
    await executor.close()


async def run(
    executor: Executor, body: Callable[..., Any], *args: Any, context: Context | None = None, run_in: str = "auto"
) -> Any:
    binding = Binding(Job("kind", body))
    return await executor.call(binding, binding.encode(args, {}), context or Context(id="run"), run_in)


# -- results


def add(x: int, y: int) -> int:
    return x + y


async def add_later(x: int, y: int) -> int:
    await asyncio.sleep(0)
    return x + y


class Adder:
    def method(self, x: int, y: int) -> int:
        return x + y

    async def later(self, x: int, y: int) -> int:
        return x + y

    def __call__(self, x: int, y: int) -> int:
        return x + y


class LaterAdder:
    async def __call__(self, x: int, y: int) -> int:
        return x + y


def forwarding(x: int, y: int) -> Any:
    return add_later(x, y)


@pytest.mark.parametrize(
    "body",
    [
        add,
        add_later,
        Adder().method,
        Adder().later,
        Adder(),
        LaterAdder(),
        functools.partial(add, y=2),
        functools.partial(add_later, y=2),
        forwarding,
        lambda x, y=0: 42,
        sum,
    ],
    ids=range(11),
)
async def test_any_callable(executor: Executor, body: Any) -> None:
    args: tuple[Any, ...] = ([40, 2],) if body is sum else (40,) if isinstance(body, functools.partial) else (40, 2)
    assert await run(executor, body, *args) == 42


async def test_several_results_are_a_tuple(executor: Executor) -> None:
    assert await run(executor, divmod, 7, 2) == (3, 1)


async def test_where_bodies_run(executor: Executor) -> None:
    def where() -> int:
        return threading.get_ident()

    async def where_later() -> int:
        return threading.get_ident()

    here = threading.get_ident()
    assert await run(executor, where) != here
    assert await run(executor, where, run_in="async") == here
    assert await run(executor, where_later) == here


async def test_the_run_is_known_inside_and_not_after(executor: Executor) -> None:
    context = Context(id="mine")

    async def inner() -> Context:
        return Context.current()

    async def later() -> bool:
        return Context.current() is context and await asyncio.create_task(inner()) is context

    def sync() -> bool:
        return Context.current() is context

    assert await run(executor, later, context=context)
    assert await run(executor, sync, context=context)
    assert current_run.get() is None


async def test_context_variables_reach_threads(executor: Executor) -> None:
    variable = contextvars.ContextVar("variable", default="none")
    variable.set("set")
    assert await run(executor, variable.get) == "set"


async def test_wrong_arguments_never_run(executor: Executor) -> None:
    ran: list[int] = []

    def body(x: int) -> None:
        ran.append(x)

    binding = Binding(Job("kind", body))
    wrong = encode_arguments(("x",), {})
    with pytest.raises(StoredArgumentError, match=r"x: .*integer"):
        await executor.call(binding, wrong, Context(), "auto")
    with pytest.raises(DecodeError):
        await executor.call(binding, b"\xc1", Context(), "auto")
    assert ran == []
    assert current_run.get() is None


async def test_a_mode_that_cannot_be(executor: Executor) -> None:
    with pytest.raises(OptionError, match="run_in"):
        await run(executor, add_later, 1, 2, run_in="thread")


# -- errors


class UnprintableError(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")

    def __repr__(self) -> str:
        raise RuntimeError("no text")


class BrokenText(Exception):
    def __str__(self) -> str:
        return cast(str, 5)


def recursion(n: int = 0) -> int:
    return recursion(n + 1)


def raising(error: BaseException) -> tuple[Callable[[], Any], Callable[[], Any]]:
    def sync() -> NoReturn:
        raise error

    async def later() -> NoReturn:
        await asyncio.sleep(0)
        raise error

    return sync, later


ERRORS: list[BaseException] = [
    ValueError("bad"),
    KeyError("key"),
    MemoryError(),
    RecursionError("deep"),
    UnprintableError(),
    BrokenText(),
    ExceptionGroup("several", [ValueError("a"), TypeError("b")]),
    asyncio.InvalidStateError(),
    TimeoutError(),
    StopAsyncIteration(),
    OwnershipLost("gone"),
    Retry(after=5),
    Snooze(5),
    asyncio.CancelledError("by itself"),
]
HARMFUL: list[BaseException] = [
    SystemExit(3),
    KeyboardInterrupt(),
    GeneratorExit(),
    BaseException("bare"),
    BaseExceptionGroup("several", [KeyboardInterrupt()]),
]
MODES = [("thread", 0, "auto"), ("loop", 1, "auto"), ("inline", 0, "async")]


@pytest.mark.parametrize("error", ERRORS, ids=lambda one: type(one).__name__)
@pytest.mark.parametrize(("which", "run_in"), [(0, "auto"), (1, "auto"), (0, "async")])
async def test_errors_come_as_they_are(executor: Executor, error: BaseException, which: int, run_in: str) -> None:
    with pytest.raises(type(error)) as caught:
        await run(executor, raising(error)[which], run_in=run_in)
    assert caught.value is error
    assert await run(executor, add, 1, 2) == 3


@pytest.mark.parametrize("error", HARMFUL, ids=lambda one: type(one).__name__)
@pytest.mark.parametrize(("which", "run_in"), [(0, "auto"), (1, "auto"), (0, "async")])
async def test_errors_that_would_do_harm_are_wrapped(
    executor: Executor, error: BaseException, which: int, run_in: str
) -> None:
    task = asyncio.create_task(run(executor, raising(error)[which], run_in=run_in))
    with pytest.raises(BodyError) as caught:
        await task
    assert caught.value.cause is error
    assert describe_error(caught.value).type == type(error).__name__
    assert current_run.get() is None
    assert await run(executor, add, 1, 2) == 3


@pytest.mark.parametrize(("which", "run_in"), [(0, "auto"), (0, "async")])
async def test_stop_iteration(executor: Executor, which: int, run_in: str) -> None:
    with pytest.raises(BodyError) as caught:
        await run(executor, raising(StopIteration(1))[which], run_in=run_in)
    assert describe_error(caught.value).type == "StopIteration"


@pytest.mark.parametrize("run_in", ["auto", "async"])
async def test_endless_recursion(executor: Executor, run_in: str) -> None:
    with pytest.raises(RecursionError) as caught:
        await run(executor, recursion, run_in=run_in)
    info = describe_error(caught.value)
    assert info.type == "RecursionError"
    assert "recursion(n + 1)" in info.traceback
    assert len(info.traceback) < MAX_TEXT + 100


async def test_exit_in_a_resource_is_wrapped_too(executor: Executor) -> None:
    from peerjob.model.injected import Depends

    def leaving() -> None:
        sys.exit(1)

    def body(x: None = Depends(leaving)) -> None: ...

    with pytest.raises(BodyError):
        await run(executor, body)
    with pytest.raises(BodyError):
        await run(executor, body, run_in="async")


def test_a_call_that_is_thrown_away_with_its_loop_ends_quietly() -> None:
    seen: list[BaseException] = []

    async def body() -> None:
        try:
            await asyncio.Event().wait()
        except BaseException as error:
            seen.append(error)
            raise

    async def main() -> None:
        executor = Executor(clock=SystemClock(), threads=1, resources=Resources())
        call = run(executor, body)
        contextvars.copy_context().run(call.send, None)
        call.close()  # raises when anything but GeneratorExit comes out
        await executor.close()

    asyncio.run(main())
    assert [type(one) for one in seen] == [GeneratorExit]


# -- cancellation


async def cancelling(executor: Executor, body: Callable[..., Any], reason: Reason, begun: threading.Event) -> Any:
    context = Context(id="run")
    task = asyncio.create_task(run(executor, body, context=context))
    assert await asyncio.to_thread(begun.wait, 30)
    context.cancel(reason)
    task.cancel(reason)
    return await task


async def test_an_async_body_gets_the_cancellation(executor: Executor) -> None:
    begun, reasons = threading.Event(), list[Any]()

    async def body() -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            reasons.append(Context.current().reason)

    with pytest.raises(asyncio.CancelledError):
        await cancelling(executor, body, "timeout", begun)
    assert reasons == ["timeout"]


async def test_an_async_body_may_finish_what_it_does(executor: Executor) -> None:
    begun = threading.Event()

    async def body() -> str:
        begun.set()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        return "tidied up"

    assert await cancelling(executor, body, "drain", begun) == "tidied up"


async def test_a_thread_sees_the_cancellation_and_still_has_its_say(executor: Executor) -> None:
    begun = threading.Event()

    def body() -> str:
        begun.set()
        assert Context.current().wait(30)
        return f"stopped by {Context.current().reason}"

    assert await cancelling(executor, body, "user", begun) == "stopped by user"


async def test_a_thread_may_end_by_the_cancellation(executor: Executor) -> None:
    begun = threading.Event()

    def body() -> None:
        begun.set()
        while True:
            Context.current().raise_if_cancelled()
            time.sleep(0.001)

    with pytest.raises(asyncio.CancelledError, match="lost"):
        await cancelling(executor, body, "lost", begun)


async def test_the_call_lasts_as_long_as_the_thread(executor: Executor) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def body() -> str:
        begun.set()
        go_on.wait(30)
        return "done"

    context = Context(id="run")
    task = asyncio.create_task(run(executor, body, context=context))
    assert await asyncio.to_thread(begun.wait, 30)
    context.cancel("timeout")
    for _ in range(3):
        task.cancel()
        await asyncio.sleep(0.01)
        assert not task.done()
    go_on.set()
    assert await task == "done"
    assert task.cancelling() == 0


async def test_a_bare_cancellation_tells_the_thread(executor: Executor) -> None:
    begun = threading.Event()

    def body() -> Any:
        begun.set()
        Context.current().wait(30)
        return Context.current().reason

    task = asyncio.create_task(run(executor, body))
    assert await asyncio.to_thread(begun.wait, 30)
    task.cancel()
    assert await task == "drain"


async def test_a_cancellation_just_as_the_thread_ends(executor: Executor) -> None:
    """Either the body ran and its result is there, or it was not begun; nothing hangs."""
    ran: list[int] = []

    def body() -> int:
        ran.append(1)
        return 3

    for delay in range(50):
        ran.clear()
        task = asyncio.create_task(run(executor, body))
        for _ in range(delay % 10):
            await asyncio.sleep(0)
        task.cancel()
        try:
            assert await task == 3
        except asyncio.CancelledError:
            assert ran == []


# -- threads


async def test_as_many_threads_as_work_at_a_time() -> None:
    pool = ThreadPool(3, "together")
    barrier = threading.Barrier(3)
    names: set[str] = set()

    def together() -> None:
        barrier.wait(30)
        names.add(threading.current_thread().name)

    await asyncio.gather(*(pool.run(together, lambda: None) for _ in range(9)))
    assert len(names) == 3
    assert threads_of("together") == 3
    for _ in range(9):
        await pool.run(lambda: None, lambda: None)
    assert threads_of("together") == 3
    pool.close()
    await until(lambda: threads_of("together") == 0)


async def test_one_thread_serves_one_after_the_other() -> None:
    pool = ThreadPool(4)
    names = {await pool.run(threading.get_ident, lambda: None) for _ in range(10)}
    assert len(names) == 1
    pool.close()


async def test_growing_and_shrinking_with_work_under_way() -> None:
    pool = ThreadPool(1, "growing")
    gate = threading.Event()

    def work() -> None:
        gate.wait(30)

    tasks = [asyncio.create_task(pool.run(work, lambda: None)) for _ in range(2)]
    await asyncio.sleep(0)
    pool.resize(3)
    tasks += [asyncio.create_task(pool.run(work, lambda: None)) for _ in range(2)]
    await asyncio.sleep(0)
    assert threads_of("growing") == 3
    pool.resize(1)
    gate.set()
    await asyncio.gather(*tasks)
    await until(lambda: threads_of("growing") == 1)
    assert await pool.run(lambda: 5, lambda: None) == 5
    pool.close()
    await until(lambda: threads_of("growing") == 0)


async def test_work_that_was_given_up_makes_room_for_another_thread_only_until_it_ends() -> None:
    pool = ThreadPool(2, "given-up")

    async def give_up(gate: threading.Event) -> None:
        began = threading.Event()

        def work() -> None:
            began.set()
            gate.wait(60)

        waiting = asyncio.create_task(pool.run(work, _raise_given_up))
        await until(began.is_set)
        waiting.cancel()
        with pytest.raises(_GivenUpError):
            await waiting

    for _ in range(3):
        gate = threading.Event()
        for _ in range(2):
            await give_up(gate)
        wait = functools.partial(threading.Barrier(2).wait, 60)
        await asyncio.gather(*(pool.run(wait, lambda: None) for _ in range(2)))
        gate.set()
        await until(lambda: threads_of("given-up") <= 2)
        await asyncio.gather(*(pool.run(lambda: None, lambda: None) for _ in range(12)))
        assert threads_of("given-up") <= 2
    pool.close()
    await until(lambda: threads_of("given-up") == 0)


class _GivenUpError(Exception):
    pass


def _raise_given_up() -> None:
    raise _GivenUpError


async def test_a_closed_executor_has_no_thread_left() -> None:
    executor = Executor(clock=SystemClock(), threads=2, resources=Resources(), pool=ThreadPool(2, "closing"))
    await run(executor, lambda: None)
    assert threads_of("closing") == 1
    await executor.close()
    await until(lambda: threads_of("closing") == 0)


def threads_of(pool: str) -> int:
    """How many there are of the pool so named: those of an earlier test may still be on their way out."""
    return sum(one.name.startswith(f"{pool}-") for one in threading.enumerate())


async def test_results_and_errors_are_not_kept() -> None:
    class Result:
        alive = 0

        def __init__(self) -> None:
            Result.alive += 1

        def __del__(self) -> None:
            Result.alive -= 1

    def failing() -> NoReturn:
        kept = Result()
        raise ValueError(kept)

    pool = ThreadPool(1)
    await pool.run(Result, lambda: None)
    with contextlib.suppress(ValueError):
        await pool.run(failing, lambda: None)
    await pool.run(lambda: None, lambda: None)
    gc.disable()
    try:
        assert Result.alive == 0
    finally:
        gc.enable()
    pool.close()


def test_a_thread_that_never_ends_does_not_keep_the_process() -> None:
    import subprocess

    script = (
        "import asyncio, threading\n"
        "from peerjob.node.body.threads import ThreadPool\n"
        "begun = threading.Event()\n"
        "async def main():\n"
        "    task = asyncio.create_task(ThreadPool(1).run(lambda: (begun.set(), threading.Event().wait()), print))\n"
        "    await asyncio.to_thread(begun.wait)\n"
        "    loop.stop()\n"
        "loop = asyncio.new_event_loop()\n"
        "task = loop.create_task(main())\n"
        "loop.run_forever()\n"
    )
    subprocess.run([sys.executable, "-c", script], timeout=50, check=True, stderr=subprocess.DEVNULL)


# -- virtual time


async def test_time_stands_still_while_a_thread_works() -> None:
    clock = VirtualClock()
    with clock:
        executor = Executor(clock=clock, threads=1, resources=Resources())
        before = clock.elapsed()
        begun, go_on = threading.Event(), threading.Event()

        def body() -> str:
            begun.set()
            go_on.wait(30)
            return "done"

        task = asyncio.create_task(run(executor, body))
        advancing = asyncio.create_task(clock.advance("1h"))
        assert await asyncio.to_thread(begun.wait, 30)
        assert clock.elapsed() == before
        go_on.set()
        assert await task == "done"
        await advancing
        assert clock.elapsed() == before + 3600
        await executor.close()


# -- descriptions


def describe(error: BaseException) -> ErrorInfo:
    try:
        raise error
    except BaseException as raised:  # noqa: BLE001  # that is what this is about
        info = describe_error(raised)
        encode(info)  # it can be stored
        return info


class Nested:
    class InnerError(Exception):
        pass


def test_description() -> None:
    info = describe(ValueError("bad"))
    assert (info.type, info.message) == ("ValueError", "bad")
    assert info.traceback.startswith("Traceback (most recent call last):\n")
    assert info.traceback.endswith("ValueError: bad\n")
    assert describe(Nested.InnerError()).type.endswith("test_executor.Nested.InnerError")


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (UnprintableError(), "<UnprintableError that cannot be shown>"),
        (BrokenText(), "BrokenText()"),
        (ValueError("\ud800"), "\\ud800"),
        (KeyError(1), "1"),
    ],
)
def test_errors_that_cannot_say_what_they_are(error: BaseException, message: str) -> None:
    assert describe(error).message == message


def test_hostile_classes() -> None:
    class Meta(type):
        def __getattribute__(cls, name: str) -> Any:
            if name in ("__qualname__", "__module__"):
                raise SystemError
            return super().__getattribute__(name)

    hostile: Any = Meta("Hostile", (Exception,), {})
    assert describe(hostile("x")).message == "x"


def test_long_texts_are_cut_in_the_middle() -> None:
    info = describe(ValueError("a" * 50_000 + "z"))
    assert len(info.message) < MAX_TEXT + 100
    assert info.message.startswith("aaa")
    assert info.message.endswith("az")
    assert "33,617 characters left out" in info.message
    assert len(info.traceback) < MAX_TEXT + 100


async def test_tracebacks_begin_with_the_body(executor: Executor) -> None:
    def body() -> None:
        raise ValueError("here")

    async def later() -> None:
        raise ValueError("here")

    for one, run_in in ((body, "auto"), (body, "async"), (later, "auto")):
        with pytest.raises(ValueError, match="here") as caught:
            await run(executor, one, run_in=run_in)
        trace = caught.value.__traceback__
        while trace is not None and trace.tb_frame.f_code.co_filename == __file__:
            trace = trace.tb_next  # a node has no test above it
        lines = describe_error(caught.value.with_traceback(trace)).traceback.splitlines()
        assert lines[1].startswith(f'  File "{__file__}", line ')
        assert lines[1].endswith(f", in {one.__name__}")


def test_causes_and_groups_are_in_the_traceback() -> None:
    try:
        try:
            raise KeyError("first")
        except KeyError as error:
            raise ExceptionGroup("several", [ValueError("a"), TypeError("b")]) from error
    except ExceptionGroup as error:
        text = describe_error(error).traceback
    assert "KeyError: 'first'" in text
    assert "direct cause" in text
    assert "TypeError: b" in text


# -- from process to process


class PlainError(Exception):
    pass


class CodedError(Exception):
    def __init__(self, code: int, *, hint: str) -> None:
        self.code = code
        self.hint = hint
        super().__init__(f"code {code}")


class CodedOSError(OSError):
    def __init__(self, code: int) -> None:
        super().__init__(code, "coded")


def over(error: BaseException) -> BaseException:
    info = describe(error)
    found = unpack_error(info, pack_error(error))
    assert describe_error(found) == info
    return found


@pytest.mark.parametrize(
    "error",
    [
        ValueError("bad"),
        KeyError("k"),
        PlainError("a", 1, (2,)),
        FileNotFoundError(2, "No such file", "/x"),
        UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid"),
        SystemExit(3),
        Retry(after=5, reason="why"),
        ArgumentError("kind", ["problem"]),
        JobFailed("uuid", "ValueError", "bad"),
        CodedError(5, hint="x"),
        CodedOSError(5),
    ],
    ids=lambda one: type(one).__name__,
)
def test_errors_are_made_again(error: BaseException) -> None:
    found = over(error)
    assert type(found) is type(error)
    assert (found.args, vars(found), str(found)) == (error.args, vars(error), str(error))


def test_notes_come_along() -> None:
    error = ValueError("bad")
    error.add_note("a note")
    assert over(error).__notes__ == ["a note"]


def test_what_an_error_holds_may_be_left_behind() -> None:
    error = PlainError("text")
    error.holds = object()  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]
    found = over(error)
    assert type(found) is PlainError
    assert vars(found) == {}


class UnreducibleError(Exception):
    def __reduce__(self) -> str:
        raise RuntimeError


@pytest.mark.parametrize(
    "error",
    [
        type("LocalError", (Exception,), {})("x"),
        ValueError(object()),
        UnprintableError(lambda: 1),
        UnreducibleError("x"),
    ],
    ids=lambda one: type(one).__name__,
)
def test_errors_that_cannot_be_made_again_are_described(error: BaseException) -> None:
    found = over(error)
    assert isinstance(found, RemoteBodyError)


def test_groups_are_made_again_with_what_can_be() -> None:
    local = type("LocalError", (Exception,), {})
    found = over(BaseExceptionGroup("several", [ExceptionGroup("inner", [KeyError("k")]), local("x"), Snooze(5)]))
    assert isinstance(found, BaseExceptionGroup)
    inner, lost, snooze = found.exceptions
    assert isinstance(inner, ExceptionGroup)
    assert repr(inner.exceptions) == repr((KeyError("k"),))
    assert isinstance(lost, RemoteBodyError)
    assert isinstance(snooze, Snooze)


def test_a_group_that_is_nested_without_end_is_described() -> None:
    error: Any = ValueError()
    for _ in range(5000):
        error = ExceptionGroup("more", [error])
    found = unpack_error(describe_error(error), pack_error(error))
    assert describe_error(found).type == "ExceptionGroup"
