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


class WorkerProcess:
    """One process of `worker.py`."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        assert process.stdin is not None
        assert process.stdout is not None
        self._stdin, self._stdout = process.stdin, process.stdout

    @classmethod
    async def start(cls, url: str, namespace: str, workers: int) -> Self:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            str(HERE / "worker.py"),
            url,
            namespace,
            f"--workers={workers}",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        worker = cls(process)
        await worker._expect("ready")
        return worker

    @property
    def pid(self) -> int:
        return self._process.pid

    async def go(self) -> None:
        """Tell the worker to start claiming jobs."""
        self._stdin.write(b"go\n")
        await self._expect("going")

    async def peak_memory(self) -> int:
        """The most bytes of memory that the worker used."""
        self._stdin.write(b"peak\n")
        return int((await self._expect("peak")).split()[1])

    async def refused(self) -> tuple[int, int]:
        """How many changes of instances, and how many changes of counters, etcd has refused from this worker so far."""
        self._stdin.write(b"refused\n")
        _, changes, counters = (await self._expect("refused")).split()
        return int(changes), int(counters)

    async def stop(self) -> None:
        self._stdin.close()
        await asyncio.wait_for(self._process.wait(), 20)

    async def _expect(self, word: str) -> str:
        line = (await asyncio.wait_for(self._stdout.readline(), 30)).decode()
        if not line.startswith(word):
            raise RuntimeError(f"worker said {line!r} instead of {word!r}")
        return line


@asynccontextmanager
async def worker_processes(
    url: str, namespace: str, *, count: int, workers: int
) -> AsyncGenerator[list[WorkerProcess]]:
    """Start `count` workers, which claim nothing until `go()`."""
    started = [await WorkerProcess.start(url, namespace, workers) for _ in range(count)]
    try:
        yield started
    finally:
        for one in started:
            await one.stop()


def cpu_seconds(pid: int) -> float:
    """User and system time that a process has used so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS
