"""Finds the primary through sentinels, and hears of failovers.

Each question goes to all sentinels at the same time. As soon as a majority has answered, the newest configuration among
the answers counts. So one sentinel that is down or behind does no harm. The found server itself must
also say that it is a primary: a sentinel can name the old primary for some seconds after a failover.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from peerjob.model.child_tasks import end
from peerjob.model.errors import (
    StoreCommandError,
    StoreCredentialsError,
    StoreError,
    StorePermissionError,
    StoreUnavailableError,
)
from peerjob.store.lua.scripts.script import Argument
from peerjob.store.url import Host

from .address import Address
from .connection import ServerConnection
from .connection_options import ConnectionOptions, sentinel_options, server_options
from .credentials import Credentials
from .replies import DisconnectedError, ServerError
from .subscription import Subscription

LOGGER = logging.getLogger("peerjob.store")
ASK_TIMEOUT = 1.0
"""Seconds that one sentinel, or the found server, has to answer."""
CHECK_EVERY = 5.0
"""After this many seconds without a message, `follow` asks the sentinels, because a message can be lost."""
LISTEN_AGAIN = 0.5
"""Seconds until `follow` listens to the next sentinel after a sentinel was lost."""
_SWITCH = "+switch-master"
_DOWN = {"s_down", "o_down", "disconnected"}


@dataclass(frozen=True, kw_only=True)
class Primary:
    """The primary, as one sentinel knows it."""

    host: Host
    epoch: int
    """The number of the configuration; each failover has a higher one."""
    down: bool
    """Whether the sentinel regards the primary as down."""
    quorum: int
    replicas: int


@dataclass(frozen=True, kw_only=True)
class SentinelAnswers:
    """The answers of the sentinels to one question."""

    known: tuple[Primary, ...]
    """One element for each sentinel that monitors the primary."""
    problems: tuple[str, ...]
    """Why the other sentinels gave no answer."""

    @property
    def newest(self) -> Primary | None:
        """The newest configuration, if possible of a sentinel that can reach the primary."""
        return max(self.known, key=lambda primary: (primary.epoch, not primary.down), default=None)


class Sentinels:
    """The sentinels of an address."""

    def __init__(self, address: Address, connect_timeout: float, credentials: Credentials | None = None) -> None:
        assert address.sentinel is not None, "the address has sentinels"
        self._address = address
        self._majority = len(address.hosts) // 2 + 1
        self._name = address.sentinel.primary
        self._options = sentinel_options(address, min(ASK_TIMEOUT, connect_timeout))
        self._server_options = server_options(address, connect_timeout, credentials)

    @property
    def hosts(self) -> tuple[Host, ...]:
        """The addresses of the sentinels."""
        return self._address.hosts

    async def primary(self) -> Host:
        """The server that is the primary now.

        Raises StoreUnavailableError if there is none at the moment. If no sentinel answers and a majority refuses,
        raises the error of a refusal: StoreError for an unknown name of the primary, StoreCredentialsError and so on.
        """
        answers = await self.ask(enough=self._majority)
        newest = answers.newest
        if newest is None:
            raise StoreUnavailableError(self._address.url, f"no sentinel answers: {'; '.join(answers.problems)}")
        if newest.down:
            raise StoreUnavailableError(self._address.url, f"the sentinels wait for a failover of {newest.host}")
        await self._check_role(newest.host)
        return newest.host

    async def ask(self, *, enough: int) -> SentinelAnswers:
        """Ask all sentinels, and wait for `enough` answers. Raises the error of a refusal as `primary` does."""
        known: list[Primary] = []
        problems: list[str] = []
        refusals: list[StoreError] = []
        questions = [asyncio.create_task(self._ask(host), name="peerjob-sentinel") for host in self._address.hosts]
        try:
            for question in asyncio.as_completed(questions):
                try:
                    known.append(await question)
                except StoreUnavailableError as error:
                    problems.append(error.reason)
                except StoreError as error:
                    problems.append(str(error))
                    refusals.append(error)
                if len(known) >= enough:
                    break
        finally:
            await end(questions)
        if not known and len(refusals) >= self._majority:
            raise refusals[0]
        return SentinelAnswers(known=tuple(known), problems=tuple(problems))

    async def follow(self, moved: Callable[[Host], Awaitable[None]]) -> None:
        """Call `moved` with the primary after each failover, and now and then without one; runs until cancelled."""
        for host in itertools.cycle(self._address.hosts):
            try:
                await self._listen(host, moved)
            except Exception as error:  # noqa: BLE001  # no message of a sentinel may end the search for failovers
                LOGGER.debug("listening to the sentinel %s failed: %r", host, error)
            await asyncio.sleep(LISTEN_AGAIN)

    async def _listen(self, host: Host, moved: Callable[[Host], Awaitable[None]]) -> None:
        connection = await Subscription.open(host, self._options, _deadline())
        try:
            await connection.subscribe(_SWITCH, _deadline())
            while True:
                # Ask also after each connection: the failover may be over already.
                await moved(await self.primary())
                while (switched := await self._switch(connection)) is not None:
                    LOGGER.info("the sentinel %s says that %s is the primary of %s now", host, switched, self._name)
                    await moved(switched)
        finally:
            connection.end()

    async def _switch(self, connection: Subscription) -> Host | None:
        """Return the new primary, when a failover is over; None if none came for a while."""
        try:
            async with asyncio.timeout(CHECK_EVERY):
                while True:
                    _, _, data = await connection.next_message()
                    name, _, _, host, port = data.decode().split(" ")
                    if name == self._name:
                        return Host(host, int(port))
        except TimeoutError:
            return None

    async def _ask(self, host: Host) -> Primary:
        """Return what a sentinel knows."""
        url = self._address.url
        try:
            flat: list[bytes] = await _asked(host, self._options, "SENTINEL", "MASTER", self._name)
        except ServerError as error:
            raise self._refusal(host, error) from error
        except (DisconnectedError, OSError) as error:
            reason = f"no answer within {ASK_TIMEOUT:g} s" if isinstance(error, TimeoutError) else str(error)
            raise StoreUnavailableError(url, f"{host}: {reason}") from error
        try:
            fields = dict(zip(map(bytes.decode, flat[::2]), map(bytes.decode, flat[1::2]), strict=True))
            return Primary(
                host=Host(fields["ip"], int(fields["port"])),
                epoch=int(fields["config-epoch"]),
                down=not _DOWN.isdisjoint(fields["flags"].split(",")),
                quorum=int(fields["quorum"]),
                replicas=int(fields["num-slaves"]),
            )
        except (LookupError, TypeError, ValueError) as error:
            raise StoreUnavailableError(url, f"{host}: its answer about {self._name!r} cannot be read") from error

    def _refusal(self, host: Host, error: ServerError) -> StoreError:
        """Return the error to raise for an answer of a sentinel."""
        url, text = self._address.url, str(error)
        if error.code in ("NOAUTH", "WRONGPASS") or "called without any password" in text:
            return StoreCredentialsError(f"the sentinel {host} of {url} refused the credentials: {text}")
        if error.code == "NOPERM":
            return StorePermissionError(f"the user lacks a right on the sentinel {host} of {url}: {text}")
        if "No such master" in text:
            return StoreError(
                f"the sentinel {host} of {url} monitors no primary with the name {self._name!r}; "
                "`SENTINEL MASTERS` lists the names"
            )
        if "unknown command" in text:
            return StoreCommandError(f"{host} in {url} is not a sentinel: it lacks the command SENTINEL")
        return StoreUnavailableError(url, f"{host}: {text}")

    async def _check_role(self, host: Host) -> None:
        """Raise StoreUnavailableError if a server is not a primary. Other errors appear at the first call."""
        try:
            role = (await _asked(host, self._server_options, "ROLE"))[0]
        except (ServerError, DisconnectedError, OSError):
            return
        if role != b"master":
            raise StoreUnavailableError(self._address.url, f"{host} is not the primary any more, or not yet")


async def _asked(host: Host, options: ConnectionOptions, *command: Argument) -> Any:
    """Return the answer to a command on a connection of its own."""
    deadline = _deadline()
    async with asyncio.timeout_at(deadline):
        connection = await ServerConnection.open(host, options, deadline)
        try:
            (reply,) = await connection.send([command], deadline)
        finally:
            connection.end()
    if isinstance(reply, ServerError):
        raise reply
    return reply


def _deadline() -> float:
    return asyncio.get_running_loop().time() + ASK_TIMEOUT
