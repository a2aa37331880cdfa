"""The options of redis-py's connections, from an address, and the end of a connection."""

from __future__ import annotations

from typing import Any

from redis.asyncio.connection import AbstractConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from .address import Address, Tls


def connection_options(address: Address, connect_timeout: float) -> dict[str, Any]:
    """The options of a connection to the server, without its host."""
    return {
        **_common(address.username, address.password, connect_timeout),
        **_tls_options(address.tls),
        "db": address.db,
        "client_name": "peerjob",
    }


def sentinel_options(address: Address, connect_timeout: float) -> dict[str, Any]:
    """The options of a connection to a sentinel, without its host."""
    settings = address.sentinel
    assert settings is not None, "the address has sentinels"
    return {
        **_common(settings.username, settings.password, connect_timeout),
        **_tls_options(address.tls if settings.tls else None),
    }


def _common(username: str, password: str, connect_timeout: float) -> dict[str, Any]:
    return {
        "username": username or None,
        "password": password or None,
        "protocol": 2,
        "socket_timeout": None,
        "socket_connect_timeout": connect_timeout,
        "retry": Retry(NoBackoff(), 0),
    }


def _tls_options(tls: Tls | None) -> dict[str, Any]:
    if tls is None:
        return {}
    files = {"ssl_ca_certs": tls.ca_certs, "ssl_certfile": tls.cert_file, "ssl_keyfile": tls.key_file}
    return {
        **{name: str(path) for name, path in files.items() if path is not None},
        "ssl_cert_reqs": "required" if tls.verify else "none",
        "ssl_check_hostname": tls.verify and tls.check_hostname,
    }


async def end(connection: AbstractConnection) -> None:
    """Close a connection at once.

    With TLS, redis-py would leave the socket open until the server answers; an event loop that ends first never closes
    it.
    """
    writer = connection._writer  # pyright: ignore[reportPrivateUsage]
    if writer is not None:
        writer.transport.abort()
    await connection.disconnect(nowait=True)
