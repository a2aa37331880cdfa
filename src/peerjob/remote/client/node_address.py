"""One address of a client, and whether its node hangs."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextvars import Context
from typing import Any

import grpc

from peerjob.model.child_tasks import cancel
from peerjob.remote.wire.rpcs import GET_VERSION, Rpc

PROBE_SHARE = 0.4
"""The share of `max_silence` after which the client checks whether the node answers at all."""
AVOID_SECONDS = 30.0
"""Seconds for which the client prefers other nodes, after a node hung."""

Code = grpc.StatusCode
_NO_ANSWER = frozenset({Code.UNAVAILABLE, Code.DEADLINE_EXCEEDED, Code.CANCELLED})
"""Status codes that gRPC itself sets if the node did not answer. Every other code comes from the node."""
Metadata = Sequence[tuple[str, str]]


class SilentError(Exception):
    """The node hangs: it answers neither the call nor a call for its version."""


class NodeAddress:
    """Sends calls to one node. A cheap call for the version distinguishes a slow node from one that hangs."""

    def __init__(self, address: str, channel: Any, metadata: Metadata) -> None:
        self.address = address
        self.channel = channel
        self._metadata = tuple(metadata)
        self._last_answer = -float("inf")
        self._avoided_until = -float("inf")
        self._version_call: asyncio.Task[bool] | None = None

    @property
    def avoided(self) -> bool:
        """Whether the node hung recently."""
        return asyncio.get_running_loop().time() < self._avoided_until

    def avoid(self) -> None:
        """Prefer other nodes for a while."""
        self._avoided_until = asyncio.get_running_loop().time() + AVOID_SECONDS

    async def ask(
        self,
        rpc: Rpc[Any, Any],
        data: bytes,
        *,
        timeout: float,
        more: Metadata = (),
        max_silence: float | None = None,
        repeatable: bool = True,
    ) -> bytes:
        """The answer to one call; raises AioRpcError.

        With `max_silence`, raises SilentError for a node that hangs for so many seconds. A call that is not repeatable
        is checked before it is sent, and then waits until its timeout. A repeatable call is checked while it waits.
        """
        if max_silence is not None and not repeatable:
            if not await self.is_there(max_silence):
                raise SilentError
            max_silence = None
        call = self.channel.unary_unary(rpc.path)(data, timeout=timeout, metadata=(*self._metadata, *more))
        try:
            answer: bytes = await (call if max_silence is None else self._watched(call, max_silence))
        except grpc.aio.AioRpcError as error:
            if error.code() not in _NO_ANSWER:
                self._remember_answer()
            raise
        self._remember_answer()
        return answer

    async def is_there(self, max_silence: float) -> bool:
        """Whether the node answers, or answered a moment ago. Concurrent checks share one call."""
        quiet = asyncio.get_running_loop().time() - self._last_answer
        if quiet < max_silence * PROBE_SHARE:
            return True
        if self._version_call is None or self._version_call.done():
            self._version_call = asyncio.get_running_loop().create_task(
                self._ask_version(max_silence * (1 - PROBE_SHARE)), context=Context()
            )
        return await asyncio.shield(self._version_call)

    async def _watched(self, call: Any, max_silence: float) -> bytes:
        asked: asyncio.Future[bytes] = asyncio.ensure_future(call)
        try:
            while not (await asyncio.wait({asked}, timeout=max_silence * PROBE_SHARE))[0]:
                if not await self.is_there(max_silence) and not asked.done():
                    raise SilentError
            return asked.result()
        finally:
            cancel(asked)

    async def _ask_version(self, within: float) -> bool:
        try:
            await self.ask(GET_VERSION, b"", timeout=within)
        except grpc.aio.AioRpcError as error:
            return error.code() not in _NO_ANSWER
        return True

    def _remember_answer(self) -> None:
        self._last_answer = asyncio.get_running_loop().time()
        self._avoided_until = -float("inf")
