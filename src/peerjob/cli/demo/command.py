"""The command `jobd demo`: makes a demo of its options, runs it until its end or a signal, and prints the result."""

from __future__ import annotations

import asyncio
import json
import logging
import signal
import sys
from collections.abc import Callable
from contextlib import ExitStack
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from rich.console import Console

from peerjob import Node, OptionError, PeerjobError, StoreUnavailableError, SystemClock
from peerjob.cli import event_loop

from .course import Demo
from .processes import DemoError
from .view import DemoView

if TYPE_CHECKING:
    from peerjob.cli.web_server import WebServer


def run(
    store: str | None,
    nodes: int | None,
    *,
    kill: bool,
    workers: int,
    files: int | None,
    namespace: str | None,
    web: bool,
    as_json: bool,
) -> int:
    """Run a demo with the options of the command; raises OptionError."""
    clock = SystemClock()
    in_process = store is not None and store.startswith("memory://")
    if in_process and nodes is not None and nodes > 1:
        raise OptionError("--nodes", nodes, "1 with memory://, which no other process can see")
    nodes = nodes or (1 if in_process else 3)
    with ExitStack() as stack:
        if store == "sqlite":
            store = f"sqlite://{stack.enter_context(TemporaryDirectory(prefix='peerjob-demo-'))}/demo.db"
        demo = Demo(
            store=store,
            in_process=in_process,
            nodes=nodes,
            kill=kill and nodes > 1,
            workers=workers,
            namespace=f"demo-{clock.random.getrandbits(32):08x}" if namespace is None else namespace,
            files=files,
            dashboard=_dashboard() if web else None,
            clock=clock,
            view=DemoView(Console(quiet=as_json, highlight=False, markup=False), clock),
        )
        # this node is created only to refuse options that no node accepts, before the demo starts
        demo.own_node("memory://" if store is None else store)
        return run_demo(demo, as_json=as_json)


def _dashboard() -> Callable[[Node], WebServer]:
    """The dashboard of the demo. Its modules are loaded here, since a long import would block a node."""
    from peerjob.cli.web_server import WebServer

    return lambda node: WebServer(node, "127.0.0.1:0")


def run_demo(demo: Demo, *, as_json: bool) -> int:
    """Run the demo; the exit status: 0, 1 for an error or a failed check, 128 + a signal."""
    logging.getLogger().addHandler(demo.view)
    try:
        result = event_loop.run(_run(demo))
    except asyncio.CancelledError as interrupted:
        return 128 + int(interrupted.args[0])
    except (DemoError, PeerjobError) as error:
        hint = " (start it, or leave --store out)" if isinstance(error, StoreUnavailableError) else ""
        print(f"jobd: {error}{hint}", file=sys.stderr)
        return 1
    if as_json:
        print(json.dumps(result))
    return 0 if result["passed"] else 1


async def _run(demo: Demo) -> dict[str, Any]:
    """Run the demo to its end. A signal cancels the demo with a CancelledError that holds the number of the signal."""
    running, signals = asyncio.create_task(demo.run()), list[int]()

    def stop(number: int) -> None:
        signals.append(number)
        running.cancel()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        # a signal that the process ignores stays ignored, such as SIGHUP under nohup
        if signal.getsignal(number) is not signal.SIG_IGN:
            asyncio.get_running_loop().add_signal_handler(number, stop, number)
    try:
        return await running
    except asyncio.CancelledError:
        # not all that the demo awaits keeps the message of a cancel
        raise asyncio.CancelledError(*signals[:1]) from None
