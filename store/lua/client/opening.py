"""Opens a connection to a server: looks up its addresses, tries them without waiting for those that hang, signs in."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeVar

from peerjob.store.url import Host

from .connection_options import ConnectionOptions
from .credentials import Given
from .first_answer import NoAnswerError, first_answer
from .redis_py import StreamOwner, connect
from .replies import DisconnectedError, ServerError, not_connected

S = TypeVar("S", bound=StreamOwner)


async def open_stream(
    make: Callable[[], S], server: Host | str, options: ConnectionOptions, deadline: float
) -> tuple[S, Given]:
    """Connect to a host, or to the path of a socket, and sign in until `deadline`, a time of the event loop.

    Returns the owner of the stream, and the credentials that the server accepted. A refusal asks the provider of
    credentials once more. Raises DisconnectedError, CallTimeoutError, and ServerError if the server refuses the
    connection.
    """
    given = await options.given()
    try:
        return await _open(make, server, options, given, deadline), given
    except ServerError as error:
        if options.credentials is None or not error.refuses_credentials:
            raise
    given = await options.credentials.instead_of(given)
    return await _open(make, server, options, given, deadline), given


async def _open(
    make: Callable[[], S], server: Host | str, options: ConnectionOptions, given: Given, deadline: float
) -> S:
    try:
        tls = options.tls_context()
        addresses = [server] if isinstance(server, str) else await _addresses(server, options.timeout)
    except (OSError, ValueError) as error:
        raise not_connected(server, error) from error

    async def attempt(address: str) -> S:
        owner = make()
        await connect(owner, server, address, options, given, tls, deadline)
        return owner

    if len(addresses) == 1:
        return await attempt(addresses[0])
    # A dead address must not take the time of the others.
    attempts = [partial(attempt, address) for address in addresses]
    try:
        return await first_answer(attempts, expected=(DisconnectedError,), discard=lambda owner: owner.end())
    except NoAnswerError as error:
        raise DisconnectedError(" ".join(dict.fromkeys(map(str, error.problems)))) from None


async def _addresses(server: Host, timeout: float) -> Sequence[str]:
    """Return the addresses of a host, the preferred one first."""
    if _is_address(server.name):
        return [server.name]
    async with asyncio.timeout(timeout):
        answers = await asyncio.get_running_loop().getaddrinfo(server.name, server.port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(_with_scope(address) for *_, address in answers))


def _is_address(name: str) -> bool:
    for family in (socket.AF_INET, socket.AF_INET6):
        with contextlib.suppress(OSError):
            socket.inet_pton(family, name)
            return True
    return False


def _with_scope(address: Sequence[Any]) -> str:
    """Return an address with the network interface of a link-local one."""
    name, _, *more = address
    return f"{name}%{more[1]}" if more and more[1] else name
