"""The updates of a followed instance on the wire."""

from __future__ import annotations

import contextlib

from peerjob.handles.entries import HistoryEntry
from peerjob.handles.update import Position, Update
from peerjob.model.spec import decode_progress
from peerjob.proto.job.v1 import service_pb2 as pb

from .instances import (
    history_message,
    history_of,
    instance_message,
    line_message,
    line_of,
    progress_message,
    record_of,
)


def update_message(update: Update, *, encoded: bool) -> pb.WatchInstanceResponse:
    """The message of an update, with its values encoded or as text."""
    record, position = update.record, update.position
    message = pb.WatchInstanceResponse(
        instance=instance_message(record, encoded=encoded),
        entries=[history_message(HistoryEntry(record.id, record.kind, entry)) for entry in update.entries],
        lines=[line_message(line, encoded=encoded) for line in update.lines],
        position=pb.InstancePosition(
            entries=position.entries, log_cursor=position.log_cursor, progress=position.progress
        ),
    )
    if update.progressed and record.progress is not None:
        with contextlib.suppress(ValueError):  # a damaged progress is left out
            message.progress.CopyFrom(progress_message(decode_progress(record.progress)))
    return message


def update_of(message: pb.WatchInstanceResponse) -> Update:
    """The inverse of `update_message` with `encoded`."""
    return Update(
        record=record_of(message.instance),
        entries=tuple(history_of(entry).transition for entry in message.entries),
        lines=tuple(map(line_of, message.lines)),
        progressed=message.HasField("progress"),
        position=position_of(message.position),
    )


def position_of(message: pb.InstancePosition) -> Position:
    """The position in a message."""
    return Position(
        entries=message.entries,
        log_cursor=message.log_cursor if message.HasField("log_cursor") else None,
        progress=message.progress if message.HasField("progress") else None,
    )
