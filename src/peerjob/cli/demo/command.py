"""Runs the demo as a command: chooses the view, minds signals, and turns errors into one line and a status."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import sys
from collections.abc import Generator

from rich.console import Console

from peerjob import PeerjobError, StoreUnavailableError, SystemClock
from peerjob.cli.event_loop import loop_factory

from .children import DemoError
from .conductor import Demo, DemoSettings
from .report import Report
from .view import DemoView, LineView, LiveView, SilentView

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupted(Exception):
    """A signal asked the demo to end."""

    def __init__(self, number: int) -> None:
        self.number = number
        super().__init__(f"ended by {signal.Signals(number).name}")


def run(settings: DemoSettings, *, as_json: bool) -> int:
    """Run the demo and print what came out; the exit status: 0, 1 for an error or a broken check, 128 + a signal."""
    console = Console(highlight=False, markup=False)
    try:
        with asyncio.Runner(loop_factory=loop_factory()) as runner:
            report = runner.run(_run(settings, _view(settings, console, as_json)))
    except Interrupted as interrupted:
        return 128 + interrupted.number
    except (DemoError, PeerjobError) as error:
        hint = " (start it, or leave --store out)" if isinstance(error, StoreUnavailableError) else ""
        print(f"jobd: {error}{hint}", file=sys.stderr)
        return 1
    if as_json:
        print(report.to_json())
    else:
        report.print(console)
    return 0 if report.passed else 1


def _view(settings: DemoSettings, console: Console, as_json: bool) -> DemoView:
    if as_json:
        return SilentView()
    if console.is_terminal and not console.is_dumb_terminal:
        store = "an embedded server" if settings.store is None else settings.store.partition("://")[0]
        return LiveView(console, f"peerjob demo on {store}, namespace {settings.namespace}")
    return LineView(console)


async def _run(settings: DemoSettings, view: DemoView) -> Report:
    demo = Demo(settings, view, SystemClock())
    loop = asyncio.get_running_loop()
    task = asyncio.current_task()
    assert task is not None
    received: list[int] = []

    def on_signal(number: int) -> None:
        # a second one cuts the tidying short; children are ended all the same
        received.append(number)
        task.cancel()

    # what is ignored stays so: that is how nohup works
    minded = [number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
    for number in minded:
        loop.add_signal_handler(number, on_signal, number)
    try:
        with view, _warnings_told_to(demo):
            return await demo.run()
    except asyncio.CancelledError:
        if received:
            raise Interrupted(received[0]) from None
        raise
    finally:
        for number in minded:
            loop.remove_signal_handler(number)


class _Teller(logging.Handler):
    """Hands warnings of this process to the demo: printed, they would tear the live picture."""

    def __init__(self, demo: Demo) -> None:
        super().__init__(logging.WARNING)
        self._demo = demo

    def emit(self, record: logging.LogRecord) -> None:
        self._demo.warn(record.getMessage())


@contextlib.contextmanager
def _warnings_told_to(demo: Demo) -> Generator[None]:
    teller = _Teller(demo)
    logging.getLogger().addHandler(teller)
    try:
        yield
    finally:
        logging.getLogger().removeHandler(teller)
