"""A watch of one prefix."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

from .etcd_api import aio, etcd
from .etcd_client import EtcdClient
from .keys import prefix_end

_FIRST_WAIT, _LONGEST_WAIT = 0.05, 1.0
_LEADER = (("hasleader", "true"),)
"""Ends the stream when the member loses the others, and would be silent."""


class EtcdWatch:
    """Keys that were put below a prefix, read from a stream of its own, which is opened again when it breaks."""

    def __init__(self, client: EtcdClient, prefix: str) -> None:
        self._client = client
        self._prefix = prefix
        self._keys: dict[str, None] = {}
        self._missed = False
        self._news = asyncio.Event()
        self._from = client.revision + 1
        """Where the first stream begins: whoever reads after us has seen what was before."""
        self._task = asyncio.create_task(self._run(), name=f"watch of {prefix}")
        client.on_move.add(self._again)

    async def changed(self, timeout: float) -> list[str] | None:
        if not self._news.is_set() and timeout > 0:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(timeout):
                    await self._news.wait()
        self._news.clear()
        keys, missed = list(self._keys), self._missed
        self._keys.clear()
        self._missed = False
        return None if missed else keys

    def close(self) -> None:
        self._client.on_move.discard(self._again)
        self._task.cancel()

    def _again(self) -> None:
        self._task.cancel()
        self._task = asyncio.create_task(self._run(), name=self._task.get_name())

    async def _run(self) -> None:
        wait = _FIRST_WAIT
        while True:
            endpoint = self._client.endpoint
            stream = endpoint.watch(metadata=(*self._client.metadata, *_LEADER))
            try:
                await stream.write(self._request())
                while (reply := await stream.read()) is not aio.EOF:
                    if reply.canceled:
                        break
                    wait = _FIRST_WAIT
                    self._take(reply)
            except aio.AioRpcError as error:
                self._client.failed(endpoint, error)
            finally:
                stream.cancel()
            self._from = 0
            await asyncio.sleep(wait)
            wait = min(2 * wait, _LONGEST_WAIT)

    def _request(self) -> Any:
        create = etcd.WatchCreateRequest(
            key=self._prefix.encode(),
            range_end=prefix_end(self._prefix).encode(),
            start_revision=self._from,
            filters=[etcd.WatchCreateRequest.NODELETE],
        )
        return etcd.WatchRequest(create_request=create)

    def _take(self, reply: Any) -> None:
        if reply.created:
            if self._from:
                return
            # what was put between the streams is lost
            self._missed = True
        for event in reply.events:
            self._keys[event.kv.key.decode()] = None
        if self._missed or self._keys:
            self._news.set()
