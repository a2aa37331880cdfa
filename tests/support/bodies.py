"""Bodies of jobs for processes, which import them by name."""

import asyncio
import contextvars
import ctypes
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from peerjob.handles.context import Context
from peerjob.model.errors import Fail, OwnershipLost, Retry, Snooze
from peerjob.model.injected import INJECTED
from peerjob.model.job import job
from peerjob.model.policy import Finished
from peerjob.model.secret import Secret
from peerjob.model.worker import Worker
from peerjob.node.body.frames import Line

logger = logging.getLogger(__name__)


def add(x: int, y: int) -> int:
    return x + y


async def add_later(x: int, y: int) -> int:
    await asyncio.sleep(0)
    return x + y


@job(kind="decorated")
def decorated(pause: timedelta) -> timedelta:
    return pause * 2


class Adder:
    @staticmethod
    def static(x: int, y: int) -> int:
        return x + y


def pid() -> int:
    return os.getpid()


def echo(value: Any) -> Any:
    return value


def knows(context: Context = INJECTED) -> list[Any]:
    """What the context tells a body about its instance."""
    return [context.id, context.kind, context.attempt, context.deadline, context.schedule, context.nominal_at]


def where() -> tuple[list[str], str]:
    return sys.path, str(Path.cwd())


def about(ctx: Context = INJECTED, *, worker: Worker = INJECTED) -> list[Any]:
    return [
        ctx.id,
        ctx.kind,
        ctx.fence,
        ctx.attempt,
        ctx.deadline,
        ctx.cancelled,
        ctx.detached,
        Context.current() is ctx,
        (worker.number, worker.node),
    ]


def instance(ctx: Context) -> Any:
    return ctx.instance


def nominal_time(ctx: Context = INJECTED) -> list[Any]:
    return [ctx.schedule, None if ctx.nominal_at is None else ctx.nominal_at.isoformat()]


def report(ctx: Context) -> datetime | None:
    ctx.progress(0.25, "a quarter")
    logger.info("info %s", "line", extra={"colour": "red"})
    logger.debug("debug line")
    ctx.progress(0.5)
    return ctx.deadline


def reports_too_much(ctx: Context) -> str:
    ctx.progress(1.0002)
    ctx.progress(1.5)
    return "done"


def exits(how: str) -> None:
    if how == "exit":
        sys.exit(5)
    if how == "os._exit":
        os._exit(3)
    if how == "segfault":
        ctypes.string_at(0)
    os.kill(os.getpid(), getattr(signal, how))


def raises(what: str) -> None:
    errors: dict[str, BaseException] = {
        "value": ValueError("bad", 5),
        "own": OwnError(7),
        "local": type("LocalError", (Exception,), {})("not importable"),
        "retry": Retry(after=5, reason="later"),
        "fail": Fail("never"),
        "interrupt": KeyboardInterrupt(),
        "group": ExceptionGroup("several", [ValueError("a")]),
        "unprintable": UnprintableError(),
        "cancelled": asyncio.CancelledError(),
        "recursion": RecursionError(),
        "stop": StopIteration(1),
    }
    raise errors[what]


class OwnError(Exception):
    def __init__(self, code: int) -> None:
        self.code = code
        super().__init__(f"code {code}")


class UnprintableError(Exception):
    def __str__(self) -> str:
        raise RuntimeError


def snoozes(ctx: Context) -> None:
    ctx.snooze("5s")


def unstorable() -> Any:
    return threading.Lock()


def secret() -> Any:
    return [Secret("hunter2")]


def large(size: int) -> bytes:
    return bytes(size)


def sleeps(started: str, ctx: Context) -> None:
    """Report the pid, then sleep without a look at the context."""
    tell_pid(started)
    while True:
        time.sleep(60)


def holds_the_interpreter(started: str) -> None:
    """Report the pid, then call a C function that never releases the GIL."""
    c, pid, file = ctypes.PyDLL(None), str(os.getpid()).encode(), os.open(started, os.O_CREAT | os.O_WRONLY)
    sys.setswitchinterval(1_000)
    c.write(file, pid, len(pid))
    c.sleep(600)


def with_children(started: str) -> None:
    """A process that starts another one and waits, as many tools do."""
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    Path(started).write_text(f"{os.getpid()} {child.pid}")
    child.wait()


def forks(started: str) -> None:
    """A fork that outlives its parent, which dies."""
    forked = os.fork()
    if forked == 0:
        time.sleep(600)
        os._exit(0)
    Path(started).write_text(f"{os.getpid()} {forked}")
    os.kill(os.getpid(), signal.SIGKILL)


def tell_pid(path: str) -> None:
    Path(path).write_text(str(os.getpid()))


def heeds(started: str, ctx: Context) -> str:
    tell_pid(started)
    ctx.wait(60)
    return f"ended by {ctx.reason}"


async def heeds_later(started: str, ctx: Context) -> str:
    tell_pid(started)
    try:
        await asyncio.sleep(60)
    except asyncio.CancelledError:
        return f"ended by {ctx.reason}"
    return "not ended"


async def asks_owner(ctx: Context) -> None:
    await ctx.assert_owner()


async def throttles(limit: str, ctx: Context) -> None:
    await ctx.throttle(limit, "30s")


async def gives_up_asking(ctx: Context) -> str:
    """Cancels its question before the answer comes, and asks again."""
    task = asyncio.create_task(ctx.assert_owner())
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])
    await ctx.assert_owner()
    return "cancelled" if task.cancelled() else "answered"


MAX_FILES = 4096
"""What this process has open has the numbers that it had in its node, which may have many more files open."""


def writes_nonsense() -> None:
    """Into every connection that it has, as a stray library might."""
    for number in range(3, MAX_FILES):
        try:
            os.write(number, b"\xff" * 100)
        except OSError:
            continue
    time.sleep(60)


def closes_everything() -> None:
    os.closerange(3, MAX_FILES)


def prints(text: str) -> None:
    print(text)


ENDINGS: dict[str, BaseException | None] = {
    "return": None,
    "finished": None,
    "exception": ConnectionError("the driver was interrupted"),
    "group": ExceptionGroup("several", [ExceptionGroup("inner", [ConnectionError("interrupted")])]),
    "cancelled": asyncio.CancelledError(),
    "fail": Fail("never again"),
    "retry": Retry(after=120),
    "snooze": Snooze(180),
}
"""Ways in which a body may end, by name, and what it raises."""


def ends(way: str) -> str:
    error = ENDINGS[way]
    if error is not None:
        raise error
    return Finished("all of it") if way == "finished" else "part of it"


def ends_when_cancelled(started: str, way: str, ctx: Context) -> str:
    tell_pid(started)
    ctx.wait(600)
    return ends(way)


variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="none")


def leaves_a_variable() -> tuple[int, str]:
    seen = variable.get()
    variable.set("another job's")
    return os.getpid(), seen


async def leaves_one() -> tuple[int, str]:
    return leaves_a_variable()


def raises_group(way: str) -> None:
    error = ENDINGS[way]
    assert isinstance(error, Exception)
    raise ExceptionGroup("outer", [ExceptionGroup("inner", [error])])


def leaves_a_thread(go: str, said: str, ctx: Context) -> int:
    """Leaves a thread behind, which asks and speaks once the file `go` is there, after this body has ended."""

    def speak() -> None:
        while not Path(go).exists():
            time.sleep(0.005)
        try:
            asyncio.run(ctx.assert_owner())
        except OwnershipLost:
            answer = "lost"
        else:
            answer = "held"
        ctx.progress(0.5, "late")
        # as if the body had ended while the line was on its way
        ctx._backend._send(Line(20, "late", None))  # type: ignore[union-attr]
        Path(said).write_text(answer)

    threading.Thread(target=speak, daemon=True).start()
    return os.getpid()


def time_and_deadline(context: Context = INJECTED) -> list[datetime]:
    assert context.deadline is not None
    return [context.now(), context.deadline]
