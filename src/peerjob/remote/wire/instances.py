"""Instances, their history and their log lines, on the wire."""

from __future__ import annotations

import contextlib
from typing import Any

from peerjob.handles.entries import HistoryEntry, LogEntry
from peerjob.handles.instance import Instance
from peerjob.model.clock import to_us
from peerjob.model.codec import decode_value, encode_value
from peerjob.model.durable import Wait
from peerjob.model.errors import DecodeError, EncodeError
from peerjob.model.json_text import to_json
from peerjob.model.record import LogLine, Record, Transition
from peerjob.model.spec import ErrorInfo, Progress, decode_error, decode_progress, encode, redacted
from peerjob.model.state import State
from peerjob.proto.job.v1 import service_pb2 as pb

from .values import is_tuple, optional_stamp, set_stamp, stamp, stamp_us, state_number, value_text

ENCODED = pb.INSTANCE_VIEW_ENCODED
_MOMENTS = {
    State.PROCESSING: "processed_at",
    State.COMPLETED: "completed_at",
    State.TERMINATED: "terminated_at",
    State.CANCELLED: "canceled_at",
    State.TIMED_OUT: "timed_out_at",
}
"""State → the message field with the time at which the instance last entered that state."""


def instance_message(record: Record, *, encoded: bool) -> pb.JobInstance:
    """The message of an instance, with its values encoded or as text. Unreadable parts are left out."""
    try:
        return _message(record, encoded=encoded)
    except (ValueError, ArithmeticError):  # a damaged record has a number or a text that no message can hold
        return bare_message(record)


def _message(record: Record, *, encoded: bool) -> pb.JobInstance:
    shown: Instance[Any] = Instance(None, record)
    message = pb.JobInstance(
        kind=record.kind,
        uuid=record.id,
        state=state_number(record.state),
        attempts=record.attempts,
        priority=record.priority,
        crashes=record.crashes,
        losses=record.losses,
        fence=record.fence,
        owner=record.owner,
        node=shown.node,
        key=record.key,
        tags=record.tags,
        slot=record.slot,
        parent=record.parent or None,
        open=record.open,
    )
    set_stamp(message.scheduled_at, record.due_us)
    set_stamp(message.due_at, record.due_us)
    for entry in record.history:
        _set_transition(message.history.add(), entry)
        if (name := _MOMENTS.get(entry.state)) is not None:
            set_stamp(getattr(message, name), entry.at_us)
    # each part is set separately, so that one unreadable part does not remove the others
    for part in (_set_creation, _set_failure, _set_progress, _set_origin, _set_wait):
        try:
            part(message, record, shown)
        except ValueError:
            continue
    if encoded:
        message.spec = redacted(record.spec)
        if record.result is not None:
            message.encoded_result = record.result
        return message
    for name, set_part in (("arguments", _set_arguments), ("results", _set_results)):
        try:
            set_part(message, record, shown)
        except DecodeError as error:
            getattr(message, name).append(f"<{error}>")
    return message


def bare_message(record: Record) -> pb.JobInstance:
    """Only the id, kind and state of an instance, for a response that would be too large otherwise."""
    return pb.JobInstance(kind=record.kind, uuid=record.id, state=state_number(record.state))


def record_of(message: pb.JobInstance) -> Record:
    """The record in a message with the encoded view: the inverse of `instance_message`, except for secrets."""
    error = progress = None
    if message.HasField("failure"):
        failure = message.failure
        error = encode(ErrorInfo(type=failure.type, message=failure.message, traceback=failure.traceback))
    if message.HasField("progress"):
        progress = encode(progress_of(message.progress))
    return Record(
        id=message.uuid,
        kind=message.kind,
        state=State(message.state),
        spec=message.spec,
        priority=message.priority,
        due_us=stamp_us(message.due_at),
        attempts=message.attempts,
        crashes=message.crashes,
        losses=message.losses,
        fence=message.fence,
        owner=message.owner,
        history=tuple(_transition_of(entry) for entry in message.history),
        result=message.encoded_result if message.HasField("encoded_result") else None,
        error=error,
        progress=progress,
        key=message.key if message.HasField("key") else None,
        tags=tuple(message.tags),
        slot=message.slot,
        parent=message.parent,
        wait=_wait_of(message.wait) if message.HasField("wait") else None,
        open=message.open,
    )


def history_message(entry: HistoryEntry) -> pb.HistoryEntry:
    """The message of a state change, with its instance."""
    message = pb.HistoryEntry(uuid=entry.instance_id, kind=entry.kind)
    _set_transition(message, entry.transition)
    return message


def history_of(message: pb.HistoryEntry) -> HistoryEntry:
    """The inverse of `history_message`."""
    return HistoryEntry(message.uuid, message.kind, _transition_of(message))


def line_message(line: LogLine, *, encoded: bool) -> pb.LogLine:
    """The message of a log line, without its instance."""
    message = pb.LogLine(
        at=stamp(line.at_us), level=line.level, message=line.message, attempt=line.attempt, node=line.node
    )
    if line.fields is not None:
        if encoded:
            with contextlib.suppress(EncodeError):
                message.encoded_fields = encode_value(line.fields)
        else:
            message.json_fields = to_json(line.fields)
    return message


def line_of(message: pb.LogLine) -> LogLine:
    """The inverse of `line_message` with `encoded`."""
    return LogLine(
        at_us=stamp_us(message.at),
        level=message.level,
        message=message.message,
        attempt=message.attempt,
        node=message.node,
        fields=decode_value(message.encoded_fields) if message.HasField("encoded_fields") else None,
    )


def log_message(entry: LogEntry, *, encoded: bool) -> pb.LogLine:
    """The message of a log line, with its instance."""
    message = line_message(entry.line, encoded=encoded)
    message.uuid, message.kind = entry.instance_id, entry.kind
    return message


def log_of(message: pb.LogLine) -> LogEntry:
    """The inverse of `log_message` with `encoded`."""
    return LogEntry(message.uuid, message.kind, line_of(message))


def progress_message(progress: Progress) -> pb.Progress:
    """The message of a run's progress."""
    return pb.Progress(fraction=progress.fraction, message=progress.message, at=optional_stamp(progress.at_us))


def progress_of(message: pb.Progress) -> Progress:
    """The inverse of `progress_message`."""
    return Progress(fraction=message.fraction, message=message.message, at_us=stamp_us(message.at))


# -- parts of an instance --------------------------------------------------------------------------------------------


def _set_creation(message: pb.JobInstance, record: Record, shown: Instance[Any]) -> None:
    set_stamp(message.created_at, to_us(shown.created_at))


def _set_failure(message: pb.JobInstance, record: Record, shown: Instance[Any]) -> None:
    if record.error is None:
        return
    info = decode_error(record.error)
    message.error = str(info)
    message.failure.CopyFrom(pb.Failure(type=info.type, message=info.message, traceback=info.traceback))


def _set_progress(message: pb.JobInstance, record: Record, shown: Instance[Any]) -> None:
    if record.progress is not None:
        message.progress.CopyFrom(progress_message(decode_progress(record.progress)))


def _set_origin(message: pb.JobInstance, record: Record, shown: Instance[Any]) -> None:
    if shown.schedule is not None:
        message.schedule = shown.schedule
    if shown.nominal_at is not None:
        set_stamp(message.nominal_at, to_us(shown.nominal_at))
    if shown.retry_of is not None:
        message.retry_of = str(shown.retry_of)


def _set_wait(message: pb.JobInstance, record: Record, shown: Instance[Any]) -> None:
    wait = record.wait
    if wait is not None:
        until = None if wait.until_us is None else stamp(wait.until_us)
        message.wait.CopyFrom(pb.Wait(signals=wait.names, until=until, children=wait.needs))


def _wait_of(message: pb.Wait) -> Wait:
    until_us = stamp_us(message.until) if message.HasField("until") else None
    return Wait(signals=tuple(message.signals), until_us=until_us, needs=message.children)


def _set_arguments(message: pb.JobInstance, record: Record, shown: Instance[Any]) -> None:
    message.arguments.extend(map(value_text, shown.arguments))


def _set_results(message: pb.JobInstance, record: Record, shown: Instance[Any]) -> None:
    if record.state is not State.COMPLETED or record.result is None:
        return
    result = decode_value(record.result)
    if result is not None:
        message.results.extend(map(value_text, result if is_tuple(result) else (result,)))


def _set_transition(message: pb.HistoryEntry, entry: Transition) -> None:
    message.state = state_number(entry.state)
    set_stamp(message.at, entry.at_us)
    message.node, message.note, message.count = entry.node, entry.note, entry.count


def _transition_of(message: pb.HistoryEntry) -> Transition:
    return Transition(
        state=State(message.state),
        at_us=stamp_us(message.at),
        node=message.node,
        note=message.note,
        count=message.count,
    )
