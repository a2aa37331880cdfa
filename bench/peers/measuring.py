"""The measures. Each returns figures by name; a figure that a peer does not have is missing."""

from __future__ import annotations

import math
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

from .catalogue import Peer
from .marks import LATENCY, SKIPPED, Marks, rate
from .services import Service, running
from .system import cpu_seconds, peak_mib, shared_mib, tree
from .workers import PeerError, Place, kill, producing, working

Figures = dict[str, float | str]
SLOTS = 10
WARM = 20
"""Jobs that run before a measurement."""
PATIENCE = 30.0
"""Seconds without a mark after which a drain is given up."""
GIVE_UP = 60.0
"""Seconds after a kill in which a job must run again."""
PAUSES = 2_000


def one_round(peer: Peer, *, quick: bool, skip: Collection[str] = ()) -> Figures:
    """All measures but the kill and those to skip, on a fresh server."""
    found: Figures = {}
    with running(peer.service) as service, tempfile.TemporaryDirectory(prefix="peers-") as folder:
        place = Place(peer, service.url, Marks(Path(folder, "marks")))
        jobs = max(1_000, peer.jobs // 10) if quick else peer.jobs
        for name, measure in ROUND.items():
            if name in skip:
                continue
            try:
                found |= measure(place, service, jobs)
            except PeerError as error:
                found[f"failed {name}"] = str(error)
    return found


def _enqueue_and_drain(place: Place, service: Service, jobs: int) -> Figures:
    found: Figures = {}
    with producing(place) as producer:
        place.marks.clear()
        # the client connects, and prepares what it needs only once
        producer.ask("one", count=WARM)
        one, together = min(2_000, jobs // 8), min(10_000, jobs // 4)
        found["enqueue one"] = one / producer.seconds("one", count=one)
        found["enqueue together"] = together / producer.seconds("together", count=together)
        rest = jobs - one - together
        seconds = producer.seconds("bulk" if producer.has_bulk else "together", count=rest)
        if producer.has_bulk:
            found["enqueue bulk"] = rest / seconds
        with working(place, producer, slots=place.peer.drain_slots) as roots:
            found |= _drained(place, service, roots, jobs + WARM, processes=1)
    return found


def _two_workers(place: Place, service: Service, jobs: int) -> Figures:
    if place.peer.inside:
        return {}
    with producing(place) as producer:
        place.marks.clear()
        producer.fill("mark", jobs)
        with working(place, producer, processes=2, slots=place.peer.drain_slots) as roots:
            return {"drain 2": _drained(place, service, roots, jobs, processes=2)["drain 1"]}


def _latency(place: Place, service: Service, jobs: int) -> Figures:
    with producing(place, SLOTS) as producer, working(place, producer, slots=SLOTS):
        place.marks.clear()
        producer.ask("one", count=WARM)
        _await(place, WARM)
        time.sleep(0.5)
        place.marks.clear()
        count = 300 if jobs >= 3_000 else 100
        sent = producer.ask("latency", count=count)["sent"]
        marks = [mark for mark in place.marks.read() if mark.job >= LATENCY]
        waits = sorted((mark.at - sent[mark.job - LATENCY]) * 1_000 for mark in marks)
    return {"latency p50": statistics.median(waits), "latency p99": waits[int(len(waits) * 0.99)]}


def _pauses(place: Place, service: Service, jobs: int) -> Figures:
    with producing(place, SLOTS) as producer:
        place.marks.clear()
        producer.fill("pause", PAUSES)
        with working(place, producer, slots=SLOTS):
            _await(place, PAUSES)
    return {"pauses": PAUSES / rate(place.marks.read(), processes=1)}


def _enqueue_blocking(place: Place, service: Service, jobs: int) -> Figures:
    """Enqueue from code without an event loop. Nothing runs these jobs, so this is the last measure."""
    if place.peer.blocking is None:
        return {}
    count = min(4_000, jobs // 4)
    with producing(place, arguments=place.peer.blocking) as producer:
        producer.ask("threads", count=WARM)
        return {
            "enqueue sync": count / producer.seconds("one", count=count),
            "enqueue sync 8": count / producer.seconds("threads", count=count),
        }


ROUND: dict[str, Callable[[Place, Service, int], Figures]] = {
    "drain": _enqueue_and_drain,
    "two-workers": _two_workers,
    "latency": _latency,
    "pauses": _pauses,
    "sync": _enqueue_blocking,
}
"""The measures of a round, in their order."""
KILL = "kill"


def _await(place: Place, count: int) -> None:
    if not place.marks.wait(count, PATIENCE):
        raise PeerError(f"{len(place.marks)} of {count} jobs ran:\n{place.tail()}")


def _drained(place: Place, service: Service, roots: Sequence[int], jobs: int, *, processes: int) -> Figures:
    """The rate, and what it cost: worker and server apart."""
    server = [] if service.pid is None else [service.pid]
    _await(place, int(jobs * SKIPPED))
    begin, worker_cpu, server_cpu = len(place.marks), cpu_seconds(roots), cpu_seconds(server)
    _await(place, jobs)
    thousands = (jobs - begin) / 1_000
    found: Figures = {"worker cpu": (cpu_seconds(roots) - worker_cpu) / thousands}
    if server:
        found["server cpu"] = (cpu_seconds(server) - server_cpu) / thousands
    found["peak"] = peak_mib(roots)
    found["together"] = shared_mib(roots)
    found["drain 1"] = rate(place.marks.read(), processes=processes)
    return found


def after_kill(peer: Peer) -> Figures:
    """Seconds from the kill of the worker that runs a job until it runs on another worker, which was idle."""
    if peer.inside or peer.reference:
        return {}
    with running(peer.service) as service, tempfile.TemporaryDirectory(prefix="peers-") as folder:
        place = Place(peer, service.url, Marks(Path(folder, "marks")))
        with producing(place) as producer:
            producer.ask("one", "mark", 1)
            workers = [[place.start(command, SLOTS) for command in peer.worker(1, SLOTS)] for _ in range(2)]
            try:
                _await(place, 1)
                # time for both to start
                time.sleep(5)
                producer.ask("one", "hold")
                _await(place, 2)
                # time to tell the server that the job runs
                time.sleep(3)
                return _killed(place, workers)
            finally:
                for started in workers:
                    for one in started:
                        kill(one)


def _killed(place: Place, workers: list[list[subprocess.Popen[str]]]) -> Figures:
    runs = place.marks.read()[-1].pid
    owner = next(one for one in workers if runs in tree(process.pid for process in one))
    begin = time.monotonic()
    for process in owner:
        kill(process)
    if place.marks.wait(3, GIVE_UP):
        return {"after kill": place.marks.read()[-1].at - begin}
    return {"after kill": math.inf}
