"""Child processes that end when the demo ends, however it ends."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from typing import IO

TAIL = 2_000
"""Bytes of a failed child's complaints that are shown."""
PATIENCE = 10.0
"""Seconds that a child has to end once its standard input has ended."""


class DemoError(Exception):
    """The demo cannot go on; the text is for its user."""


class Child:
    """A module of this package, run in a process of its own.

    It leads a session of its own, so that Ctrl-C in a terminal reaches the demo alone. What it prints is kept in a
    file without a name, and `complaints` shows the end of it; with `answers` its standard output is a pipe instead.
    """

    def __init__(self, name: str, module: str, arguments: Sequence[str] = (), *, answers: bool = False) -> None:
        self.name = name
        self._output: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115  # until close()
        self._popen = subprocess.Popen(
            # -P: a file in the user's folder must not take the place of a module
            [sys.executable, "-P", "-m", f"{__package__}.{module}", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE if answers else self._output,
            stderr=self._output,
            start_new_session=True,
        )

    @property
    def pid(self) -> int:
        return self._popen.pid

    @property
    def status(self) -> int | None:
        """Exit status, negative for a signal; None while it runs."""
        return self._popen.poll()

    def check(self) -> None:
        """Raise DemoError if it has ended."""
        if (status := self.status) is not None:
            raise DemoError(f"{self.name} ended by itself with status {status}{self.complaints()}")

    def complaints(self) -> str:
        """The end of what it printed, on lines of their own; empty if it printed nothing."""
        size = self._output.seek(0, os.SEEK_END)
        self._output.seek(max(0, size - TAIL))
        text = self._output.read().decode(errors="replace").strip()
        return f"; its last words:\n{text}" if text else ""

    async def tell(self, line: str) -> None:
        """Write one line to it."""
        assert self._popen.stdin is not None
        stream = self._popen.stdin

        def write() -> None:
            with contextlib.suppress(BrokenPipeError):  # check() tells why it has ended
                stream.write(line.encode() + b"\n")
                stream.flush()

        await asyncio.to_thread(write)

    async def answer(self, timeout: float | None = None) -> str:
        """The next line that it prints; raises DemoError when it ends without one, or `timeout` seconds pass."""
        assert self._popen.stdout is not None
        try:
            async with asyncio.timeout(timeout):
                line = await asyncio.to_thread(self._popen.stdout.readline)
        except TimeoutError:
            raise DemoError(f"{self.name} gave no answer within {timeout:g} s{self.complaints()}") from None
        if not line:
            raise DemoError(f"{self.name} ended before it had done its work{self.complaints()}")
        return line.decode().rstrip("\n")

    def signal(self, number: signal.Signals) -> None:
        """Send a signal, if it still runs."""
        self._popen.send_signal(number)

    def kill(self) -> None:
        """End it at this instant, as `kill -9` does."""
        self._popen.kill()

    async def ended(self, timeout: float) -> bool:
        """Wait up to `timeout` seconds for its end; False if it still runs."""
        try:
            await asyncio.to_thread(self._popen.wait, timeout)
        except subprocess.TimeoutExpired:
            return False
        return True

    def hang_up(self) -> None:
        """Have it end at once, as if the demo had gone."""
        assert self._popen.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # words that it never read
            self._popen.stdin.close()

    def close(self) -> None:
        """Have it end, and kill it if it does not; idempotent."""
        self.hang_up()
        try:
            self._popen.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self._popen.kill()
            self._popen.wait()
        if self._popen.stdout is not None:
            self._popen.stdout.close()
        self._output.close()


def end_with_demo() -> None:
    """In a child: end this process when the demo does, which closes our standard input."""

    def wait() -> None:
        # not sys.stdin: the interpreter cannot end while a thread holds its lock
        while os.read(0, 4096):
            pass
        os._exit(1)

    threading.Thread(target=wait, name="end-with-demo", daemon=True).start()
