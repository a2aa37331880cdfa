"""One address of a client, and what is known of the node behind it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import grpc

from peerjob.remote.wire.rpcs import GET_VERSION, Rpc

SILENCE = 0.4
"""Which part of a caller's patience may pass without an answer, before the node is asked whether it is there."""
AVOIDED = 30.0
"""Seconds for which a node that hung is asked only when no other can be."""

Code = grpc.StatusCode
_UNHEARD = frozenset({Code.UNAVAILABLE, Code.DEADLINE_EXCEEDED, Code.CANCELLED})
"""What a call ends with though the node said nothing; whatever else it says, it says something."""
Metadata = Sequence[tuple[str, str]]


class SilentError(Exception):
    """The node kept a caller waiting, and did not even say that it is there."""


class NodeAddress:
    """Asks one node. A node that takes its time is told from one that hangs by a question that costs nothing."""

    def __init__(self, address: str, channel: Any, metadata: Metadata) -> None:
        self.address = address
        self.channel = channel
        self._metadata = tuple(metadata)
        self._heard = -float("inf")
        self._avoided_until = -float("inf")
        self._asking: asyncio.Task[bool] | None = None

    @property
    def avoided(self) -> bool:
        """Whether it hung lately."""
        return asyncio.get_running_loop().time() < self._avoided_until

    def avoid(self) -> None:
        """Rather ask others for a while."""
        self._avoided_until = asyncio.get_running_loop().time() + AVOIDED

    async def ask(
        self,
        rpc: Rpc[Any, Any],
        data: bytes,
        *,
        timeout: float,
        more: Metadata = (),
        patience: float | None = None,
        repeatable: bool = True,
    ) -> bytes:
        """One call to its answer; raises AioRpcError.

        With `patience` it raises SilentError for a node that hangs for so long: before what is not repeatable is sent,
        which is then waited for until it times out, and at any time while what is repeatable is waited for.
        """
        if patience is not None and not repeatable:
            if not await self.is_there(patience):
                raise SilentError
            patience = None
        call = self.channel.unary_unary(rpc.path)(data, timeout=timeout, metadata=(*self._metadata, *more))
        try:
            answer: bytes = await (call if patience is None else self._watched(call, patience))
        except grpc.aio.AioRpcError as error:
            if error.code() not in _UNHEARD:
                self._hear()
            raise
        self._hear()
        return answer

    async def is_there(self, patience: float) -> bool:
        """Whether the node answers, or did so a moment ago; everybody who asks at the same time asks once."""
        quiet = asyncio.get_running_loop().time() - self._heard
        if quiet < patience * SILENCE:
            return True
        if self._asking is None or self._asking.done():
            self._asking = asyncio.get_running_loop().create_task(self._ask_whether_there(patience * (1 - SILENCE)))
        return await asyncio.shield(self._asking)

    async def _watched(self, call: Any, patience: float) -> bytes:
        asked: asyncio.Future[bytes] = asyncio.ensure_future(call)
        try:
            while not (await asyncio.wait({asked}, timeout=patience * SILENCE))[0]:
                if not await self.is_there(patience) and not asked.done():
                    raise SilentError
            return asked.result()
        finally:
            asked.cancel()

    async def _ask_whether_there(self, within: float) -> bool:
        try:
            await self.ask(GET_VERSION, b"", timeout=within)
        except grpc.aio.AioRpcError as error:
            return error.code() not in _UNHEARD
        return True

    def _hear(self) -> None:
        self._heard = asyncio.get_running_loop().time()
        self._avoided_until = -float("inf")
