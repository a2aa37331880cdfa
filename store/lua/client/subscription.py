"""A connection to a server that sends messages at any time."""

from __future__ import annotations

import asyncio
from typing import Any

from .connection import ServerConnection
from .replies import DisconnectedError, ServerError


class Subscription(ServerConnection):
    """A connection that keeps each message until `next_message` returns it."""

    def __init__(self) -> None:
        super().__init__()
        self._messages = asyncio.Queue[Any]()

    async def subscribe(self, channel: str, deadline: float) -> None:
        """Ask for the messages of a channel; raises the errors of `open`."""
        (reply,) = await self.send([("SUBSCRIBE", channel)], deadline)
        if isinstance(reply, ServerError):
            raise reply

    async def next_message(self) -> Any:
        """Return the next message; a cancelled call loses none. Raises DisconnectedError."""
        message = await self._messages.get()
        if isinstance(message, Exception):
            raise message
        return message

    def connection_lost(self, exc: Exception | None) -> None:
        """End `next_message`."""
        super().connection_lost(exc)
        self._messages.put_nowait(DisconnectedError(str(exc)))

    def _received(self, replies: list[Any]) -> None:
        answers = self._count if self._answer is not None else 0
        for message in replies[answers:]:
            self._messages.put_nowait(message)
        del replies[answers:]
        if answers:
            super()._received(replies)
