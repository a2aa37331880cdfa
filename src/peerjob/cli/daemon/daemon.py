"""Runs a node and what serves it, and minds signals."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import sys
from collections.abc import Generator

from peerjob import Node, OptionError, PeerjobError, SystemClock
from peerjob.cli.event_loop import loop_factory

from .config_checks import exposed_files
from .logs import configure
from .modules import JobModules
from .settings import DaemonSettings
from .tokens import TokensFile

SERVER_GRACE = 5.0
"""Most seconds for calls that are under way when the daemon stops; waits and streams are ended at once."""
STOPPING = (signal.SIGTERM, signal.SIGINT)
SIGNALS = (*STOPPING, signal.SIGHUP, signal.SIGUSR1)

logger = logging.getLogger("peerjob.daemon")


def run(settings: DaemonSettings) -> int:
    """Run a daemon until it is asked to stop; the exit status. Raises PeerjobError when it cannot run."""
    sys.path.insert(0, str(settings.app_dir.resolve()))
    daemon = Daemon(settings)
    configure(settings.log_format, settings.log_level.value, daemon.node.name)
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        return runner.run(daemon.run())


class Daemon:
    """A node as a process of its own. Raises OptionError for what cannot be run."""

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
        """Run until SIGTERM or SIGINT, then let running jobs end; a second one cuts that short.

        The exit status: 0 after an orderly end, 128 and the signal's number after one that was cut short. SIGHUP
        reloads the job modules and the tokens, and SIGUSR1 drains the node.
        """
        with _received(SIGNALS) as signals:
            try:
                if self._server is not None:
                    for text in exposed_files(self._settings):
                        logger.warning("%s", text)
                # before the node claims anything, since a port may be taken
                if self._metrics is not None:
                    await self._metrics.start()
                if self._server is not None:
                    await self._server.start()
                if self._scaler is not None:
                    await self._scaler.start()
                await self.node.start()
                logger.info(
                    "ready to run %s", ", ".join(job.kind for job in self.node.jobs()) or "nothing, as asked for"
                )
                number = await self._until_asked(signals)
            except BaseException:
                await self._leave(0)
                raise
            logger.info(
                "%s: running jobs have %g s to end; a second signal cuts that short",
                number.name,
                self._settings.grace_seconds,
            )
            return await self._stop(signals)

    async def _until_asked(self, signals: asyncio.Queue[signal.Signals]) -> signal.Signals:
        while (number := await signals.get()) not in STOPPING:
            if number is signal.SIGHUP:
                self._reload()
            elif self._draining is None:
                self._draining = asyncio.get_running_loop().create_task(self._drain())
        return number

    async def _drain(self) -> None:
        logger.info("SIGUSR1: nothing more is claimed; running jobs go on to their end")
        await self.node.drain()
        logger.info("drained: nothing runs here")

    def _reload(self) -> None:
        # apart, so that a module that cannot be imported keeps nobody's token alive
        try:
            self._modules.reload(self.node)
        except PeerjobError as error:
            logger.error("the job modules stay as they were: %s", error)  # noqa: TRY400  # the text tells where
        if self._tokens is None:
            return
        try:
            self._tokens.reload()
        except PeerjobError as error:
            logger.error("the tokens stay as they were: %s", error)  # noqa: TRY400  # the text tells where
        else:
            logger.info("the tokens are read again: %d", len(self._tokens))

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
                with contextlib.suppress(asyncio.CancelledError):  # when it was cut short
                    leaving.result()
                return status
            if status == 0 and (number := asking.result()) in STOPPING:
                logger.warning("%s again: running jobs are cancelled and handed back", number.name)
                status = 128 + number
                leaving.cancel()

    async def _leave(self, grace: float) -> None:
        # callers go elsewhere at once, and the metrics and probes answer until the end
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
    """The signals that come, one after the other, instead of what they do by themselves."""
    loop = asyncio.get_running_loop()
    received: asyncio.Queue[signal.Signals] = asyncio.Queue()
    for number in numbers:
        loop.add_signal_handler(number, received.put_nowait, number)
    try:
        yield received
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)
