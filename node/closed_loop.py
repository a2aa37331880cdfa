"""Releases a node whose event loop was closed without a stop."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from peerjob.model.errors import NodeStateError
from peerjob.store.base import Store

from .runtime import NodeRuntime

logger = logging.getLogger("peerjob.node")

LEAVE_LIMIT = 5.0
"""Most seconds to leave the cluster and close the store."""


async def release(runtime: NodeRuntime, store: Store, name: str) -> None:
    """Leave the cluster, and end threads, processes and connections, from another event loop.

    The tasks of the node ended with its event loop: outcomes that were not committed are lost, and the peers run those
    instances again.
    """
    logger.warning(
        "the event loop of node %r was closed without a stop: bodies and results that were not committed are lost, and "
        "the instances run again",
        name,
    )
    # the thread of the lease leaves the cluster over a connection of its own, unless the node was given a Store
    await runtime.lease.end_without_loop()
    runtime.capture.stop()
    runtime.executor.abandon()
    steps: dict[str, Callable[[], Awaitable[object]]] = {
        "leave": lambda: store.leave(runtime.incarnation),  # not retried: if the node cannot leave, the lease expires
        "close the connection of its election": runtime.election.disconnect,
        "close each connection": store.close,
    }
    for what, step in steps.items():
        try:
            async with asyncio.timeout(LEAVE_LIMIT):
                await step()
        except Exception as error:  # noqa: BLE001  # what belongs to the closed loop cannot be closed
            logger.debug("node %r could not %s: %r", name, what, error)


def task_of_this_loop(
    known: asyncio.Task[None] | None, work: Callable[[], Coroutine[Any, Any, None]], name: str
) -> asyncio.Task[None]:
    """Return the known task that releases the node, or a new one; raises NodeStateError for one of another loop.

    A task that ends does not wake an event loop of another thread, so a wait for it would not end.
    """
    loop = asyncio.get_running_loop()
    if known is None or known.get_loop().is_closed():
        return loop.create_task(work())
    if known.get_loop() is not loop:
        raise NodeStateError(f"a stop() in another event loop releases node {name!r} already: wait for that one")
    return known
