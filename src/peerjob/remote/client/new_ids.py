"""Ids that a client gives to what its calls make, with the time of the nodes."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TypeVar

from google.protobuf.message import Message

from peerjob.model.durations import format_seconds
from peerjob.model.errors import OptionError
from peerjob.model.ids import IdSource
from peerjob.proto.job.v1 import service_pb2 as pb
from peerjob.remote.wire import rpcs
from peerjob.remote.wire.rpcs import Rpc
from peerjob.remote.wire.values import FIRST_US, LAST_US, stamp_us

from .client_clock import TRUSTED_US, ClientClock
from .connection import Connection

Q = TypeVar("Q", bound=Message)
A = TypeVar("A", bound=Message)

logger = logging.getLogger("peerjob.client")


class NewIds:
    """Makes ids, and compares the clocks: at the start, after a step of the machine's clock, and after a refusal.

    A node refuses an id whose time is a day off. So after the refusal of a call with a new id, the clocks are compared.
    """

    def __init__(self, connection: Connection, clock: ClientClock, ids: IdSource) -> None:
        self._connection = connection
        self._clock = clock
        self._ids = ids
        self._ahead = 0.0
        """Seconds by which the machine's clock was ahead at the last comparison, if that was too much."""
        self.changes = 0
        """How often the time for new ids has changed."""

    def one(self) -> str:
        """Return a new id."""
        return self._ids.one()

    async def compare(self) -> None:
        """Compare the clock with that of a node; raises NodeUnavailableError or AuthError."""
        answer = await self._connection.call(rpcs.GET_VERSION, pb.VersionRequest())
        node_us = stamp_us(answer.time)
        # no id can have a time outside the calendar
        is_told = answer.HasField("time") and FIRST_US <= node_us <= LAST_US
        known, self._ahead = self._ahead, self._clock.compare(node_us if is_told else None)
        # calls in flight compare the clocks at the same time: one warning is enough
        if (ahead := self._ahead) and abs(ahead - known) * 1_000_000 > TRUSTED_US:
            logger.warning(
                "the clock of this machine is %s %s that of the node at %s: new ids take the time of the node",
                format_seconds(round(abs(ahead))),
                "ahead of" if ahead > 0 else "behind",
                self._connection.address,
            )

    async def follow_clock(self) -> None:
        """Compare the clocks anew if the machine's clock was set. Call it before new ids are made."""
        if self._clock.has_stepped:
            await self._compare_anew()

    async def call(self, rpc: Rpc[Q, A], request: Q, field: str) -> A:
        """Send a request with a new id in a field, unless the field has an id of the caller."""
        if getattr(request, field):
            return await self.send(rpc, request, None)
        await self.follow_clock()

        def renew() -> None:
            setattr(request, field, self.one())

        renew()
        return await self.send(rpc, request, renew)

    async def send(self, rpc: Rpc[Q, A], request: Q, renew: Callable[[], None] | None, *, made: int | None = None) -> A:
        """Send a request that has ids. `renew` replaces them, if the node has refused new ids of a wrong time.

        Without `renew`, the ids are the caller's: the error of the node reaches the caller, after the clocks have been
        compared. So new ids of the caller have the right time. `made` is `changes` at the time when the ids were made,
        by default now.
        """
        if made is None:
            made = self.changes
        try:
            return await self._connection.call(rpc, request)
        except OptionError:
            if self.changes == made:  # else a refusal of another call has led to the comparison
                await self._compare_anew()
            if self.changes == made or renew is None:
                raise
            renew()
            return await self._connection.call(rpc, request)

    async def _compare_anew(self) -> None:
        """Compare the clocks, and remember whether the time for new ids has changed."""
        before_us, changes = self._clock.time_us(), self.changes
        await self.compare()
        if abs(self._clock.time_us() - before_us) > TRUSTED_US and self.changes == changes:
            self.changes += 1
            self._ids.restart()
