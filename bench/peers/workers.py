"""The processes of a measurement: one producer, and the workers."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal

from .catalogue import Peer
from .marks import Marks
from .venvs import HOME, folder

PROGRAMS = Path(__file__).parent / "programs"
Job = Literal["mark", "pause", "hold"]


class PeerError(RuntimeError):
    """A program of a peer ended, or did not answer; its text has the end of its output."""


class Place:
    """Where one measurement happens: a peer, a server's URL, a file of marks, and a log."""

    def __init__(self, peer: Peer, url: str, marks: Marks) -> None:
        self.peer = peer
        self.url = url
        self.marks = marks
        self.log = HOME / "logs" / f"{peer.name.replace(' ', '-').strip(':/')}.log"
        self.log.parent.mkdir(parents=True, exist_ok=True)

    def start(self, command: list[str], slots: int, *, talks: bool = False) -> subprocess.Popen[str]:
        """Start a program of the peer. One that talks has pipes for its input and output; all else goes to the log."""
        bin = folder(self.peer) / "bin"
        command = [one.replace("@url", self.url) for one in command]
        if command[0].startswith("@"):
            command[0] = str(bin / command[0][1:])
        env = {
            **{name: value for name, value in os.environ.items() if not name.startswith("PYTHON")},
            "PEER_URL": self.url,
            "PEER_MARKS": str(self.marks.path),
            "PEER_SLOTS": str(slots),
            **self.peer.env,
            "PATH": f"{bin}:{os.environ['PATH']}",
            "PYTHONPATH": str(PROGRAMS),
        }
        with self.log.open("a") as log:
            return subprocess.Popen(
                command,
                cwd=PROGRAMS,
                env=env,
                text=True,
                start_new_session=True,
                stdin=subprocess.PIPE if talks else subprocess.DEVNULL,
                stdout=subprocess.PIPE if talks else log,
                stderr=log,
            )

    def tail(self) -> str:
        return self.log.read_text()[-600:] if self.log.exists() else ""


class Producer:
    """The program that enqueues, in the venv of the peer."""

    def __init__(self, place: Place, slots: int = 10, arguments: tuple[str, ...] = ()) -> None:
        self.place = place
        command = ["@python", place.peer.program, *arguments]
        self.process = place.start(command, slots, talks=True)
        self.has_bulk: bool = self._answer()["bulk"]

    def ask(self, do: str, job: Job = "mark", count: int = 1) -> Any:
        """Do it, and return the answer."""
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(json.dumps({"do": do, "job": job, "count": count}) + "\n")
            self.process.stdin.flush()
        except BrokenPipeError as error:
            raise PeerError(f"the producer of {self.place.peer.name} ended:\n{self.place.tail()}") from error
        return self._answer()

    def seconds(self, do: str, job: Job = "mark", count: int = 1) -> float:
        return float(self.ask(do, job, count)["seconds"])

    def fill(self, job: Job, count: int) -> None:
        """Enqueue in the fastest way."""
        self.ask("bulk" if self.has_bulk else "together", job, count)

    def _answer(self) -> Any:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise PeerError(f"the producer of {self.place.peer.name} ended:\n{self.place.tail()}")
        return json.loads(line)


@contextmanager
def producing(place: Place, slots: int = 10, arguments: tuple[str, ...] = ()) -> Generator[Producer]:
    producer = Producer(place, slots, arguments)
    try:
        yield producer
    finally:
        end([producer.process])


@contextmanager
def working(place: Place, producer: Producer, *, processes: int = 1, slots: int = 10) -> Generator[list[int]]:
    """Start workers; yields their first processes. Jobs in memory run in the producer."""
    if place.peer.inside:
        producer.ask("work")
        yield [producer.process.pid]
        return
    started = [place.start(command, slots) for command in place.peer.worker(processes, slots)]
    try:
        yield [one.pid for one in started]
    finally:
        end(started)


def end(processes: list[subprocess.Popen[str]], patience: float = 10) -> None:
    """Ask processes to end, and kill them with all that they started after `patience` seconds."""
    for one in processes:
        if one.stdin is not None:
            with suppress(BrokenPipeError):
                one.stdin.close()
        if one.poll() is None:
            one.send_signal(signal.SIGTERM)
    until = time.monotonic() + patience
    for one in processes:
        with suppress(subprocess.TimeoutExpired):
            one.wait(max(0.1, until - time.monotonic()))
        kill(one)


def kill(process: subprocess.Popen[str]) -> None:
    """Kill a process and all that it started, as the end of a container does."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
