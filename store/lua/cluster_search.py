"""Asks the members of a cluster which server has a namespace."""

from __future__ import annotations

import asyncio
import binascii
from collections.abc import Sequence
from typing import Any

from peerjob.model.errors import StoreUnavailableError
from peerjob.store.url import Host

from .address import Address
from .connection import ServerConnection
from .connection_options import ConnectionOptions
from .replies import CallTimeoutError, ConnectionLostError, ServerError

_SLOTS = 16_384


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

    The first answer that names a server counts. If there is none, raises StoreUnavailableError, or the ServerError of
    the last known server if each refused.
    """
    slot, problems = key_slot(prefix), list[Exception]()
    for host in known:
        try:
            ranges = await _slots(host, options)
        except (ServerError, ConnectionLostError, CallTimeoutError) as error:
            problems.append(error)
            continue
        for first, last, primary, *_ in ranges:
            if first <= slot <= last:
                return _host(primary, host), _members(ranges, host)
        problems.append(ConnectionLostError("no server of the cluster has the slot of this namespace"))
    if all(isinstance(problem, ServerError) for problem in problems):
        raise problems[-1]
    reasons = dict.fromkeys(str(problem) or "no answer in time" for problem in problems)
    raise StoreUnavailableError(address.url, "; ".join(reasons))


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


def _members(ranges: Sequence[Any], asked: Host) -> tuple[Host, ...]:
    return tuple(dict.fromkeys(_host(server, asked) for _, _, *servers in ranges for server in servers))


def _host(server: Sequence[Any], asked: Host) -> Host:
    """Return the address of a server; a server that does not know its own name gives none."""
    name, port = server[:2]
    return Host(name.decode() if name else asked.name, int(port))
