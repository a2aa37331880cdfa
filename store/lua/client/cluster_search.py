"""Asks the members of a cluster which server has a namespace."""

from __future__ import annotations

import asyncio
import binascii
from collections.abc import Sequence
from functools import partial
from typing import Any

from peerjob.model.errors import StoreUnavailableError
from peerjob.store.url import Host

from .address import Address
from .connection import ServerConnection
from .connection_options import ConnectionOptions
from .first_answer import NoAnswerError, first_answer
from .replies import CallTimeoutError, DisconnectedError, ServerError

_SLOTS = 16_384
_UNKNOWN = b"?"
"""The name of a member without a host name, if the cluster announces host names. Its IP address comes apart."""


def key_slot(key: str) -> int:
    """The slot of a key, or of its hash tag."""
    begin = key.find("{") + 1
    end = key.find("}", begin)
    hashed = key[begin:end] if 0 < begin < end else key
    return binascii.crc_hqx(hashed.encode(), 0) % _SLOTS


async def locate(
    prefix: str, known: Sequence[Host], address: Address, options: ConnectionOptions
) -> tuple[Host, tuple[Host, ...]]:
    """Ask for the server that serves keys with this prefix, and for all servers, for the next search.

    The first answer that names a server counts, as `first_answer` tells. If there is none, raises
    StoreUnavailableError, or the ServerError of a known server if each refused.
    """
    questions = [partial(_ask, host, key_slot(prefix), options) for host in known]
    try:
        return await first_answer(questions, expected=(ServerError, DisconnectedError, CallTimeoutError))
    except NoAnswerError as error:
        problems = error.problems
    if all(isinstance(problem, ServerError) for problem in problems):
        raise problems[-1]
    reasons = dict.fromkeys(str(problem) or "no answer in time" for problem in problems)
    raise StoreUnavailableError(address.url, "; ".join(reasons))


async def _ask(host: Host, slot: int, options: ConnectionOptions) -> tuple[Host, tuple[Host, ...]]:
    """Return the server that has a slot, and all servers, as one member of the cluster knows them."""
    ranges = await _slots(host, options)
    primary = _primary(ranges, slot, host)
    if primary is None:
        raise DisconnectedError("no server of the cluster has the slot of this namespace")
    return primary, _members(ranges, host)


async def _slots(host: Host, options: ConnectionOptions) -> list[Any]:
    """Return the ranges of slots, as one member of the cluster knows them."""
    deadline = asyncio.get_running_loop().time() + options.timeout
    connection = await ServerConnection.open(host, options, deadline)
    try:
        (reply,) = await connection.send([("CLUSTER", "SLOTS")], deadline)
    finally:
        connection.end()
    if isinstance(reply, ServerError):
        raise reply
    ranges: list[Any] = reply
    return ranges


def _primary(ranges: Sequence[Any], slot: int, asked: Host) -> Host | None:
    """Return the server that has a slot; None if no server has it, or one whose name is not known."""
    return next((_host(primary, asked) for first, last, primary, *_ in ranges if first <= slot <= last), None)


def _members(ranges: Sequence[Any], asked: Host) -> tuple[Host, ...]:
    """Return all servers; the one that answered is the last, because its answer may be out of date."""
    named = (_host(server, asked) for _, _, *servers in ranges for server in servers)
    return (*(server for server in dict.fromkeys(named) if server not in (None, asked)), asked)


def _host(server: Sequence[Any], asked: Host) -> Host | None:
    """Return the address of a server; None if it is not known.

    A server that does not know its own name gives none. It is at the host that was asked.
    """
    name, port, *more = server
    if name == _UNKNOWN:
        further: Sequence[bytes] = more[1] if len(more) > 1 else ()
        name = dict(zip(further[::2], further[1::2], strict=True)).get(b"ip")
        if not name:
            return None
    return Host(name.decode() if name else asked.name, int(port))
