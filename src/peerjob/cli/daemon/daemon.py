"""The daemon: a node with its servers, and its signals."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import sys
from collections.abc import Generator
from dataclasses import replace
from pathlib import Path

from peerjob import Node, NodeStateError, OptionError, PeerjobError, SystemClock
from peerjob.cli import event_loop

from .config_checks import exposed_files
from .logs import configure
from .modules import JobModules
from .open_files import connections_within, raise_limit
from .settings import DEFAULT_STORE, DaemonSettings
from .tokens import TokensFile

SERVER_GRACE = 5.0
"""Seconds that open calls get to end when the daemon stops. The daemon ends waits and streams immediately."""
STOPPING = (signal.SIGTERM, signal.SIGINT)
SIGNALS = (*STOPPING, signal.SIGHUP, signal.SIGUSR1)

logger = logging.getLogger("peerjob.daemon")


def run(settings: DaemonSettings) -> int:
    """Run a daemon until a signal stops it; the exit status. Raises PeerjobError if it cannot run."""
    sys.path.insert(0, str(settings.app_dir.resolve()))
    limit = raise_limit()
    settings = replace(settings, max_connections=connections_within(limit, settings.max_connections))
    daemon = Daemon(settings)
    configure(settings.log_format, settings.log_level.value, daemon.node.name)
    if settings.store == DEFAULT_STORE:
        logger.info("no other --store is given: the file %s keeps the jobs", Path("peerjob.db").absolute())
    return event_loop.run(daemon.run())


class Daemon:
    """A node as a process of its own. Raises OptionError for invalid settings."""

    def __init__(self, settings: DaemonSettings) -> None:
        if not settings.jobs and settings.workers:
            raise OptionError("MODULE", "none", "a module with jobs, such as app.jobs, or --workers 0")
        self._settings = settings
        self._modules = JobModules(settings.jobs)
        self.node: Node = settings.node(self._modules.load(), SystemClock())
        self._tokens = None if settings.tokens_file is None else TokensFile(settings.tokens_file)
        self._server = settings.server(self.node, self._tokens)
        self._metrics = settings.metrics(self.node)
        self._scaler = settings.scaler(self.node)
        self._draining: asyncio.Task[None] | None = None

    async def run(self) -> int:
        """Run until SIGTERM or SIGINT, then let running jobs end; a second signal cancels them.

        The exit status: 0 after an orderly end, 128 + n if a second signal n ended the stop early. SIGHUP reloads the
        job modules and the tokens, and SIGUSR1 drains the node.
        """
        with _received(SIGNALS) as signals:
            try:
                if self._server is not None:
                    for text in exposed_files(self._settings):
                        logger.warning("%s", text)
                # the servers start before the node claims jobs, so that a port in use ends the daemon before a job runs
                if self._metrics is not None:
                    await self._metrics.start()
                if self._server is not None:
                    await self._server.start()
                if self._scaler is not None:
                    await self._scaler.start()
                await self.node.start()
                logger.info(
                    "ready to run %s", ", ".join(job.kind for job in self.node.jobs()) or "nothing, as configured"
                )
                number = await self._until_asked(signals)
            except BaseException:
                await self._leave(0)
                raise
            logger.info(
                "%s: running jobs have %g s to end; a second signal cancels them",
                number.name,
                self._settings.grace_seconds,
            )
            return await self._stop(signals)

    async def _until_asked(self, signals: asyncio.Queue[signal.Signals]) -> signal.Signals:
        while (number := await signals.get()) not in STOPPING:
            if number is signal.SIGHUP:
                self._reload()
            elif self._draining is None or self._draining.done():
                self._draining = asyncio.get_running_loop().create_task(self._drain())
        return number

    async def _drain(self) -> None:
        logger.info("SIGUSR1: the node claims nothing more; running jobs continue to their end")
        try:
            await self.node.drain()
        except NodeStateError as error:
            logger.info("%s", error)
        else:
            logger.info("drained: nothing runs on this node")

    def _reload(self) -> None:
        # modules and tokens are reloaded separately, so that a bad module does not keep a withdrawn token valid
        try:
            self._modules.reload(self.node)
        except PeerjobError as error:
            # without a traceback, since the error names the bad line
            logger.error("the job modules stay as they were: %s", error)  # noqa: TRY400
        if self._tokens is None:
            return
        try:
            self._tokens.reload()
        except PeerjobError as error:
            # without a traceback, since the error names the bad line
            logger.error("the tokens stay as they were: %s", error)  # noqa: TRY400
        else:
            logger.info("reloaded the tokens: %d", len(self._tokens))

    async def _stop(self, signals: asyncio.Queue[signal.Signals]) -> int:
        loop = asyncio.get_running_loop()
        if self._draining is not None:
            self._draining.cancel()
        leaving = loop.create_task(self._leave(self._settings.grace_seconds))
        status = 0
        while True:
            asking = loop.create_task(signals.get())
            await asyncio.wait({leaving, asking}, return_when=asyncio.FIRST_COMPLETED)
            asking.cancel()
            if leaving.done():
                with contextlib.suppress(asyncio.CancelledError):  # a second signal has cancelled the task
                    leaving.result()
                return status
            if status == 0 and (number := asking.result()) in STOPPING:
                logger.warning("%s again: the node cancels running jobs and returns them to the queue", number.name)
                status = 128 + number
                leaving.cancel()

    async def _leave(self, grace: float) -> None:
        # the gRPC servers stop with the node, so that callers ask other nodes; metrics and probes answer until the end
        loop, patience = asyncio.get_running_loop(), min(grace, SERVER_GRACE)
        serving = [server for server in (self._server, self._scaler) if server is not None]
        stopping = [loop.create_task(server.stop(patience)) for server in serving]
        try:
            await self.node.stop(grace)
        finally:
            for one in stopping:
                await one
            if self._metrics is not None:
                await self._metrics.stop()


@contextlib.contextmanager
def _received(numbers: tuple[signal.Signals, ...]) -> Generator[asyncio.Queue[signal.Signals]]:
    """Put received signals into a queue, instead of their usual effects, until the `with` block ends."""
    loop = asyncio.get_running_loop()
    received: asyncio.Queue[signal.Signals] = asyncio.Queue()
    for number in numbers:
        loop.add_signal_handler(number, received.put_nowait, number)
    try:
        yield received
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)
