"""The entry point of `jobd` and `jobctl`: answers `jobd probe` itself, and loads `peerjob.cli` for everything else.

A container runs a probe every few seconds. Loading the package `peerjob` takes half a second of CPU time, more than ten
times as much as the probe. So this package is separate and imports little.
"""

from __future__ import annotations

from . import interrupt as _first  # noqa: F401  # isort: skip  # pyright: ignore[reportUnusedImport]
import os
import re
import signal
import socket
import sys
import time
from collections.abc import Callable
from importlib import import_module
from typing import NamedTuple, cast

PATHS = {"live": "/livez", "ready": "/readyz", "started": "/startupz", "drained": "/drainz"}
LISTEN = "127.0.0.1:9090"
TIMEOUT = 2.0
INTERRUPTED = 130
"""The exit status after Ctrl-C."""
VARIABLE = "PEERJOB_METRICS_LISTEN"
MAX_ANSWER = 65_536
"""Most bytes of an answer that the probe reads."""
_LOOPBACK = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104  # a daemon listens on these, the probe only connects


class ProbeReply(NamedTuple):
    """The answer to a probe: yes, or no with the reason."""

    ok: bool
    why: str
    answered: bool = True
    """False if the time limit ended the probe."""


def ask(probe: str, host: str, port: int, timeout: float) -> ProbeReply:
    """Ask a daemon whether it is live, ready, started or drained; `timeout` is in seconds.

    A host that means all addresses of the machine is asked on loopback.
    """
    host = host.strip("[]")
    host = _LOOPBACK.get(host, host)
    where = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    try:
        status, text = _get(host, port, f"{PATHS[probe]}", time.monotonic() + timeout)
    except TimeoutError:
        return ProbeReply(False, f"{where} did not answer within {round(timeout, 3):g} s", answered=False)
    except (OSError, ValueError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
        return ProbeReply(False, f"{where} cannot be asked ({reason})")
    lines = text.splitlines()
    if status == 200:
        return ProbeReply(True, "")
    failed = [line[4:].strip() for line in lines if line.startswith("fail ")]
    if status == 503 and failed:
        return ProbeReply(False, "; ".join(failed))
    return ProbeReply(False, f"{where} answered {status} {' '.join(lines)[:200]}".rstrip())


def _get(host: str, port: int, path: str, until: float) -> tuple[int, str]:
    with socket.create_connection((host, port), timeout=_left(until)) as connection:
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode("ascii"))
        answer = b""
        while len(answer) < MAX_ANSWER:
            connection.settimeout(_left(until))
            piece = connection.recv(MAX_ANSWER)
            if not piece:
                break
            answer += piece
    head, _, body = answer.partition(b"\r\n\r\n")
    match = re.match(rb"HTTP/1\.[01] (\d{3})", head)
    if match is None:
        raise ValueError("the answer is not HTTP" if answer else "it closed the connection")
    return int(match[1]), body.decode("utf-8", "replace")


def _left(until: float) -> float:
    left = until - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


def print_answer(probe: str, answer: ProbeReply) -> int:
    """Print one line about an answer; the exit status."""
    if answer.ok:
        print("ok")
        return 0
    print(f"jobd: not {probe}: {answer.why}", file=sys.stderr)
    return 1


def parse_probe(arguments: list[str]) -> tuple[str, str, int, float] | None:
    """(probe, host, port, timeout) of a simple `probe` command line; None for any other one."""
    if len(arguments) < 2 or arguments[0] != "probe" or arguments[1] not in PATHS:
        return None
    given = {"--metrics-listen": os.environ.get(VARIABLE) or LISTEN, "--timeout": str(TIMEOUT)}
    words = [part for word in arguments[2:] for part in word.split("=", 1)]
    for flag, value in zip(words[::2], words[1::2], strict=False):
        if flag not in given:
            return None
        given[flag] = value
    listen = re.fullmatch(r"([^:]+|\[[0-9a-fA-F:]+\]):(\d{1,5})", given["--metrics-listen"])
    timeout = re.fullmatch(r"(\d{1,4}(?:\.\d{1,6})?)s?", given["--timeout"])
    if len(words) % 2 or listen is None or timeout is None or int(listen[2]) > 65_535 or float(timeout[1]) == 0:
        return None
    return arguments[1], listen[1], int(listen[2]), float(timeout[1])


def main() -> None:
    """The console command `jobd`."""
    asked = parse_probe(sys.argv[1:])
    _run("jobd" if asked is None else lambda: sys.exit(print_answer(asked[0], ask(*asked))))


def jobctl() -> None:
    """The console command `jobctl`."""
    _run("jobctl")


def _load(command: str) -> Callable[[], None]:
    from peerjob.model.errors import MissingExtraError
    from peerjob.model.extras import needs_extra

    try:
        with needs_extra("cli", command):
            return cast("Callable[[], None]", import_module(f"peerjob.cli.{command}").main)
    except MissingExtraError as error:
        sys.exit(f"{command}: {error}")


def _run(command: str | Callable[[], None]) -> None:
    """Load a command and run it. Ctrl-C ends the command without a traceback, unless the process ignores SIGINT."""
    # interrupt.py has replaced Python's SIGINT handler by the system's default, so both count as interruptible
    interruptible = signal.getsignal(signal.SIGINT) in (signal.default_int_handler, signal.SIG_DFL)
    if isinstance(command, str):
        if interruptible:
            # exit directly: a KeyboardInterrupt that is raised inside an import could be lost
            signal.signal(signal.SIGINT, lambda _number, _frame: os._exit(INTERRUPTED))
        command = _load(command)
    if interruptible:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        command()
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
