"""The servers that the grid starts, and what each of them did: requests, operations, bytes, CPU time and memory."""

import os
import re
import resource
import sqlite3
import time
import urllib.request
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Self, cast
from unittest import mock

from files import SqliteFile
from peerjob.store.memory.data import MemoryData
from peerjob.store.memory.driver import MemoryKeyValue
from peerjob.store.sqlite.session import Session
from support.etcd import EtcdServer
from support.servers import SERVERS, Server, ServerKind

from .cells import ETCD_QUOTA

DIRECT = frozenset(("evalsha", "evalsha_ro", "eval", "blmpop", "blpop", "brpop", "ping", "wait", "waitaof"))
"""Commands that a store sends itself. Redis counts all other commands inside scripts."""
SETTINGS = ("--maxclients", "10000", "--slowlog-log-slower-than", "-1")
_OWN = ("info", "client|setinfo", "client|setname", "client|id", "hello", "select", "script|load", "config|get", "auth")
_ETCD_SETTINGS = (
    *("--snapshot-count", "10000", "--auto-compaction-mode", "periodic", "--auto-compaction-retention", "1m"),
)
_BUCKET = re.compile(r'^etcd_server_apply_duration_seconds_bucket\{op="Txn",.*le="([^"]+)"\} (\S+)$')


@dataclass(frozen=True, kw_only=True)
class Reading:
    """Totals; the difference of two readings is what happened between them."""

    requests: float = 0
    """Requests that clients sent: a script, a transaction, a blocking read."""
    operations: float = 0
    """Commands also within scripts, operations of etcd, statements of SQLite."""
    traffic: float = 0
    """Bytes to and from the clients."""
    cpu_ms: float = 0
    """CPU time of the server; of this process, if the store has no server."""

    def __add__(self, other: "Reading") -> "Reading":
        return Reading(**{one.name: getattr(self, one.name) + getattr(other, one.name) for one in fields(self)})

    def __sub__(self, other: "Reading") -> "Reading":
        return Reading(**{one.name: getattr(self, one.name) - getattr(other, one.name) for one in fields(self)})


class Site(ABC):
    """One engine with an empty store."""

    engine: str
    url: str

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @abstractmethod
    def read(self) -> Reading: ...

    @abstractmethod
    def memory(self) -> int:
        """Bytes that the store takes now: memory, or, on etcd and SQLite, the disk."""

    @abstractmethod
    def longest_ms(self) -> dict[str, float]:
        """The longest scripts or transactions since the last call, in milliseconds, by name."""

    @abstractmethod
    def close(self) -> None: ...


class LuaSite(Site):
    """A Redis or Valkey: a new one, or one that runs already."""

    def __init__(self, kind: ServerKind, running: Server | None = None) -> None:
        self.engine = kind
        self._server = running or SERVERS[kind](config=SETTINGS).start()
        self.url = self._server.url
        self._own_bytes = 0.0
        self._readings = 0
        first, second = self.read(), self.read()
        self._own_bytes = second.traffic - first.traffic

    def read(self) -> Reading:
        info = self._info("all")
        calls = {
            name.removeprefix("cmdstat_"): int(of["calls"]) for name, of in info.items() if name.startswith("cmdstat_")
        }
        self._readings += 1
        for own in _OWN:
            calls.pop(own, None)
        moved = float(info["total_net_input_bytes"]) + float(info["total_net_output_bytes"])
        return Reading(
            requests=sum(count for name, count in calls.items() if name in DIRECT),
            operations=sum(calls.values()),
            traffic=moved - self._own_bytes * self._readings,
            cpu_ms=1000 * (float(info["used_cpu_user"]) + float(info["used_cpu_sys"])),
        )

    @property
    def pid(self) -> int:
        return self._server.child.pid

    def _info(self, section: str) -> dict[str, Any]:
        return cast("dict[str, Any]", self._server.command("INFO", section))

    def memory(self) -> int:
        return int(self._info("memory")["used_memory"])

    def longest_ms(self) -> dict[str, float]:
        return {}  # see measuring.longest, which meters each script

    def close(self) -> None:
        self._server.close()


class EtcdSite(Site):
    """An etcd of one member, set as docs/etcd.md advises."""

    engine = "etcd"

    def __init__(self) -> None:
        self._server = EtcdServer(quota=ETCD_QUOTA, config=_ETCD_SETTINGS)
        self._server.start()
        self.url = f"{self._server.url}?quota={ETCD_QUOTA}"
        self._metrics = f"{self._server.endpoint}/metrics"
        self._buckets = self._histogram(self._lines())

    @property
    def pid(self) -> int:
        return self._server.child.pid

    def _lines(self) -> list[str]:
        with urllib.request.urlopen(self._metrics) as reply:  # noqa: S310  # of our own server
            text: str = reply.read().decode()
        return text.splitlines()

    def read(self) -> Reading:
        requests = operations = traffic = 0.0
        for line in self._lines():
            if line.startswith("grpc_server_msg_received_total"):
                requests += float(line.rpartition(" ")[2])
            elif line.startswith("etcd_network_client_grpc_"):
                traffic += float(line.rpartition(" ")[2])
            elif re.match(r"etcd_mvcc_(put|delete|range)_total ", line):
                operations += float(line.rpartition(" ")[2])
        return Reading(requests=requests, operations=operations, traffic=traffic, cpu_ms=threads_cpu_ms(self.pid))

    def memory(self) -> int:
        self._server.compact()
        return int(self._server.call("maintenance/status")["dbSizeInUse"])

    def longest_ms(self) -> dict[str, float]:
        before, self._buckets = self._buckets, self._histogram(self._lines())
        # the buckets are cumulative: the longest transaction is in the first one that holds all of them
        grown = {limit: count - before.get(limit, 0) for limit, count in self._buckets.items()}
        most = max(grown.values(), default=0)
        if not most:
            return {}
        return {"txn, at most": 1000 * min(limit for limit, count in grown.items() if count == most)}

    @staticmethod
    def _histogram(lines: list[str]) -> dict[float, float]:
        found: dict[float, float] = {}
        for line in lines:
            if match := _BUCKET.match(line):
                limit = float(match[1].replace("+Inf", "inf"))
                found[limit] = found.get(limit, 0) + float(match[2])
        return found

    def close(self) -> None:
        self._server.close()


class LocalSite(Site):
    """A store in this process: SQLite or memory. Its CPU time is that of the process, with the client's part."""

    def __init__(self) -> None:
        self._counted = 0
        self._longest = 0.0
        self._patches: list[Any] = []

    def _count(self, _statement: object = None) -> None:
        self._counted += 1

    def _timed(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any, **options: Any) -> Any:
            began = time.thread_time()
            try:
                return call(*args, **options)
            finally:
                self._longest = max(self._longest, time.thread_time() - began)

        return timed

    def _patch(self, owner: Any, name: str, value: Any) -> None:
        patch = mock.patch.object(owner, name, value)
        patch.start()
        self._patches.append(patch)

    def read(self) -> Reading:
        return Reading(requests=self._counted, operations=self._counted, cpu_ms=1000 * time.process_time())

    def longest_ms(self) -> dict[str, float]:
        longest, self._longest = self._longest, 0.0
        return {"transaction": 1000 * longest} if longest else {}

    def close(self) -> None:
        for patch in self._patches:
            patch.stop()


class SqliteSite(LocalSite):
    """A file of SQLite; its operations are statements of this process."""

    engine = "sqlite"

    def __init__(self) -> None:
        super().__init__()
        self._file = SqliteFile("normal").start()
        self.url = self._file.url
        connect = sqlite3.connect

        def counted(*args: Any, **options: Any) -> sqlite3.Connection:
            connection: sqlite3.Connection = connect(*args, **options)
            connection.set_trace_callback(self._count)
            return connection

        self._patch(sqlite3, "connect", counted)
        self._patch(Session, "write", self._timed(Session.write))

    def memory(self) -> int:
        return sum(path.stat().st_size for path in self._file.path.parent.iterdir() if path.is_file())

    def close(self) -> None:
        super().close()
        self._file.close()


class MemorySite(LocalSite):
    """The store in memory; its operations are calls of the driver."""

    engine = "memory"

    def __init__(self) -> None:
        super().__init__()
        self.url = "memory://scale"
        for name in ("get", "read", "txn", "grant", "keepalive", "extend", "revoke", "remaining"):
            self._patch(MemoryKeyValue, name, self._counting(getattr(MemoryKeyValue, name)))
        self._patch(MemoryData, "apply", self._timed(MemoryData.apply))

    def _counting(self, call: Callable[..., Any]) -> Callable[..., Any]:
        async def counted(*args: Any, **options: Any) -> Any:
            self._count()
            return await call(*args, **options)

        return counted

    def memory(self) -> int:
        return resident(os.getpid())


def site_of(engine: str) -> Site:
    """Start the server of an engine; raises MissingServerError."""
    if engine in ("redis", "valkey"):
        return LuaSite(engine)  # type: ignore[arg-type]
    sites: dict[str, Callable[[], Site]] = {"etcd": EtcdSite, "sqlite": SqliteSite, "memory": MemorySite}
    return sites[engine]()


def threads_cpu_ms(pid: int) -> float:
    """Milliseconds of CPU time that the threads of a process have used; more exact than the ticks of its sum."""
    spent = 0
    for thread in Path(f"/proc/{pid}/task").iterdir():
        try:
            spent += int((thread / "schedstat").read_text().split()[0])
        except FileNotFoundError:
            continue  # the thread has just ended
    return spent / 1e6


def resident(pid: int) -> int:
    """Bytes of memory that a process has now."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * resource.getpagesize()


@contextmanager
def metered(engine: str) -> Generator[Site]:
    """The site of an engine, closed at the end."""
    with site_of(engine) as site:
        yield site
