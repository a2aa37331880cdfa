"""Programs that end without a stop of their node. Prints `claimed ID` when its job runs, and `ends TIME` at its end."""

import asyncio
import contextlib
import multiprocessing
import os
import signal
import sys
import threading
import time
from typing import Any

import peerjob.node.node
from peerjob import INJECTED, Context, Job, Node, State

GRACE = 0.5
"""Seconds that bodies get here; the tests would wait for the default each time."""


async def nothing() -> None:
    pass


async def in_loop() -> None:
    await asyncio.sleep(60)


async def in_default_executor() -> None:
    await asyncio.to_thread(time.sleep, 60)


def in_thread(ctx: Context = INJECTED) -> None:
    if ctx.wait(60):
        ctx.raise_if_cancelled()


async def stubborn(*_: Any) -> None:
    while True:
        with contextlib.suppress(BaseException):  # as a bare `except:` in a loop that tries again
            await asyncio.sleep(60)


def deaf() -> None:
    time.sleep(60)


JOBS = [
    Job("nothing", nothing),
    Job("loop", in_loop),
    Job("executor", in_default_executor),
    Job("thread", in_thread),
    Job("deaf", deaf),
    Job("stubborn", stubborn),
    Job("told", nothing, on_complete=stubborn),
    Job("process", deaf, run_in="process"),
]


def make_node(url: str, namespace: str) -> Node:
    return Node(url, jobs=JOBS, namespace=namespace, name="leaver", workers=3)


def ends(how: str) -> None:
    print(f"ends {time.time()}", flush=True)
    match how:
        case "error":
            raise ZeroDivisionError("of the program")
        case "exit":
            sys.exit(3)
        case "interrupt":
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(60)
        case _:
            pass


# -- with the blocking facade


def use(manager: Any, kind: str, how: str) -> None:
    instance = manager.schedule(kind)
    if kind == "nothing":
        instance.wait(timeout=30)
    else:
        while instance.refresh().state is not State.PROCESSING:
            time.sleep(0.02)
    print(f"claimed {instance.id}", flush=True)
    ends(how)


def facade(url: str, namespace: str, kind: str, how: str) -> None:
    use(make_node(url, namespace).blocking(), kind, how)


def facade_in_thread(url: str, namespace: str, kind: str, how: str) -> None:
    """The main thread ends first, and the other one goes on to use the node."""
    manager = make_node(url, namespace).blocking()
    manager.start()

    def late() -> None:
        threading.main_thread().join()
        use(manager, kind, how)

    threading.Thread(target=late).start()


def facade_in_fork(url: str, namespace: str, kind: str, how: str) -> None:
    """The parent has a started node, too, and the child is one of multiprocessing."""
    manager = make_node(url, namespace).blocking()
    manager.start()
    manager.close()
    child = multiprocessing.get_context("fork").Process(
        target=use, args=(make_node(url, namespace).blocking(), kind, how)
    )
    child.start()
    child.join()


# -- with a bare node


async def start(url: str, namespace: str, kind: str) -> Node:
    node = make_node(url, namespace)
    await node.start()
    instance = await node.schedule(kind)
    if kind in ("nothing", "told"):
        await instance.wait(timeout=30)
    else:
        while (await instance.refresh()).state is not State.PROCESSING:  # noqa: ASYNC110  # the store alone knows
            await asyncio.sleep(0.02)
    print(f"claimed {instance.id}", flush=True)
    return node


def bare(url: str, namespace: str, kind: str, how: str) -> None:
    async def main() -> None:
        await start(url, namespace, kind)
        ends("" if how == "interrupt" else how)
        if how == "interrupt":
            os.kill(os.getpid(), signal.SIGINT)
            await asyncio.sleep(60)

    asyncio.run(main())


def managed(url: str, namespace: str, kind: str, how: str) -> None:
    """A second Ctrl-C interrupts the stop, which the first one began."""

    def interrupt() -> None:
        os.kill(os.getpid(), signal.SIGINT)

    async def main() -> None:
        node = await start(url, namespace, kind)
        try:
            ends("")
            interrupt()
            await asyncio.sleep(60)
        finally:
            asyncio.get_running_loop().call_later(GRACE / 5, interrupt)
            await node.stop(GRACE)

    asyncio.run(main())


def stopped(url: str, namespace: str, kind: str, how: str) -> None:
    """The node is stopped, and `asyncio.run` ends the loop."""

    async def main() -> None:
        await (await start(url, namespace, kind)).stop(0)
        ends(how)

    asyncio.run(main())


def open_loop(url: str, namespace: str, kind: str, how: str) -> None:
    asyncio.new_event_loop().run_until_complete(start(url, namespace, kind))
    ends(how)


def closed_loop(url: str, namespace: str, kind: str, how: str) -> None:
    loop = asyncio.new_event_loop()
    loop.run_until_complete(start(url, namespace, kind))
    loop.close()
    ends(how)


def loop_in_thread(url: str, namespace: str, kind: str, how: str) -> None:
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, daemon=True).start()
    asyncio.run_coroutine_threadsafe(start(url, namespace, kind), loop).result()
    ends(how)


if __name__ == "__main__":
    peerjob.node.node.GRACE = GRACE
    globals()[sys.argv[1]](*sys.argv[2:])
