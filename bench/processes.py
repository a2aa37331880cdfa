"""Worker processes and what they cost."""

import asyncio
import os
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Self

HERE = Path(__file__).parent
TICKS = os.sysconf("SC_CLK_TCK")


class LineProcess:
    """A program that says `ready`, and then answers each line with a line that begins with the same word."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        assert process.stdin is not None
        assert process.stdout is not None
        self._stdin, self._stdout = process.stdin, process.stdout

    @classmethod
    async def start(cls, *command: str, patience: float = 30) -> Self:
        process = await asyncio.create_subprocess_exec(
            *command, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
        )
        started = cls(process)
        await started._expect("ready", patience)
        return started

    @property
    def pid(self) -> int:
        return self._process.pid

    async def ask(self, word: str, answer: str = "") -> str:
        """Send a word, and return the line that begins with it or with `answer`."""
        self._stdin.write(f"{word}\n".encode())
        return await self._expect(answer or word)

    async def stop(self, patience: float = 20) -> None:
        self._stdin.close()
        await asyncio.wait_for(self._process.wait(), patience)

    async def _expect(self, word: str, patience: float = 30) -> str:
        line = (await asyncio.wait_for(self._stdout.readline(), patience)).decode()
        if not line.startswith(word):
            raise RuntimeError(f"process {self.pid} said {line!r} instead of {word!r}")
        return line


class WorkerProcess(LineProcess):
    """One process of `worker.py`."""

    async def go(self) -> None:
        """Tell the worker to start claiming jobs."""
        await self.ask("go", "going")

    async def peak_memory(self) -> int:
        """The most bytes of memory that the worker used."""
        return int((await self.ask("peak")).split()[1])

    async def refused(self) -> tuple[int, int]:
        """How many changes of instances, and how many changes of counters, etcd has refused from this worker so far."""
        _, changes, counters = (await self.ask("refused")).split()
        return int(changes), int(counters)


@asynccontextmanager
async def worker_processes(
    url: str, namespace: str, *, count: int, workers: int, jobs: str = "jobs"
) -> AsyncGenerator[list[WorkerProcess]]:
    """Start `count` workers, which claim nothing until `go()`."""
    command = (sys.executable, str(HERE / "worker.py"), url, namespace, f"--workers={workers}", f"--jobs={jobs}")
    started = [await WorkerProcess.start(*command) for _ in range(count)]
    try:
        yield started
    finally:
        for one in started:
            await one.stop()


def cpu_seconds(pid: int) -> float:
    """User and system time that a process has used so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS
