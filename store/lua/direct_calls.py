"""The calls of threads without an event loop, on Redis and Valkey."""

from __future__ import annotations

from collections.abc import Awaitable, Sequence

from peerjob.model.record import Enqueued, NewInstance
from peerjob.store.direct import run_unsuspended
from peerjob.store.lua.scripts.script import Call, Reply

from .commands.queue_commands import LuaQueueCommands


class DirectCommands(LuaQueueCommands):
    """The commands of the queue, each script sent one time."""

    def _run_durably(self, *calls: Call) -> Awaitable[list[Reply]]:
        return self._driver.run(*calls)


class LuaDirectCalls:
    """See `DirectCalls`. The scripts are those of the store; only the connections differ."""

    def __init__(self, commands: LuaQueueCommands) -> None:
        self._commands = commands

    def enqueue(self, instances: Sequence[NewInstance], *, node: str = "") -> list[Enqueued]:
        return run_unsuspended(self._commands.enqueue(instances, node=node))
