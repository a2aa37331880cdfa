"""Flows and signals, on the wire."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, cast

import msgspec

from peerjob.model.arguments import several
from peerjob.model.codec import decode_kept, encode_value
from peerjob.model.durable import SIGNAL_MARK, Step, When
from peerjob.model.errors import DecodeError, OptionError
from peerjob.model.flow import Flow, Member, MemberTaker
from peerjob.model.job import Call, Job
from peerjob.model.json_text import json_value, to_json
from peerjob.model.outputs import Ref
from peerjob.model.step_values import shown_step
from peerjob.proto.job.v1 import service_pb2 as pb

from .requests import call_of

_REFERENCES = {"$output": False, "$ended": True}
"""The only key of a JSON object that stands for a result, and whether the end counts instead."""


def flow_request(
    flow: Flow, tags: Iterable[str], request_of: Callable[[Call[Any]], pb.ScheduleJobRequest]
) -> pb.ScheduleFlowRequest:
    """The request for a flow; `request_of` checks a call and makes its request."""
    tags = several("tags", tags, str, "a list with text as each item")
    request = pb.ScheduleFlowRequest(name=flow.name, tags=tags, view=pb.INSTANCE_VIEW_ENCODED)
    for member in flow:
        with MemberTaker(member):
            call = request_of(member.call)
        call.ClearField("uuid")
        call.ClearField("view")
        request.members.append(
            pb.FlowMember(call=call, after=member.after, ended=member.when == "ended", optional=member.optional)
        )
    return request


def flow_of(request: pb.ScheduleFlowRequest, find: Callable[[str], Job[..., Any, Any] | None]) -> Flow:
    """The flow in a request; raises OptionError or ArgumentError, which name flow and member."""
    flow = Flow(request.name)
    members: list[Member[Any]] = []
    for number, message in enumerate(request.members):
        call = call_of(message.call, find)
        if not message.call.HasField("encoded_arguments"):
            args, kwargs = _with_references([list(call.args), call.kwargs])
            call = Call(call.job, tuple(args), kwargs)
        for needed in message.after:
            if not 0 <= needed < number:
                raise OptionError("after", needed, f"the number of a member before number {number}")
        after = [members[needed] for needed in message.after]
        when: When = "ended" if message.ended else "completed"
        members.append(flow.add(call, after=after, when=when, optional=message.optional))
    return flow


def _with_references(value: Any) -> Any:
    """The value with a reference in the place of each object such as `{"$output": 0}`."""
    if isinstance(value, list):
        return [_with_references(item) for item in _items(value)]
    if not isinstance(value, dict):
        return value
    fields = cast(dict[str, Any], value)
    if len(fields) == 1:
        ((key, number),) = fields.items()
        if key in _REFERENCES and type(number) is int and number >= 0:
            return Ref(number, _REFERENCES[key])
    return {key: _with_references(item) for key, item in fields.items()}


def _items(value: Any) -> list[Any]:
    return value  # type: ignore[no-any-return]  # pyright sees a list of unknown items after isinstance()


def signal_value(request: pb.SignalRequest) -> Any:
    """The value of a signal in a request; raises OptionError."""
    if request.HasField("json_value") == request.HasField("encoded_value"):
        raise OptionError("value", "none or two", "json_value or encoded_value")
    if request.HasField("encoded_value"):
        try:
            return decode_kept(request.encoded_value)
        except DecodeError as error:
            size = f"{len(request.encoded_value):,} bytes"
            raise OptionError("encoded_value", size, f"MessagePack of peerjob ({error})") from None
    return json_value(request.json_value)


def step_message(step: Step) -> pb.Step:
    """The message of a step or a signal, for people."""
    is_signal = step.name.startswith(SIGNAL_MARK)
    value = to_json(shown_step(step.value))
    return pb.Step(name=step.name.removeprefix(SIGNAL_MARK), signal=is_signal, json_value=value)


def step_of(message: pb.Step) -> Step:
    """The inverse of `step_message`: the value is plain data of JSON."""
    name = SIGNAL_MARK + message.name if message.signal else message.name
    return Step(name, encode_value(msgspec.json.decode(message.json_value)))
