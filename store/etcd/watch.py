"""A watch of one or several prefixes."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Sequence
from typing import Any

from peerjob.model.child_tasks import AsyncClosing, cancel
from peerjob.model.errors import PeerjobError
from peerjob.store.kv.format.keys import prefix_end

from .api import aio, etcd
from .client import EtcdClient

_LOGGER = logging.getLogger("peerjob.store")
_FIRST_WAIT, _MAX_WAIT = 0.05, 1.0
_LEADER = (("hasleader", "true"),)
"""Metadata that make etcd end the stream when the member loses its majority. Without the metadata, the stream would
stay open and silent."""


class EtcdWatch:
    """Keys that were put below some prefixes, or deleted below others (`ends`).

    The keys come from a stream, which is opened again when it ends.
    """

    def __init__(self, client: EtcdClient, prefixes: Sequence[str], ends: Sequence[str] = ()) -> None:
        self._client = client
        self._prefixes = prefixes
        self._ends = ends
        self._put: dict[str, bytes] = {}
        self._missed = False
        self._arrived = asyncio.Event()
        self._from = client.revision + 1
        """The first revision that the stream must report: the caller reads earlier revisions itself. 0: the revision is
        unknown."""
        self._task = client.start(self._run(), name=f"watch of {', '.join(prefixes)}")
        client.on_move.add(self._restart)

    async def changed(self, timeout: float) -> dict[str, bytes] | None:
        if not self._arrived.is_set() and timeout > 0:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(timeout):
                    await self._arrived.wait()
        self._arrived.clear()
        put, missed = self._put, self._missed
        self._put, self._missed = {}, False
        return None if missed else put

    def wake(self) -> None:
        self._arrived.set()

    def close(self) -> None:
        self._client.on_move.discard(self._restart)
        cancel(self._task)

    def _restart(self) -> None:
        cancel(self._task)
        self._from = 0
        self._task = self._client.start(self._run(), name=self._task.get_name())

    async def _run(self) -> None:
        wait = _FIRST_WAIT
        while True:
            client = self._client
            endpoint, metadata = client.endpoint, client.metadata
            try:
                async with AsyncClosing(endpoint.watch(self._requests(), metadata=(*metadata, *_LEADER))) as replies:
                    async for reply in replies:
                        if reply.canceled or self._is_ahead(reply):
                            break
                        wait = _FIRST_WAIT
                        self._take(reply)
                if client.address.username:
                    # An expired token can have ended the stream, so get a new token before the stream is opened again.
                    await client.renew_token(metadata)
            except aio.AioRpcError as error:
                client.failed(endpoint, error)
            except PeerjobError as error:
                _LOGGER.debug("no new token for %s: %s", self._task.get_name(), error)
            self._from = 0
            await asyncio.sleep(wait)
            wait = min(2 * wait, _MAX_WAIT)

    def _requests(self) -> list[Any]:
        creates = [
            etcd.WatchCreateRequest(
                key=prefix.encode(),
                range_end=prefix_end(prefix).encode(),
                start_revision=self._from,
                filters=[unwanted],
            )
            for prefixes, unwanted in (
                (self._prefixes, etcd.WatchCreateRequest.NODELETE),
                (self._ends, etcd.WatchCreateRequest.NOPUT),
            )
            for prefix in prefixes
        ]
        return [etcd.WatchRequest(create_request=create) for create in creates]

    def _is_ahead(self, reply: Any) -> bool:
        """Return whether the server lost its latest revisions, as after a restore.

        Until the revisions catch up, the stream would be silent.
        """
        return bool(reply.created) and reply.header.revision + 1 < self._from

    def _take(self, reply: Any) -> None:
        if reply.created and not self._from:
            # The stream began at an unknown revision, so puts between the last stream and the new one are lost.
            self._missed = True
        for event in reply.events:
            self._put[event.kv.key.decode()] = event.kv.value
        if self._missed or self._put:
            self._arrived.set()
