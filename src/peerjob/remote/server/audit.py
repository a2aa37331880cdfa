"""The audit log of a server: each acting call becomes a record in the log and in the store."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from google.protobuf.json_format import MessageToDict, SerializeToJsonError
from google.protobuf.message import Message

from peerjob.model.audit import DENIED
from peerjob.model.errors import AuthError
from peerjob.model.rights import ANYBODY, Principal
from peerjob.node.manager.audit_trail import AuditTrail
from peerjob.proto.job.v1 import service_pb2 as pb
from peerjob.remote.wire.rpcs import RPCS

from .principals import caller, caller_address
from .rpc_service import Context

MAX_KINDS = 10
"""The most kinds that the record of one call names."""
_HIDDEN = ("view", "note", "timeout", "begun", "limit", "order", "in_parts")
"""Fields of requests that a record leaves out: they do not select, or hold text of users."""
_WHOLE = {"all", "cursor", "descending"}
"""Fields of a query or filter without a criterion. Beside a criterion, `all` would say more than what it selects."""


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
            trail.add(name, name_of(caller(), context), caller_address(), _criteria(name, request), count, result)
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
        kinds = sorted({job.kind for job in request.jobs})
        return f"kind={_listed(kinds)}"
    if name == "ScheduleFlow":
        kinds = sorted({member.call.kind for member in request.members})
        return f"name={request.name} members={len(request.members)} kind={_listed(kinds)}"
    if name == "Signal":  # without the value, which can be a secret
        return f"uuid={request.uuid} name={request.name}"
    if name == "PutSchedule":
        return f"name={request.job.options.name or request.job.kind} kind={request.job.kind}"
    try:
        given: dict[str, Any] = MessageToDict(request, preserving_proto_field_name=True)
    except SerializeToJsonError:  # the request has a time or a duration out of range
        return "(invalid)"
    for inner in (given, given.get("query", {}), given.get("filter", {})):
        for field in _HIDDEN:
            inner.pop(field, None)
        if not inner.keys() <= _WHOLE:
            inner.pop("all", None)
    texts = {key: value if isinstance(value, str) else json.dumps(value) for key, value in given.items()}
    return " ".join(f"{key}={value}" for key, value in texts.items())


def _listed(kinds: list[str]) -> str:
    return f"{','.join(kinds[:MAX_KINDS])}{',…' if len(kinds) > MAX_KINDS else ''}"


def _count(name: str, response: Any) -> int | None:
    """How many instances or schedules a call made or changed."""
    if isinstance(response, pb.ScheduleJobResponse):
        return int(not (response.existed or response.repeated))
    if isinstance(response, pb.ScheduleFlowResponse):
        return int(not response.repeated)
    if isinstance(response, pb.SignalResponse):
        return int(response.accepted)
    if isinstance(response, pb.ScheduleJobsResponse):
        return sum(not (scheduled.existed or scheduled.repeated) for scheduled in response.scheduled)
    fields = response.DESCRIPTOR.fields_by_name
    if "count" in fields or "made" in fields:
        return int(response.count if "count" in fields else response.made)
    if "instances" in fields:
        return len(response.instances)
    for field in ("cancelled", "moved", "removed"):
        if field in fields:
            return int(getattr(response, field))
    if "instance" in fields or "schedule" in fields:
        return int(response.HasField("instance" if "instance" in fields else "schedule"))
    return None
