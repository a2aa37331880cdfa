"""Child processes that can be killed, paused and listened to, and that die with the test run.

Every child is started from one thread that lives as long as the interpreter, since Linux sends the
"parent died" signal when the *thread* that started a child ends, and tests run on short-lived ones too.
"""

import asyncio
import atexit
import contextlib
import ctypes
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Self

from support.waiting import PATIENCE

_TESTS = Path(__file__).parents[1]
_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None)
_starter = ThreadPoolExecutor(max_workers=1, thread_name_prefix="starter-of-children")


def _prepare() -> None:
    """Bind the child's life to its parent's, before the parent learns that the child runs.

    The child heeds interrupts: a test run in the background may ignore SIGINT, which children would inherit.
    """
    if sys.platform == "linux":
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    signal.signal(signal.SIGINT, signal.SIG_DFL)


class ChildProcess:
    """A running child process whose lines of output can be waited for.

    Output (both streams) goes to the file `output` as it comes. The child leads a process group of its
    own, and `close` ends the whole group, so that nothing it started is left behind.
    """

    def __init__(
        self,
        command: Sequence[str | Path],
        *,
        output: Path,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
    ) -> None:
        self.name = Path(command[0]).name
        self.output = output
        self._lines: list[str] = []
        self._ended = False
        self.was_paused = False
        self._news = threading.Condition()
        self._popen = _starter.submit(
            subprocess.Popen[bytes],
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**os.environ, **(env or {})},
            cwd=cwd,
            start_new_session=True,
            preexec_fn=_prepare,
        ).result()
        atexit.register(self.close)
        self._reader = threading.Thread(target=self._read, name=f"output-of-{self.name}", daemon=True)
        self._reader.start()

    @classmethod
    def python(
        cls,
        target: str | Path,
        *arguments: str,
        output: Path,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        wrapper: Sequence[str] = (),
    ) -> Self:
        """Run a module (by its dotted name; `support.x` is tests/support/x.py) or a script (by its path).

        A `wrapper` is what goes before the interpreter on the command line.
        """
        run = [str(target)] if isinstance(target, Path) else ["-m", target]
        command = [*wrapper, sys.executable, "-P", "-u", *run, *arguments]
        return cls(command, output=output, env={"PYTHONPATH": str(_TESTS), **(env or {})}, cwd=cwd)

    @property
    def pid(self) -> int:
        return self._popen.pid

    @property
    def running(self) -> bool:
        return self.returncode is None

    @property
    def returncode(self) -> int | None:
        """The exit status, or None while it runs; negative: the signal that killed it."""
        return self._popen.poll()

    @property
    def lines(self) -> list[str]:
        """All lines of output so far."""
        with self._news:
            return list(self._lines)

    def wait_for(self, pattern: str, *, timeout: float = PATIENCE, after: int = 0) -> re.Match[str]:
        """Wait for a line that holds the regular expression, past the first `after` lines.

        Lines that came before the call count too. Raises AssertionError, with the output, when the child
        ends or `timeout` seconds pass without such a line.
        """
        seen = after

        def found() -> re.Match[str] | bool:
            nonlocal seen
            while seen < len(self._lines):
                seen += 1
                if match := re.search(pattern, self._lines[seen - 1]):
                    return match
            return self._ended

        with self._news:
            match self._news.wait_for(found, timeout):
                case re.Match() as match:
                    return match
                case ended:
                    why = "it ended" if ended else f"{timeout} s passed"
        tail = "\n".join(self.lines[-40:])
        raise AssertionError(f"{self.name} printed no line like {pattern!r} before {why}; its output:\n{tail}")

    async def line(self, pattern: str, *, timeout: float = PATIENCE, after: int = 0) -> re.Match[str]:
        """Wait as `wait_for` does, without holding up the event loop."""
        return await asyncio.to_thread(self.wait_for, pattern, timeout=timeout, after=after)

    def wait(self, timeout: float = PATIENCE) -> int:
        """Wait for the child's end and return its exit status, as in `returncode`.

        Raises subprocess.TimeoutExpired after `timeout` seconds. The output is then complete.
        """
        status = self._popen.wait(timeout)
        self._reader.join(timeout=10)  # a grandchild may hold the pipe open
        return status

    async def exit(self, timeout: float = PATIENCE) -> int:
        """Wait as `wait` does, without holding up the event loop."""
        return await asyncio.to_thread(self.wait, timeout)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the child alone, not to what it started."""
        self._popen.send_signal(number)

    def terminate(self, timeout: float = PATIENCE) -> int:
        """Ask for an orderly end with SIGTERM and wait for it."""
        self.signal(signal.SIGTERM)
        return self.wait(timeout)

    def kill(self) -> None:
        """Kill the child at this instant, as `kill -9` does."""
        self.signal(signal.SIGKILL)
        self._popen.wait()

    def pause(self) -> None:
        """Freeze the child (SIGSTOP) and return once it stands still."""
        self.was_paused = True
        self.signal(signal.SIGSTOP)
        os.waitid(os.P_PID, self.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)

    def resume(self) -> None:
        """Let a frozen child go on (SIGCONT)."""
        self.signal(signal.SIGCONT)

    def close(self) -> None:
        """Kill the child and all that it started, if they still run."""
        atexit.unregister(self.close)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self._popen.wait()
        self._reader.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _read(self) -> None:
        assert self._popen.stdout is not None
        with self._popen.stdout as stream, self.output.open("wb") as file:
            for raw in stream:
                file.write(raw)
                file.flush()
                with self._news:
                    self._lines.append(raw.decode(errors="replace").rstrip("\n"))
                    self._news.notify_all()
        with self._news:
            self._ended = True
            self._news.notify_all()
