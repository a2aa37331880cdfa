"""The names of redis-py that one module uses although they are private, and the releases that have them."""

import ast
import asyncio
import socket
import ssl
import tomllib
from pathlib import Path
from typing import Any

import redis
from packaging.requirements import Requirement
from redis.asyncio.connection import AbstractConnection, Connection, SSLConnection

from peerjob.store.lua.client import redis_py

ROOT = Path(__file__).parents[3]


async def test_the_private_names_of_redis_py_exist() -> None:
    """A release that renames one would leave a password in plain text, or a stream without an owner."""
    connection: Any = Connection(host="127.0.0.1", port=1)
    assert connection._reader is None
    assert connection._writer is None
    assert connection._connection_arguments() == {"host": "127.0.0.1", "port": 1}
    assert not connection.is_connected

    async with await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0) as server:
        opened: Any = Connection(
            host="127.0.0.1", port=server.sockets[0].getsockname()[1], driver_info=None, protocol=2
        )
        await opened.connect()
        assert isinstance(opened._reader, asyncio.StreamReader)
        assert isinstance(opened._writer, asyncio.StreamWriter)
        await opened.disconnect()


def test_redis_py_takes_a_context_for_tls() -> None:
    context = ssl.create_default_context()
    connection: Any = SSLConnection(host="127.0.0.1", port=1)
    assert connection.ssl_context.context is None
    connection.ssl_context.context = context
    assert connection._connection_arguments() == {"host": "127.0.0.1", "port": 1, "ssl": context}


def test_the_private_names_of_the_blocking_connections_exist() -> None:
    """A release that renames one would keep the socket, or connect without the context of the URL."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        opened: Any = redis.Connection(host="127.0.0.1", port=port, driver_info=None, protocol=2)  # type: ignore[no-untyped-call]
        opened.connect()
        assert isinstance(opened._sock, socket.socket)
        opened.disconnect()
        assert opened._sock is None
    assert "_wrap_socket_with_ssl" in vars(redis.SSLConnection)


def test_redis_py_signs_in_through_the_methods_that_are_replaced() -> None:
    replaced = {name for name, value in vars(vars(redis_py)["_HandedOver"]).items() if callable(value)}
    assert replaced == {"on_connect", "on_connect_check_health", "send_command", "read_response"}
    assert replaced <= vars(AbstractConnection).keys()


def test_one_module_imports_redis_py() -> None:
    """Others import its types only, so a process without a Redis does not load it."""
    found = set[str]()
    for path in _sources():
        text = path.read_text()
        for node in ast.parse(text).body if "redis" in text else []:
            names = [one.name for one in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and not node.level:
                names = [node.module or ""]
            if any(name.split(".")[0] == "redis" for name in names):
                found.add(path.name)
    assert found == {"redis_py.py"}


def _sources() -> list[Path]:
    folders = [ROOT / "src" / "peerjob", *(ROOT / name for name in ("cluster", "node", "proto", "store"))]
    return [path for folder in folders for path in folder.rglob("*.py")]


def test_the_project_asks_for_releases_that_are_known() -> None:
    needed = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    (wanted,) = [one for one in map(Requirement, needed) if one.name == "redis"]
    assert wanted.specifier.contains(redis.__version__)
    next_major = f"{int(redis.__version__.split('.')[0]) + 1}.0.0"
    assert not wanted.specifier.contains(next_major), "a later release can rename what is private"
