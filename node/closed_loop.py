"""Releases a node whose event loop was closed without a stop."""

from __future__ import annotations

import asyncio
import logging

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
    try:
        async with asyncio.timeout(LEAVE_LIMIT):
            await store.leave(runtime.incarnation)
    except Exception as error:  # noqa: BLE001  # not retried: if the node cannot leave, the lease expires
        logger.debug("node %r could not leave: %r", name, error)
    try:
        async with asyncio.timeout(LEAVE_LIMIT):
            await store.close()
    except Exception as error:  # noqa: BLE001  # what belongs to the closed loop cannot be closed
        logger.debug("node %r could not close each connection: %r", name, error)
