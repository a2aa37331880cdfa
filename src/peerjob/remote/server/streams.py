"""Handlers that answer with a stream."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, cast

from peerjob.handles.instance import Event
from peerjob.model.child_tasks import AsyncClosing
from peerjob.node.node import Node
from peerjob.proto.job.v1 import service_pb2 as pb
from peerjob.remote.wire.instances import (
    ENCODED,
    history_message,
    instance_message,
    line_message,
    log_message,
    progress_message,
)
from peerjob.remote.wire.queries import query_of
from peerjob.remote.wire.updates import position_of, update_message

from .rpc_service import Context
from .scopes import visible

WATCH_BEGUN = (("peerjob-watch", "begun"),)
MAX_SHARED = 8
"""The number of encoded messages that are kept, so that several streams of one event encode the event only once."""


class StreamRpcs:
    """Streams events and log lines. A slow reader delays only its own stream."""

    def __init__(self, node: Node) -> None:
        self._node = node
        # each value holds its event, so that Python cannot give the id() of that event to another object
        self._messages: dict[tuple[int, bool], tuple[Event, pb.WatchResponse]] = {}

    async def read_logs(self, request: pb.ReadLogsRequest, context: Context) -> AsyncIterator[pb.ReadLogsResponse]:
        encoded, cursor = request.view == ENCODED, request.cursor if request.HasField("cursor") else None
        async for page in self._node.log_pages(request.uuid, cursor=cursor, follow=request.follow):
            lines = [line_message(line, encoded=encoded) for line in page.lines]
            yield pb.ReadLogsResponse(lines=lines, cursor=page.cursor)

    async def watch(self, request: pb.WatchRequest, context: Context) -> AsyncIterator[pb.WatchResponse]:
        encoded = request.query.view == ENCODED
        begin = cast("Callable[[], Awaitable[None]]", lambda: context.send_initial_metadata(WATCH_BEGUN))
        events = cast(Any, visible(self._node).watch(query_of(request.query), on_begin=begin))
        async with AsyncClosing(events):
            async for event in events:
                yield self._message(event, encoded=encoded)

    async def watch_instance(
        self, request: pb.WatchInstanceRequest, context: Context
    ) -> AsyncIterator[pb.WatchInstanceResponse]:
        encoded = request.view == ENCODED
        after = position_of(request.after) if request.HasField("after") else None
        async with AsyncClosing(self._node.updates(request.uuid, after)) as updates:
            async for update in updates:
                yield update_message(update, encoded=encoded)

    def _message(self, event: Event, *, encoded: bool) -> pb.WatchResponse:
        """The message of an event, made once for all streams that send the event at about the same time."""
        key = (id(event), encoded)
        made = self._messages.get(key)
        if made is None:
            made = self._messages[key] = (event, _event_message(event, encoded=encoded))
            if len(self._messages) > MAX_SHARED:
                del self._messages[next(iter(self._messages))]
        return made[1]


def _event_message(event: Event, *, encoded: bool) -> pb.WatchResponse:
    message = pb.WatchResponse(instance=instance_message(event.instance.record, encoded=encoded))
    if event.entry is not None:
        message.entry.CopyFrom(history_message(event.entry))
    elif event.log is not None:
        message.line.CopyFrom(log_message(event.log, encoded=encoded))
    elif event.instance.progress is not None:
        message.progress.CopyFrom(progress_message(event.instance.progress))
    return message
