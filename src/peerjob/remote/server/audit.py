"""The audit log of a server: each acting call becomes a record in the log and in the store.

Records go to the logger at once. They go to the store together, once a second, so that no call waits for its record.
Calls that schedule and differ in nothing that the record shows share one record in the store.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Mapping
from typing import Any

from google.protobuf.json_format import MessageToDict, SerializeToJsonError
from google.protobuf.message import Message
from msgspec import structs

from peerjob.cluster.role import BackgroundRole
from peerjob.model.audit import MAX_AUDIT, MAX_CRITERIA, AuditRecord
from peerjob.model.errors import AuthError, NodeStateError, StoreError
from peerjob.model.record import MAX_BATCH
from peerjob.node.node import Node
from peerjob.proto.job.v1 import service_pb2 as pb
from peerjob.remote.wire.rpcs import RPCS

from .principals import ANYBODY, Principal, caller
from .rate_limiter import host_of
from .rpc_service import Context

logger = logging.getLogger("peerjob.audit")

FLUSH_SECONDS = 1.0
MAX_KINDS = 10
"""The most kinds that the record of one call names."""
DENIED = "denied"
_HIDDEN = ("view", "note", "timeout", "begun", "limit", "order")
"""Fields of requests that a record leaves out: they do not select, or hold text of users."""


class AuditTrail(BackgroundRole):
    """Collects records, and writes them to the store once a second."""

    name = "audit"

    def __init__(self, node: Node) -> None:
        super().__init__(node.clock)
        self._node = node
        self._waiting: dict[object, AuditRecord] = {}
        """The records that are not in the store yet, the oldest first. Similar calls have the same key."""
        self._dropped = 0

    def add(self, verb: str, principal: str, address: str, criteria: str, count: int | None, result: str) -> None:
        """Record a call that has ended. Refused calls only go to the logger: they must not displace other records."""
        # a name with half of a surrogate pair, which JSON of a JWT can contain, would keep all records out of the store
        principal = principal.encode(errors="backslashreplace").decode()
        now_us = self._node.clock.time_us()
        record = AuditRecord(
            id=f"{self._node.clock.random.getrandbits(64):016x}",
            at_us=now_us,
            principal=principal,
            address=address,
            verb=verb,
            criteria=criteria[:MAX_CRITERIA],
            count=count,
            result=result,
            node=self._node.name,
        )
        if logger.isEnabledFor(logging.INFO):
            fields = {name: value for name, value in structs.asdict(record).items() if name not in ("at_us", "calls")}
            shown = (principal, verb, record.criteria or "-", "-" if count is None else count, result)
            logger.info("%s %s %s count=%s: %s", *shown, extra={"audit": fields})
        if result == DENIED:
            return
        schedules = verb.startswith("ScheduleJob")
        key = (verb, principal, address, record.criteria, result) if schedules else record.id
        known = self._waiting.get(key)
        if known is not None:
            record = structs.replace(known, count=(known.count or 0) + (count or 0), calls=known.calls + 1)
        self._waiting[key] = record
        while len(self._waiting) > MAX_AUDIT:
            del self._waiting[next(iter(self._waiting))]
            self._dropped += 1

    async def run(self) -> None:
        while True:
            await self.pause(FLUSH_SECONDS)
            await self.flush()

    async def flush(self) -> None:
        """Write the records to the store. If it does not answer, they stay for the next time."""
        while self._waiting:
            taken = list(self._waiting.items())[:MAX_BATCH]
            for key, _ in taken:
                del self._waiting[key]
            try:
                await self._node.add_audit([record for _, record in taken])
            except BaseException:
                self._waiting = {record.id: record for _, record in taken} | self._waiting
                raise
        if self._dropped:
            logger.warning("%d record(s) did not get into the store, which was away; this log has them", self._dropped)
            self._dropped = 0

    async def settle(self) -> None:
        """Write the records now, unless the node has ended or the store does not answer."""
        try:
            async with asyncio.timeout(FLUSH_SECONDS):
                await self.flush()
        except (StoreError, NodeStateError, TimeoutError) as error:
            logger.warning("%d record(s) are not in the store: %r", len(self._waiting), error)

    async def stop(self) -> None:
        """Stop, and write the last records."""
        await super().stop()
        await self.settle()


def audited(trail: AuditTrail, handlers: Mapping[str, Any]) -> dict[str, Any]:
    """The handlers, of which those that act record each call."""
    return {name: _audited(trail, name, serve) if RPCS[name].acts else serve for name, serve in handlers.items()}


def _audited(trail: AuditTrail, name: str, serve: Any) -> Any:
    async def answer(request: Any, context: Context) -> Message:
        count, result = None, "ok"
        try:
            response: Message = await serve(request, context)
            count = _count(name, response)
        except BaseException as error:
            # the text of an error can contain arguments of a job
            result = DENIED if isinstance(error, AuthError) else type(error).__name__
            raise
        finally:
            trail.add(
                name, name_of(caller(), context), host_of(context.peer()), _criteria(name, request), count, result
            )
        return response

    return answer


def name_of(principal: Principal, context: Context) -> str:
    """The name of a caller: of its token, or without tokens of its certificate."""
    if principal is not ANYBODY:
        return principal.name
    names: list[bytes] = context.auth_context().get("x509_common_name", [])
    return names[0].decode(errors="backslashreplace") if names else principal.name


def _criteria(name: str, request: Any) -> str:
    if name == "ScheduleJob":
        return f"kind={request.kind}"
    if name == "ScheduleJobs":
        kinds = sorted({one.kind for one in request.jobs})
        return f"kind={','.join(kinds[:MAX_KINDS])}{',…' if len(kinds) > MAX_KINDS else ''}"
    if name == "PutSchedule":
        return f"name={request.job.options.name or request.job.kind} kind={request.job.kind}"
    try:
        given: dict[str, Any] = MessageToDict(request, preserving_proto_field_name=True)
    except SerializeToJsonError:  # the request has a time or a duration out of range
        return "(invalid)"
    for inner in (given, given.get("query", {})):
        for field in _HIDDEN:
            inner.pop(field, None)
    texts = {key: value if isinstance(value, str) else json.dumps(value) for key, value in given.items()}
    return " ".join(f"{key}={value}" for key, value in texts.items())


def _count(name: str, response: Any) -> int | None:
    """How many instances or schedules a call made or changed."""
    if isinstance(response, pb.ScheduleJobResponse):
        return int(not response.existed)
    if isinstance(response, pb.ScheduleJobsResponse):
        return sum(not one.existed for one in response.scheduled)
    fields = response.DESCRIPTOR.fields_by_name
    if "count" in fields or "made" in fields:
        return int(response.count if "count" in fields else response.made)
    if "instances" in fields:
        return len(response.instances)
    if "cancelled" in fields or "removed" in fields:
        return int(response.cancelled if "cancelled" in fields else response.removed)
    if "instance" in fields or "schedule" in fields:
        return int(response.HasField("instance" if "instance" in fields else "schedule"))
    return None
