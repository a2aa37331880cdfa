"""A fresh server for each peer and round, and the CPU time that it uses."""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from collections.abc import Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from support.etcd import EtcdServer
from support.postgres import USER, programs
from support.processes import ChildProcess
from support.servers import MissingServerError, RedisServer, ServerProcess, ValkeyServer, free_port

from .catalogue import ServiceKind
from .system import raise_priority


@dataclass(frozen=True, kw_only=True)
class Service:
    url: str
    pid: int | None = None
    """The first process of the server; None for a file and for memory."""


SERVERS: dict[str, type[ServerProcess]] = {"redis": RedisServer, "valkey": ValkeyServer, "etcd": EtcdServer}


@contextmanager
def running(kind: ServiceKind) -> Generator[Service]:
    """Run a server, empty, in front of all other processes of the measurement: none is to wait for its turn."""
    match kind:
        case "memory":
            yield Service(url="memory://")
        case "sqlite":
            with tempfile.TemporaryDirectory(prefix="peers-") as folder:
                yield Service(url=f"sqlite://{folder}/peerjob.db")
        case "postgres":
            with _postgres() as service:
                yield service
        case _:
            # an etcd of tests does not sync; here it does, as by default
            server = EtcdServer(config=("--unsafe-no-fsync=false",)) if kind == "etcd" else SERVERS[kind]()
            with server:
                raise_priority(server.child.pid)
                yield Service(url=server.url, pid=server.child.pid)


@contextmanager
def _postgres() -> Generator[Service]:
    """Run PostgreSQL of Debian's packages with its own defaults, as an unprivileged user."""
    found = programs()
    with tempfile.TemporaryDirectory(prefix="peers-") as folder:
        home, port = Path(folder), free_port()
        if USER is not None:
            shutil.chown(home, USER)
        data = home / "data"
        initdb: list[str | Path] = [
            found / "initdb",
            "--auth=trust",
            "--username=postgres",
            "--no-sync",
            "--pgdata",
            data,
        ]
        subprocess.run(initdb, check=True, user=USER, cwd=home, capture_output=True)
        options = {"listen_addresses": "127.0.0.1", "port": str(port), "unix_socket_directories": str(home)}
        command: list[str | Path] = [found / "postgres", "-D", data]
        command += [f"--{name}={value}" for name, value in options.items()]
        if USER is not None:
            command = ["setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups", *command]
        with ChildProcess(command, output=home / "log") as server:
            server.wait_for("ready to accept connections")
            raise_priority(server.pid)
            yield Service(url=f"postgresql://postgres@127.0.0.1:{port}/postgres", pid=server.pid)


def server_versions() -> dict[str, str]:
    """The version of each server that this machine has, as it says itself."""
    found: dict[str, str] = {}
    for name, server in SERVERS.items():
        with suppress(MissingServerError):
            found[name] = _version(server.binary())
    with suppress(MissingServerError):
        found["postgres"] = _version(programs() / "postgres")
    return found


def _version(program: Path) -> str:
    said = subprocess.run([program, "--version"], check=True, capture_output=True, text=True).stdout
    match = re.search(r"\d+(\.\d+)+", said)
    return match[0] if match else said.strip()
