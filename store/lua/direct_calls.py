"""The calls of threads without an event loop, on Redis and Valkey."""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from functools import lru_cache

from peerjob.model.clock import Clock
from peerjob.model.record import Enqueued, NewInstance, Record, StoreLimits
from peerjob.store.direct import run_unsuspended
from peerjob.store.lua.scripts.script import Call, Reply

from .client.blocking_driver import BlockingDriver
from .client.connection import pack
from .commands.arrivals import ID_SIZE, MAX_PLAIN_RECORDS, is_plain, plain_record
from .commands.queue_commands import CHEAP_SCRIPTS, LuaQueueCommands
from .commands.read_commands import LuaReadCommands

_EMPTY = b"$0\r\n\r\n"
"""An empty argument, packed."""


class DirectCommands(LuaQueueCommands, LuaReadCommands):
    """The commands of the queue and those that read, each script sent one time."""

    def __init__(self, driver: BlockingDriver, *, clock: Clock, limits: StoreLimits) -> None:
        super().__init__(driver, clock=clock, limits=limits, retry_for=0)
        self._exchange = driver.exchange
        self._begin = lru_cache(MAX_PLAIN_RECORDS)(self._packed_begin)

    def _run_durably(self, *calls: Call) -> Awaitable[list[Reply]]:
        return self._driver.run(*calls)

    def enqueue_alone(self, instance: NewInstance, node: str) -> Enqueued | None:
        """Store a plain instance by the script that is cheap at present; None if `enqueue` has more to do.

        If an earlier call stored the instance, `enqueue` says so. It also raises the errors of the server.
        """
        script, id, spec = self._cheap_script, instance.id.encode(), instance.spec
        if not script or not is_plain(instance) or instance.limit_key or len(id) != ID_SIZE:
            return None
        begin = self._begin(script, instance.kind, instance.priority, instance.retention_us, instance.max_crashes, node)
        packed = b"%b$36\r\n%b\r\n$%d\r\n%b\r\n" % (begin, id, len(spec), spec)
        (reply,) = self._exchange(packed, 1)
        if not isinstance(reply, int) or reply <= 0:
            return None
        self._cheap_script = CHEAP_SCRIPTS[reply]
        return Enqueued(instance.id, True)

    def _packed_begin(
        self, script: str, kind: str, priority: int, retention_us: int | None, max_crashes: int, node: str
    ) -> bytes:
        """The packed command without its last two arguments: id and spec."""
        parts = plain_record(kind, priority, retention_us, max_crashes, node)
        (command,) = self._driver.commands((script, (kind, priority, *parts, "", "")))
        return pack(command).removesuffix(2 * _EMPTY)


class LuaDirectCalls:
    """See `DirectCalls`. The scripts are those of the store; only the connections differ."""

    def __init__(self, commands: DirectCommands, retry_for: float) -> None:
        self._commands = commands
        self.retry_for = retry_for

    def enqueue(self, instances: Sequence[NewInstance], *, node: str = "") -> list[Enqueued]:
        if len(instances) == 1 and (answer := self._commands.enqueue_alone(instances[0], node)) is not None:
            return [answer]
        return run_unsuspended(self._commands.enqueue(instances, node=node))

    def get(self, ids: Sequence[str]) -> list[Record | None]:
        return run_unsuspended(self._commands.get(ids))
