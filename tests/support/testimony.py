# pyright: reportPrivateUsage=false
# this file alone looks into a node that runs in a process of its own
"""What a node knows about itself, printed when a signal asks for it. It shows why a node claims nothing."""

import asyncio
import contextlib
import signal
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from peerjob import Node
from peerjob.node.observe.probes import Probe, answer_probe

ASK = signal.SIGUSR2
_TOLD_AS = "testimony:"
_LAST = f"{_TOLD_AS} end"


def testify_on_signal(node: Node) -> None:
    """Print the state of a node at each signal, from the event loop that it runs on."""
    asyncio.get_running_loop().add_signal_handler(ASK, _print, node)


def testimonies(lines: Iterable[str]) -> list[str]:
    """What a process has printed of its state, in order."""
    return [line.removeprefix(_TOLD_AS).strip() for line in lines if line.startswith(_TOLD_AS)]


def is_whole(lines: Iterable[str]) -> bool:
    """Whether a process has printed a state to its end."""
    return _LAST in lines


def _print(node: Node) -> None:
    told = "".join(f"{_TOLD_AS} {line}\n" for line in _state(node))
    sys.stdout.write(f"{told}{_LAST}\n")
    sys.stdout.flush()


def _state(node: Node) -> Iterator[str]:
    runtime = node._runtime
    for probe in (Probe.LIVE, Probe.READY):
        for line in answer_probe(runtime, probe).text.splitlines():
            yield f"{probe} {line}"
    if runtime is None:
        return
    loop, now = runtime.claim_loop, asyncio.get_running_loop().time()
    claim_at = min(loop._poll_at, loop._due_at)
    yield (
        f"claim loop: {runtime.in_flight.rounds} rounds answered, {loop._failures} failures in a row, last beat "
        f"{loop.watchdog.missing():.1f} s ago, hinted {runtime.waker.hinted}, claims without a hint in "
        f"{claim_at - now:.1f} s, refused until {max(0.0, loop._no_claim_until - now):.1f} s from now"
    )
    for request in runtime.in_flight.requests:
        yield f"claim loop: unanswered request {request.request} with {len(request.entries)} outcomes, {request.want}"
    limit, caps = runtime.pool.claimable(loop._kinds())
    yield f"pool: claims {limit} at most ({caps}), {runtime.pool.running} run, {runtime.pool.waiting} wait"
    lease = runtime.lease
    yield (
        f"lease: trusted {lease.trusted}, last answer {lease.age:.1f} s ago, {lease.failures} failures, "
        f"limit of the next answer {lease._answer_limit.seconds:.2f} s, clock ahead by {lease.time.ahead_us} us"
    )
    yield f"election: leader {runtime.election.leader}"
    for role in (loop, *runtime.roles):
        if role.failures or role.died:
            yield f"role {role.name}: {role.failures} failures, died {role.died}, last error {role.last_error!r}"
    yield from _tasks("node", asyncio.all_tasks())
    with contextlib.suppress(RuntimeError):  # the thread of the lease may end a task meanwhile
        yield from _tasks("lease", [] if lease._loop is None else asyncio.all_tasks(lease._loop))


def _tasks(where: str, tasks: Iterable[asyncio.Task[Any]]) -> Iterator[str]:
    for task in sorted(tasks, key=lambda one: one.get_name()):
        yield f"{where} task {task.get_name()}: {' > '.join(_awaits(task.get_coro())) or 'not begun'}"


def _awaits(awaited: Any) -> Iterator[str]:
    """Where a coroutine waits, from the outside to the inside."""
    while awaited is not None:
        frame = getattr(awaited, "cr_frame", None) or getattr(awaited, "gi_frame", None)
        if frame is not None:
            yield f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno} {frame.f_code.co_name}"
        awaited = getattr(awaited, "cr_await", None) or getattr(awaited, "gi_yieldfrom", None)
