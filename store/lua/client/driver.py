"""How scripts run on a server or cluster: `Driver` sends them, and `LuaCommands` sends again while the server is away.

This module has what both client libraries share; `redis_driver` and `glide_driver` send commands and classify errors.
A driver sends scripts again only if the server does not know one of them, or is the wrong server.
An error that a later call may not meet (no connection, no answer in time, a server that loads, fails over or moves
slots) becomes StoreUnavailableError, which `CallRetry` retries. A server that is out of memory is StoreFullError.
Refused credentials, a missing right and a missing command have their own errors, which nothing retries.
"""

from __future__ import annotations

import asyncio
import os
import re
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from peerjob.model.clock import Clock
from peerjob.model.errors import (
    OptionError,
    StoreError,
    StoreUnconfirmedError,
)
from peerjob.model.record import StoreLimits
from peerjob.store.calls import LOGGER, CallRetry, opened_before_fork
from peerjob.store.lua.scripts.script import Argument, Call, Reply, load_scripts
from peerjob.store.per_loop import PerLoop
from peerjob.store.url import Host

from .address import Address
from .credentials import Credentials
from .durability import Durability
from .refusals import Cause, cause_in_text, refusal, user_of
from .reports import Reports
from .sentinel import Sentinels

MAX_REPLY_BYTES = 1 << 20
"""A script ends its reply after this many bytes, so that one call occupies the server only briefly."""
MAX_LOOKUPS = 1600
"""One script reads at most this many counters and indexes. Each takes about 1 µs, during which the server runs no other
call."""
CONNECT_TIMEOUT = 4.0
CALL_TIMEOUT = 5.0
_IN_LONG_CALLS = ("commit", "commit_linked", "claim", "confirm")
"""Scripts that share a call. Each load has all of them. So a server never runs the claim of a turn before the commit,
and repeats no script for a confirmation that it lacks."""
_MAX_LOADS = 4
"""A call loads its scripts at most this many times, if the server loses them again."""


def prefix(namespace: str) -> str:
    """The prefix of every key of a namespace; its hash tag puts all of them into one slot of a cluster.

    `scripts/lib/keys.lua` builds the keys from it.
    """
    return f"{{peerjob:{namespace}}}:"


@dataclass(frozen=True, kw_only=True)
class SlowCall:
    """An entry of the server's SLOWLOG."""

    at: int
    """When it ran, in seconds of the server's clock."""
    seconds: float
    name: str
    """The name of our script, or in capitals a command of another program."""


class Driver(ABC):
    """A client of one server or cluster, for one namespace, on one event loop."""

    MAX_DURABLE_CALLS: ClassVar[int]
    """At most this many calls wait for a disk or for replicas at the same time. Each call has a connection of its
    own."""

    def __init__(
        self,
        address: Address,
        *,
        namespace: str,
        call_timeout: float = CALL_TIMEOUT,
        credentials: Credentials | None = None,
    ) -> None:
        self._address = address
        self._credentials = credentials
        self._connect_timeout = min(CONNECT_TIMEOUT, call_timeout)
        self._fixed = not address.cluster and address.sentinel is None
        self._server = address.hosts[0] if self._fixed and address.hosts else None
        """The server that has the namespace. None: the driver must ask the cluster or the sentinels."""
        self._search = PerLoop(asyncio.Lock)
        self.sentinels = None if address.sentinel is None else Sentinels(address, self._connect_timeout, credentials)
        self._following: asyncio.Task[None] | None = None
        self.namespace = namespace
        self._prefix = prefix(namespace)
        self._declared = (self._prefix, f"{self._prefix}layout")
        """The keys that every script declares: a key that never exists, and a key that always exists.

        While a slot moves between servers of a cluster, both servers refuse a command with two such keys with TRYAGAIN
        or ASK. So a script never sees a namespace that has moved in part.
        """
        self._call_timeout = call_timeout
        self._process = os.getpid()
        """The id of the process that opened the driver."""
        self._scripts = load_scripts()
        self._durable_in_flight = PerLoop(lambda: asyncio.Semaphore(self.MAX_DURABLE_CALLS))

    @property
    def url(self) -> str:
        """The URL without its password."""
        return self._address.url

    @property
    def user(self) -> str:
        """The user that signs in."""
        return user_of(self._address, self._credentials)

    @property
    def server(self) -> Host | None:
        """The server that has the namespace; None while that is not known, and for a socket."""
        return self._server

    @property
    def is_inherited(self) -> bool:
        """Whether the process that opened the driver has forked this process since then."""
        return self._process != os.getpid()

    def _check_process(self) -> None:
        """Raise StoreError in a forked child: the parent goes on with the connections."""
        if self._process != os.getpid():
            raise StoreError(opened_before_fork(self.url))

    async def open(self) -> None:
        """Connect, so that a wrong address shows at once."""
        self._process = os.getpid()
        self._checked(await self._send([("PING",)], self._call_timeout))
        if self.sentinels is not None and self._following is None:
            self._following = asyncio.create_task(self.sentinels.follow(self._moved), name="peerjob-sentinel")

    async def close(self) -> None:
        """Release every connection; idempotent."""
        if self.is_inherited:
            return
        following, self._following = self._following, None
        if following is not None and not following.get_loop().is_closed():
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)
        await self._release()

    async def run(self, *calls: Call) -> list[Reply]:
        """Run scripts in this order, sent in one write if the library can."""
        commands = self.commands(*calls)
        replies = await self._send(commands, self._call_timeout)
        for reply in replies:
            if isinstance(reply, Exception):
                return self._checked(await self._resend_if_needed(replies, commands, self._call_timeout))
        return replies

    def run_durably(self, *calls: Call) -> Coroutine[Any, Any, list[Reply]]:
        """Run scripts as `run` does, and wait for the `durability` of the URL.

        Raises StoreUnconfirmedError if the confirmation did not come in time; the scripts have run nevertheless. To be
        sure, send the same calls again: a later confirmation alone could be that of another server.
        """
        durability = self._address.durability
        return self.run(*calls) if durability is None else self._run_confirmed(durability, calls)

    async def _run_confirmed(self, durability: Durability, calls: Sequence[Call]) -> list[Reply]:
        commands = [*self.commands(*calls, ("confirm", ())), durability.command]
        timeout = self._call_timeout + durability.timeout
        async with self._durable_in_flight():
            replies = await self._send(commands, timeout, alone=True)
            *replies, waited = await self._resend_if_needed(replies, commands, timeout, alone=True)
        checked = self._checked(replies)[:-1]
        if missing := durability.missing(waited):
            raise StoreUnconfirmedError(self.url, missing)
        return checked

    async def pop(self, key: str, limit: int, timeout: float) -> list[bytes]:
        """Wait up to `timeout` seconds for elements of a list and take them off its head; [] if there is none."""
        command = ("BLMPOP", f"{max(timeout, 0.001):.3f}", 1, key, "LEFT", "COUNT", limit)
        (reply,) = self._checked(await self._send([command], timeout + self._call_timeout, alone=True))
        return [] if reply is None else _pairs(reply)[key.encode()]

    async def pop_and_run(
        self, key: str, limit: int, timeout: float, call: Call
    ) -> tuple[list[bytes], Reply | Exception]:
        """`pop`, and run a script on the same connection at the moment when the wait ends.

        An error of the script is returned: the elements are no longer in the list.
        """
        wait = ("BLMPOP", f"{max(timeout, 0.001):.3f}", 1, key, "LEFT", "COUNT", limit)
        commands = [wait, *self.commands(call)]
        popped, reply = await self._send(commands, timeout + self._call_timeout, alone=True)
        (popped,) = self._checked([popped])
        return [] if popped is None else _pairs(popped)[key.encode()], reply

    async def info(self) -> Mapping[str, str]:
        """The fields of INFO; empty if the user may not ask."""
        (reply,) = await self._send([("INFO",)], self._call_timeout)
        if isinstance(reply, Exception) and self.cause_of(reply) in (Cause.FORBIDDEN, Cause.NO_COMMAND):
            return {}
        (reply,) = self._checked([reply])
        pairs = (line.partition(":") for line in reply.decode().splitlines() if ":" in line)
        return {name: value for name, _, value in pairs}

    async def slow_calls(self) -> list[SlowCall] | None:
        """The latest calls that the server found slow, of all its users; None if the user may not ask."""
        (reply,) = await self._send([("SLOWLOG", "GET", 128)], self._call_timeout)
        if isinstance(reply, Exception):
            return None
        return [SlowCall(at=entry[1], seconds=entry[2] / 1_000_000, name=self._name_of(entry[3])) for entry in reply]

    def _name_of(self, words: Sequence[bytes]) -> str:
        """Return the name of our script for this namespace, or a command of another program in capitals."""
        if words[0].upper() == b"EVALSHA" and self._prefix.encode() in words:
            sha = words[1].decode()
            return next((script.name for script in self._scripts.values() if script.sha == sha), "an older script")
        return words[0].decode(errors="replace").upper()

    async def ask(self, *commands: tuple[Argument, ...]) -> list[Any] | None:
        """The answers of the server to commands that no script sends; None if the user may not ask."""
        replies = await self._send(commands, self._call_timeout)
        return None if any(isinstance(reply, Exception) for reply in replies) else replies

    async def config(self, pattern: str) -> Mapping[str, str]:
        """The settings that match a pattern; empty if the user may not ask."""
        (reply,) = await self._send([("CONFIG", "GET", pattern)], self._call_timeout)
        if isinstance(reply, Exception):
            return {}
        return {name.decode(): value.decode() for name, value in _pairs(reply).items()}

    @abstractmethod
    async def _release(self) -> None:
        """Close every connection, for good."""

    def give_up(self) -> None:
        """Search the server again before the next call: a caller ended a call that had no answer in its own time."""
        self._forget_server()

    @abstractmethod
    async def _leave(self) -> None:
        """Close every connection, and end the calls in flight: another server has the namespace now."""

    @abstractmethod
    def _send(
        self, commands: Sequence[tuple[Argument, ...]], timeout: float, *, alone: bool = False
    ) -> Awaitable[list[Any]]:
        """Send commands in one write; the replies include the server's errors as values.

        `alone` takes a connection that no other call shares, because commands that wait block their connection.
        """

    @abstractmethod
    def _cause(self, error: Exception) -> Cause:
        """Return the cause of an error by what this client library tells of it."""

    def cause_of(self, error: Exception) -> Cause:
        """Return the cause of an error of the client library or the server."""
        cause = self._cause(error)
        if cause is not Cause.OTHER:
            return cause
        return cause_in_text(str(error))

    async def _located(self) -> Host:
        """Return the server that has the namespace; concurrent calls share one search."""
        async with self._search():
            return self._server or self._remember(await self._locate())

    def _remember(self, host: Host) -> Host:
        # A failover that `_moved` reported during the search is newer than the answer.
        if self._server is None:
            self._server = host
        return self._server

    async def _locate(self) -> Host:
        """Ask for the server that has the namespace."""
        assert self.sentinels is not None, "a server that is not fixed, and no sentinels"
        return await self.sentinels.primary()

    def _forget_server(self) -> None:
        """Ask again before the next connection: the last one failed."""
        if not self._fixed:
            self._server = None

    async def _moved(self, primary: Host) -> None:
        if primary != self._server:
            self._server = primary
            await self._leave()

    async def _resend_if_needed(
        self, replies: list[Any], commands: Sequence[tuple[Argument, ...]], timeout: float, *, alone: bool = False
    ) -> list[Any]:
        """Return the replies to scripts, after the commands were sent again if the server did not run all of them."""
        if self._address.cluster and isinstance(replies[0], Exception) and self.cause_of(replies[0]) is Cause.MOVED:
            replies = await self._send(commands, timeout, alone=alone)
        for _ in range(_MAX_LOADS):
            if not any(map(self._lacks_script, replies)):
                break
            # Load only scripts of the call: all of them take 60 ms and 7 MB of the server, and after a failover, each
            # client loads scripts. Load them in the same write, because another program can remove them again.
            # Send all commands again, so that no script runs before the script in front of it. A script that has run
            # repeats its answer.
            own = (command[1] for command in commands if command[0] == "EVALSHA")
            shas = {*(self._scripts[name].sha for name in _IN_LONG_CALLS), *own}
            # The claim comes last: the server can run a turn of another client between two loads.
            scripts = sorted(self._scripts.values(), key=lambda script: script.name == "claim")
            loads = [("SCRIPT", "LOAD", script.source) for script in scripts if script.sha in shas]
            replies = await self._send([*loads, *commands], timeout, alone=alone)
            self._checked(replies[: len(loads)])
            replies = replies[len(loads) :]
        return replies

    def _lacks_script(self, reply: Any) -> bool:
        return isinstance(reply, Exception) and self.cause_of(reply) is Cause.NO_SCRIPT

    def commands(self, *calls: Call) -> list[tuple[Argument, ...]]:
        """The commands that run scripts."""
        keys = self._declared
        scripts = self._scripts
        return [("EVALSHA", scripts[name].sha, len(keys), *keys, *arguments) for name, arguments in calls]

    def _checked(self, replies: list[Any]) -> list[Reply]:
        for reply in replies:
            if isinstance(reply, Exception):
                raise self._refusal(reply) from reply
        return replies

    def _refusal(self, error: Exception, *, connecting: bool = False) -> StoreError:
        """The error to raise for an error of the server: its answer to a command, or to a new connection."""
        return refusal(
            error,
            self.cause_of(error),
            address=self._address,
            namespace=self.namespace,
            prefix=self._prefix,
            credentials=self._credentials,
            connecting=connecting,
        )


def _pairs(reply: list[Any] | dict[bytes, Any]) -> dict[bytes, Any]:
    """Return a map reply of the server as a dict: hiredis gives a list of names and values, GLIDE gives a dict."""
    return reply if isinstance(reply, dict) else dict(zip(reply[::2], reply[1::2], strict=True))


class LuaCommands:
    """A group of the store's commands over one driver."""

    def __init__(self, driver: Driver, *, clock: Clock, limits: StoreLimits, retry_for: float) -> None:
        self._driver = driver
        self._limits = limits
        self._clock = clock
        self._retry = CallRetry(clock=clock, retry_for=retry_for)
        self._reports = Reports()

    async def _run(self, script: str, *arguments: Argument) -> Reply:
        """Run one script, with retries while the server is away."""
        (reply,) = await self._retry(lambda: self._driver.run((script, arguments)))
        return reply

    def _run_durably(self, *calls: Call) -> Awaitable[list[Reply]]:
        """Run scripts whose loss would break a guarantee, until the writes are as durable as the URL demands."""
        return self._retry(lambda: self._driver.run_durably(*calls))


def log_set_aside(fields: Sequence[bytes]) -> None:
    """Log what a script set aside or removed: "1", "" or "l", id or name, kind, reason, and so on. See aside.lua."""
    texts = [item.decode(errors="backslashreplace") for item in fields]
    for what, name, kind, reason in zip(*[iter(texts)] * 4, strict=False):
        if what == "l":
            LOGGER.error("%s %r: %s", "rule of kind" if kind == "rule" else kind, name, reason)
        else:
            text = "set aside instance %s of kind %r: %s" if what else "instance %s of kind %r: %s"
            LOGGER.error(text, name, kind or "?", reason)


def check_cursor(cursor: str, form: str) -> str:
    """The cursor, if it has our form; otherwise raises OptionError, as a script would fail on it."""
    if re.fullmatch(form, cursor, re.ASCII) is None:
        raise OptionError("cursor", cursor, "one that came with a page")
    return cursor
