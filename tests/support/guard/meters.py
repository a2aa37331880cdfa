"""What a server was asked to do: counts that it keeps itself, or that SQLite reports, and the requests that left us."""

from __future__ import annotations

import re
import sqlite3
import urllib.request
from collections import Counter
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any, Protocol
from unittest import mock

from peerjob.store.lua.client.connection import ServerConnection
from peerjob.store.sqlite import thread
from support.etcd import EtcdServer
from support.servers import Server

Counts = Counter[str]
ROUND_TRIPS = "round trips"
_ETCD_CALLS = re.compile(r'^grpc_server_started_total\{grpc_method="(\w+)",grpc_service="etcdserverpb.KV".*\} (\S+)$')
_ETCD_WORK = re.compile(r"^etcd_mvcc_(put|delete|range|txn)_total (\S+)$")
_SHARED = ("begin", "rollback", "pragma")


class Meter(Protocol):
    """Reads totals; the difference of two readings is the cost of what ran between them."""

    def read(self) -> Counts: ...


class RedisMeter:
    """The commands that a Redis ran, also those inside scripts, and the writes of this process to its connections."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._writes = 0

    @contextmanager
    def counting(self) -> Generator[RedisMeter]:
        """Count the writes of all connections of this process."""
        call = ServerConnection.call

        def counted(*args: Any, **options: Any) -> Any:
            self._writes += 1
            return call(*args, **options)

        with mock.patch.object(ServerConnection, "call", counted):
            yield self

    def read(self) -> Counts:
        stats = self._server.command("INFO", "commandstats")
        assert isinstance(stats, dict)
        found = Counter({str(name).removeprefix("cmdstat_"): int(of["calls"]) for name, of in stats.items()})
        del found["info"]  # the meter's own
        for own in ("client|setinfo", "client|setname", "hello", "select"):
            del found[own]  # of a new connection, which the meter and a store open now and then
        found[ROUND_TRIPS] = self._writes
        return found


class EtcdMeter:
    """The calls that an etcd got, and the operations that it did within them."""

    def __init__(self, server: EtcdServer) -> None:
        self._metrics = f"{server.endpoint}/metrics"

    def read(self) -> Counts:
        with urllib.request.urlopen(self._metrics) as reply:
            lines = reply.read().decode().splitlines()
        found = Counts()
        for line in lines:
            if call := _ETCD_CALLS.match(line):
                found[ROUND_TRIPS] += int(float(call[2]))
            elif work := _ETCD_WORK.match(line):
                found[work[1]] = int(float(work[2]))
        return found


class SqliteMeter:
    """The statements that SQLite ran on the connections of this process, by their first word.

    Each request has a transaction of its own here. Elsewhere, requests that come together share one. Transactions that
    only read are left out, since such reads still share them.
    """

    def __init__(self) -> None:
        self._statements = Counts()

    @contextmanager
    def counting(self) -> Generator[SqliteMeter]:
        """Count the statements of connections that are opened in this context."""
        connect = sqlite3.connect

        def counted(*args: Any, **options: Any) -> sqlite3.Connection:
            connection: sqlite3.Connection = connect(*args, **options)
            connection.set_trace_callback(self._count)
            return connection

        with mock.patch.object(sqlite3, "connect", counted), mock.patch.object(thread, "_MOST", 1):
            yield self

    def read(self) -> Counts:
        return Counts(self._statements)

    def _count(self, statement: str) -> None:
        word = statement.split(maxsplit=1)[0].lower()
        if word not in _SHARED:
            self._statements[word] += 1
