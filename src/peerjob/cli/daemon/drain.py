"""`jobd drain`: tells a daemon to take no more work, and waits until nothing runs on it."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from peerjob import NodeStateError, OptionError
from peerjob.cli.console import complain
from peerjob.node.observe.listen_address import parse_listen
from peerjob_probe import ProbeAnswer, ask

from .settings import METRICS_PORT, OFF

PROC = Path("/proc")
INTERVAL = 0.1
"""Seconds between two questions."""
PATIENCE = 2.0
"""Most seconds for an answer."""


def probed_address(listen: str) -> tuple[str, int]:
    """Where the daemon whose metrics are served there answers probes; raises OptionError."""
    if listen == OFF:
        raise OptionError("--metrics-listen", OFF, "where the daemon serves its metrics: it answers probes there")
    return parse_listen("--metrics-listen", listen, example=METRICS_PORT)


def drain(pid: int, listen: str, timeout: float) -> int:
    """Drain the daemon with this process id; the exit status. Raises OptionError where there is none."""
    host, port = probed_address(listen)
    check_daemon(pid)
    until = time.monotonic() + timeout
    try:
        os.kill(pid, signal.SIGUSR1)
    except PermissionError:
        raise OptionError("--pid", pid, "a daemon of the same user, or root's rights") from None
    heard = ProbeAnswer(False, "no time was given for it")
    while (left := until - time.monotonic()) > 0:
        heard = ask("drained", host, port, min(left, PATIENCE))
        if heard.ok:
            print("drained")
            return 0
        if not _exists(pid):
            print("the daemon has ended")
            return 0
        time.sleep(min(INTERVAL, max(0.0, until - time.monotonic())))
    complain("jobd", f"not drained after {timeout:g} s: {heard.why}")
    return 1


def check_daemon(pid: int) -> None:
    """Raise OptionError unless this is a `jobd run`, and NodeStateError when it is not ready for signals.

    Any other program is ended by the signal that a daemon is told with.
    """
    try:
        words = (PROC / str(pid) / "cmdline").read_bytes().split(b"\0")
        status = (PROC / str(pid) / "status").read_text()
    except FileNotFoundError:
        given = "no process" if PROC.joinpath("self").exists() else "a system without /proc"
        raise OptionError("--pid", f"{pid} ({given})", "the process id of a jobd run") from None
    except PermissionError:
        raise OptionError("--pid", pid, "a daemon of the same user, or root's rights") from None
    names = [os.path.basename(word).decode(errors="replace") for word in words[:3]]  # noqa: PTH119  # bytes
    if "jobd" not in names or b"run" not in words[1:]:
        raise OptionError("--pid", f"{pid} ({names[0] or 'no program'})", "the process id of a jobd run")
    (caught,) = (line.split()[1] for line in status.splitlines() if line.startswith("SigCgt:"))
    if not int(caught, 16) >> (signal.SIGUSR1 - 1) & 1:
        raise NodeStateError(f"the daemon {pid} has only just begun, or is at its very end: it takes no signals")


def _exists(pid: int) -> bool:
    try:
        state = (PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in "ZX"
