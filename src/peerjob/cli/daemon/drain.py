"""`jobd drain`: stops the claims of a daemon, and waits until nothing runs on it."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from peerjob import NodeStateError, OptionError
from peerjob.cli.console import complain
from peerjob.model.listed import listed
from peerjob.model.listen_address import parse_listen
from peerjob_probe import ProbeReply, ask

from .settings import METRICS_PORT, OFF

PROC = Path("/proc")
PROBE_PAUSE = 0.1
"""Seconds between two probes."""
MAX_ANSWER = 2.0
"""Seconds to wait for the answer to one probe."""


def probed_address(listen: str) -> tuple[str, int]:
    """The host and port for probes of the daemon with this address for metrics; raises OptionError."""
    if listen == OFF:
        raise OptionError("--metrics-listen", OFF, "the address of the daemon's metrics, which also answers probes")
    return parse_listen("--metrics-listen", listen, example=METRICS_PORT)


def drain(pid: int | None, listen: str, timeout: float) -> int:
    """Drain the daemon with this process id, or the only one; the exit status. Raises OptionError if there is none."""
    host, port = probed_address(listen)
    pid = pid or only_daemon(PROC)
    check_daemon(pid)
    until = time.monotonic() + timeout
    try:
        os.kill(pid, signal.SIGUSR1)
    except PermissionError:
        raise OptionError("--pid", pid, "a daemon of the same user, or root's rights") from None
    return wait_until_drained(pid, host, port, timeout, until)


def wait_until_drained(pid: int, host: str, port: int, timeout: float, until: float) -> int:
    """Ask the daemon until it is drained, its process has ended, or `until` is over; the exit status."""
    answer: ProbeReply | None = None
    while (left := until - time.monotonic()) > 0:
        reply = ask("drained", host, port, min(left, MAX_ANSWER))
        if answer is None or reply.answered or left >= MAX_ANSWER:
            # the time limit can cut the last probe short; the probe before it says why the daemon still runs
            answer = reply
        if reply.ok:
            print("drained")
            return 0
        if not _exists(pid):
            print("the daemon has ended")
            return 0
        time.sleep(min(PROBE_PAUSE, max(0.0, until - time.monotonic())))
    complain("jobd", f"not drained after {timeout:g} s: {'the time limit is zero' if answer is None else answer.why}")
    return 1


def only_daemon(proc: Path) -> int:
    """The process id of the only `jobd run`, or 1 if that is one, as in a container. Raises OptionError."""
    pids = sorted(int(entry.name) for entry in proc.glob("[0-9]*") if _is_daemon(entry))
    if 1 in pids or len(pids) == 1:
        return pids[0]
    daemons = f"there are several: {listed(pids)}" if pids else "there is none that this user can see"
    raise OptionError("--pid", "none", f"the process id of a jobd run ({daemons})")


def _is_daemon(process: Path) -> bool:
    try:
        return _runs_daemon((process / "cmdline").read_bytes().split(b"\0"))
    except OSError:  # the process has just ended, or belongs to another user
        return False


def _runs_daemon(words: list[bytes]) -> bool:
    """Whether a command line is that of a `jobd run`, with an interpreter before it or without."""
    return "jobd" in _names(words) and b"run" in words[1:]


def _names(words: list[bytes]) -> list[str]:
    # os.path, since pathlib does not take bytes
    return [os.path.basename(word).decode(errors="replace") for word in words[:3]]  # noqa: PTH119


def check_daemon(pid: int) -> None:
    """Raise OptionError unless this process is a `jobd run`, and NodeStateError if it does not handle signals.

    The signal would end any other program.
    """
    try:
        words = (PROC / str(pid) / "cmdline").read_bytes().split(b"\0")
        status = (PROC / str(pid) / "status").read_text()
    except FileNotFoundError:
        given = "no process" if PROC.joinpath("self").exists() else "a system without /proc"
        raise OptionError("--pid", f"{pid} ({given})", "the process id of a jobd run") from None
    except PermissionError:
        raise OptionError("--pid", pid, "a daemon of the same user, or root's rights") from None
    if not _runs_daemon(words):
        raise OptionError("--pid", f"{pid} ({_names(words)[0] or 'no program'})", "the process id of a jobd run")
    (caught,) = (line.split()[1] for line in status.splitlines() if line.startswith("SigCgt:"))
    if not int(caught, 16) >> (signal.SIGUSR1 - 1) & 1:
        raise NodeStateError(f"the daemon {pid} is starting or ending, and does not handle signals")


def _exists(pid: int) -> bool:
    try:
        state = (PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in "ZX"
