"""A program that closes event loops at many moments of a node, and destroys the coroutines of their tasks.

Arguments: the URL of a store, in which FILE stands for a new file; a namespace; the first and the last moment, and the
step between two. A moment is a number of calls of `select`. Python destroys the coroutines of a closed event loop in
any order, also while another loop runs. The program prints how they then use their event loop, and their errors; it
then ends with 2.
"""

import asyncio
import functools
import gc
import logging
import random
import selectors
import sys
import threading
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

from sqlalchemy import Engine, create_engine
from starlette.requests import Request

from peerjob import INJECTED, Context, Instance, Job, Node, Role
from peerjob.sql import Outbox, OutboxRelay
from peerjob.web import dashboard

FOREIGN = (
    "create_connection",
    "create_unix_connection",
    "_create_connection_transport",
    "disconnect",
    "_wake_up_first",
)
"""Functions of asyncio and redis-py that close a connection or release a lock when Python destroys them."""
PATIENCE = 30
FOUND = 2
found: Counter[str] = Counter()


def note(what: str, stack: Sequence[traceback.FrameSummary]) -> None:
    if not any(frame.name in FOREIGN and "peerjob" not in frame.filename for frame in stack):
        places = [f"{Path(frame.filename).name}:{frame.lineno} {frame.name}" for frame in stack[-5:]]
        found[f"{what}: {' > '.join(places)}"] += 1


def on_unraisable(args: Any) -> None:
    name = getattr(args.object, "__qualname__", args.object)
    note(f"{args.exc_value!r} in {name}", traceback.extract_tb(args.exc_value.__traceback__))


class Selector(selectors.DefaultSelector):
    """Stops its event loop at a moment."""

    def __init__(self, moment: int) -> None:
        super().__init__()
        self._left = moment
        self.loop: Loop | None = None

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        self._left -= 1
        if self._left == 0 and self.loop is not None:
            self.loop.stop()
            timeout = 0
        return super().select(timeout)


class Loop(asyncio.SelectorEventLoop):
    """Notes what uses it after its end. Threads cannot know of the end, and use it in their calls."""

    def __init__(self, moment: int) -> None:
        selector = Selector(moment)
        super().__init__(selector)
        selector.loop = self
        self.set_exception_handler(lambda _loop, _context: None)  # asyncio tells each lost task

    def close(self) -> None:
        super().close()
        for name in ("call_soon", "call_at", "create_task"):
            setattr(self, name, functools.partial(self._used, getattr(self, name)))

    def _used(self, call: Callable[..., Any], *args: Any, **options: Any) -> Any:
        if threading.current_thread() is threading.main_thread():
            note("the closed loop is used", traceback.extract_stack()[:-1])
        return call(*args, **options)


# -- what the node does ------------------------------------------------------------------------------------------------


async def double(number: int) -> int:
    return 2 * number


def threaded(number: int) -> int:
    return 2 * number


async def pause() -> None:
    await asyncio.sleep(0.01)


async def hang() -> None:
    await asyncio.Event().wait()


async def told(_: Instance[Any], __: Any) -> None:
    await pause()


async def logs() -> None:
    for number in range(10):
        logging.getLogger("body").info("line %d", number)
        await asyncio.sleep(0.003)


async def stepped(context: Context = INJECTED) -> None:
    await context.step("first", double, 1)
    await asyncio.gather(*(context.step(f"step {number}", pause) for number in range(3)))


DOUBLE = Job("double", double)
JOBS = [
    DOUBLE,
    Job("threaded", threaded),
    Job("hang", hang),
    Job("logs", logs),
    Job("stepped", stepped),
    Job("told", double, on_complete=told),
]


async def allow(_: Request) -> Role:
    return Role.ADMIN


async def view(app: Any, path: str) -> None:
    """Read a page or a live view of the dashboard."""
    requests: list[dict[str, Any]] = [{"type": "http.request", "body": b"", "more_body": False}]

    async def receive() -> dict[str, Any]:
        if not requests:
            await asyncio.Event().wait()
        return requests.pop()

    async def send(_: dict[str, Any]) -> None: ...

    scope = {
        "type": "http",
        "method": "GET",
        "path": path,
        "raw_path": path.encode(),
        "root_path": "",
        "scheme": "http",
    }
    where = {
        "scheme": "http",
        "http_version": "1.1",
        "client": ("127.0.0.1", 1),
        "server": ("localhost", 80),
        "query_string": b"",
    }
    await app({**scope, **where, "asgi": {"version": "3.0"}, "headers": [(b"host", b"localhost")]}, receive, send)


async def watch(instance: Instance[Any]) -> None:
    async for _ in instance.watch():
        pass


async def use(node: Node) -> None:
    """Start the node, use it in many ways at a time, and stop it."""
    await node.start()
    hanging = await node.schedule("hang")
    stepping, logging_ = await node.schedule("stepped"), await node.schedule("logs")
    work: list[Coroutine[Any, Any, Any]] = [
        *(node.schedule(kind, 1) for kind in ("told", "threaded", "double", "double")),
        node.schedule_many([DOUBLE.call(number) for number in range(20)]),
        *(watch(instance) for instance in (hanging, logging_)),
        *(hanging.wait(timeout=60), stepping.result(60), hanging.result()),
    ]
    app = dashboard(node, authorize=allow)
    paths = ("/", "/live", f"/instances/{logging_.id}", f"/instances/{hanging.id}/live")
    tasks = [asyncio.create_task(one) for one in (*work, *(view(app, path) for path in paths))]
    await asyncio.sleep(0.08)
    await hanging.cancel()
    await asyncio.sleep(0.03)
    await node.stop(0.05)
    del tasks


async def release(node: Node) -> None:
    await node.stop()


async def use_again(node: Node, tasks: list[Any]) -> None:
    """Start the node in another loop, and destroy the coroutines of the first one while this one runs."""
    await node.stop()
    await node.start()
    tasks.clear()
    gc.collect()
    assert await (await node.schedule(DOUBLE, 4)).result(PATIENCE) == 8
    await node.stop(0.05)  # a body can hang again


# -- one moment --------------------------------------------------------------------------------------------------------


def destroy(tasks: list[asyncio.Task[Any]], order: random.Random) -> None:
    """Destroy the coroutines of tasks in a random order."""
    order.shuffle(tasks)
    for task in tasks:
        coroutine = task.get_coro()
        name = getattr(coroutine, "__qualname__", "")
        try:
            cast(Any, coroutine).close()
        except BaseException as error:  # noqa: BLE001  # each error is a finding
            note(f"{error!r} in {name}", traceback.extract_tb(error.__traceback__))


def close_at(moment: int, url: str, namespace: str, engine: Engine) -> bool:
    """Close the loop at a moment, and destroy what it leaves; whether the node had ended by then."""
    node = Node(url, jobs=JOBS, namespace=f"{namespace}-{moment}", workers=4, lease_ttl=5, outbox=OutboxRelay(engine))
    loop = Loop(moment)
    gc.disable()
    using = loop.create_task(use(node))
    using.add_done_callback(lambda _: loop.stop())
    loop.run_forever()
    ended: bool = using.done()
    if ended:
        using.result()
    tasks: list[Any] = list(asyncio.all_tasks(loop))
    del using
    loop.close()
    if moment % 3:
        destroy(tasks, random.Random(moment))
        tasks.clear()
        gc.collect()
        asyncio.run(release(node))
    else:
        asyncio.run(use_again(node, tasks))
    gc.enable()
    return ended


def main(url: str, namespace: str, first: int, last: int, step: int) -> None:
    logging.disable(logging.ERROR)
    warnings.simplefilter("ignore")  # Python warns of each coroutine that was not awaited
    sys.unraisablehook = on_unraisable
    moments = 0
    with TemporaryDirectory() as folder:
        engine = create_engine(f"sqlite:///{folder}/outbox.db")
        with engine.begin() as connection:
            Outbox().create_table(connection)
        for moment in range(first, last, step):
            moments += 1
            if close_at(moment, url.replace("FILE", f"{folder}/{moment}.db"), namespace, engine):
                break
        engine.dispose()
    print(f"{moments} moments")
    for what, count in found.most_common():
        print(f"{count} times: {what}")
    sys.exit(FOUND if found else 0)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], *map(int, sys.argv[3:]))
