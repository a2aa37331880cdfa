"""Whether the node takes work: it is active, it drains, or it is drained. Also follows the instructions of others."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any

from peerjob.model.errors import NodeStateError, NodeStoppedError
from peerjob.model.limits import MAX_WORKERS
from peerjob.model.record import Instruction

from .claim_loop import ClaimLoop
from .in_flight import InFlight
from .pool import Pool
from .unsent_reports import Waker

logger = logging.getLogger("peerjob.node")

LAST_COMMIT = 5.0
"""Most seconds that a stopping or drained node waits for each of its last commits."""


class Intake:
    """Drains the node and lets it take work again, by calls on the node and by instructions of others."""

    def __init__(
        self,
        node: str,
        pool: Pool,
        claim_loop: ClaimLoop,
        in_flight: InFlight,
        waker: Waker,
        show: Callable[[], Coroutine[Any, Any, None]],
        resize: Callable[[int], None],
    ) -> None:
        self._node = node
        self._pool = pool
        self._claim_loop = claim_loop
        self._in_flight = in_flight
        self._waker = waker
        self._show = show
        self._resize = resize
        self._followed = ""
        """The request id of the latest instruction that the node followed."""
        self._draining: asyncio.Task[None] | None = None
        self._quiet: asyncio.Future[None] | None = None
        """Done when the node is drained, cancelled by `undrain` or `close`; None without a drain."""
        self._closed = False

    @property
    def state(self) -> str:
        """See `NodeInfo.intake`. A stopping node drains too."""
        if self._pool.accepting:
            return "active"
        return "drained" if self._quiet is not None and self._quiet.done() else "draining"

    def follow(self, instruction: Instruction | None) -> bool:
        """Follow an instruction, unless the node has followed it before; whether the caller must show the change.

        A drain shows its changes in the list of nodes itself.
        """
        if instruction is None or instruction.request == self._followed or self._closed:
            return False
        self._followed = instruction.request
        if instruction.workers > 0:
            logger.info("node %r is told to have %d worker(s)", self._node, instruction.workers)
            self._resize(min(instruction.workers, MAX_WORKERS))
            return True
        logger.info("node %r is told to %s", self._node, "drain" if instruction.drain else "take work again")
        if instruction.drain:
            self.drain()
            return False
        return self.undrain()

    def drain(self) -> None:
        """Claim nothing more, and hand back claims that have not started; idempotent."""
        if self._quiet is not None:
            return
        loop = asyncio.get_running_loop()
        self._pool.accepting = False
        self._waker.wake()  # the claim loop withdraws the claim that waits for a hint
        self._pool.empty_backlog("node drained")
        self._quiet = loop.create_future()
        self._draining = loop.create_task(
            self._drain(self._quiet), name="peerjob-drain", context=self._pool.context_vars.copy()
        )

    async def _drain(self, quiet: asyncio.Future[None]) -> None:
        showing = asyncio.get_running_loop().create_task(self._show())
        await self._pool.quiet(None)
        await self._in_flight.withdraw_hinted_claim(LAST_COMMIT)
        await self._claim_loop.flush(LAST_COMMIT)
        quiet.set_result(None)
        await showing
        await self._show()

    async def drained(self, timeout: float | None) -> None:
        """Wait until no body runs and the outcomes are committed; raises TimeoutError, and NodeStateError if undrained.

        When this call returns, the list of nodes shows the node as drained, if the store answers in time.
        """
        if self._quiet is None or self._draining is None:
            raise self._ended()
        quiet, draining = self._quiet, self._draining
        await asyncio.wait([quiet], timeout=timeout)
        if not quiet.done():
            raise TimeoutError(f"node {self._node!r}: {self._pool.running} body(ies) still run after {timeout} s")
        if quiet.cancelled():
            raise self._ended()
        await asyncio.wait([draining], timeout=LAST_COMMIT)

    def undrain(self) -> bool:
        """Take work again; False if the node did not drain. Raises NodeStoppedError for a stopping node."""
        if self._closed:
            raise self._ended()
        if self._quiet is None:
            return False
        self._end_drain()
        self._pool.accepting = True
        self._waker.hint()
        return True

    def _ended(self) -> NodeStateError:
        if self._closed:
            return NodeStoppedError(f"node {self._node!r} is stopping")
        return NodeStateError(f"node {self._node!r} takes work again: its drain has ended")

    def close(self) -> None:
        """End a drain, and refuse `undrain`: the node stops."""
        self._closed = True
        self._end_drain()

    def _end_drain(self) -> None:
        quiet, draining, self._quiet, self._draining = self._quiet, self._draining, None, None
        if quiet is not None and draining is not None:
            draining.cancel()
            quiet.cancel()
