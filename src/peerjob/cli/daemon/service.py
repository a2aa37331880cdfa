"""A node as a service: it runs beside its servers until a signal stops it."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import signal
from collections.abc import Callable, Generator, Sequence
from typing import Protocol

from peerjob import Node, NodeStateError
from peerjob.model.handled_signals import handled
from peerjob.model.listed import listed

SERVER_GRACE = 5.0
"""Seconds that open calls get to end when the service stops. The service ends waits and streams immediately."""
STOPPING = (signal.SIGTERM, signal.SIGINT)
SIGNALS = (*STOPPING, signal.SIGHUP, signal.SIGUSR1)

logger = logging.getLogger("peerjob.daemon")


def _leave_out_of_collections() -> None:
    """Let garbage collections pass over the objects of the program and its modules, which live until its end.

    Each full collection would look at all of them, which takes a tenth of the time of a node with short jobs.
    """
    gc.collect()
    gc.freeze()


class GracefulServer(Protocol):
    """A server of gRPC or of the dashboard: open calls have some seconds to end."""

    async def start(self) -> None: ...
    async def stop(self, grace: float, /) -> None: ...


class ProbeServer(Protocol):
    """The server of metrics and probes, which answers until the end."""

    async def start(self) -> object: ...
    async def stop(self) -> None: ...


class Service:
    """A node, its servers and its signals.

    `grace` is how many seconds running jobs may continue when the node stops. SIGHUP calls `reload`.
    """

    def __init__(
        self,
        node: Node,
        *,
        grace: float,
        reload: Callable[[], None],
        metrics: ProbeServer | None = None,
        servers: Sequence[GracefulServer] = (),
    ) -> None:
        self._node = node
        self._grace = grace
        self._reload = reload
        self._metrics = metrics
        self._servers = servers
        self._draining: asyncio.Task[None] | None = None

    async def run(self) -> int:
        """Run until SIGTERM or SIGINT, then let running jobs end; a second signal cancels them.

        The exit status: 0 after an orderly end, 128 + n if a second signal n ended the stop early. SIGUSR1 drains the
        node.
        """
        with _received(SIGNALS) as signals:
            try:
                # the servers start before the node claims jobs, so that a port in use ends the service before a job
                # runs
                if self._metrics is not None:
                    await self._metrics.start()
                for server in self._servers:
                    await server.start()
                _leave_out_of_collections()
                await self._node.start()
                kinds = (job.kind for job in self._node.jobs())
                logger.info("ready to run %s", listed(kinds, none="nothing, as configured"))
                number = await self._until_asked(signals)
            except BaseException:
                await self._leave(0)
                raise
            logger.info("%s: running jobs have %g s to end; a second signal cancels them", number.name, self._grace)
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
            await self._node.drain()
        except NodeStateError as error:
            logger.info("%s", error)
        else:
            logger.info("drained: nothing runs on this node")

    async def _stop(self, signals: asyncio.Queue[signal.Signals]) -> int:
        loop = asyncio.get_running_loop()
        if self._draining is not None:
            self._draining.cancel()
        leaving = loop.create_task(self._leave(self._grace))
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
        # these servers stop with the node, so that callers ask other nodes; metrics and probes answer until the end
        loop, patience = asyncio.get_running_loop(), min(grace, SERVER_GRACE)
        stopping = [loop.create_task(_stopped(server, patience)) for server in self._servers]
        try:
            await self._node.stop(grace)
        finally:
            for task in stopping:
                await task
            if self._metrics is not None:
                await self._metrics.stop()


async def _stopped(server: GracefulServer, patience: float) -> None:
    await server.stop(patience)


@contextlib.contextmanager
def _received(numbers: tuple[signal.Signals, ...]) -> Generator[asyncio.Queue[signal.Signals]]:
    """Put received signals into a queue, instead of their usual effects, until the `with` block ends."""
    received: asyncio.Queue[signal.Signals] = asyncio.Queue()
    with handled(numbers, lambda number: received.put_nowait(signal.Signals(number))):
        yield received
