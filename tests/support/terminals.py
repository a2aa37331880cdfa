"""A shell in a terminal, into which a test types the commands of a page."""

import contextlib
import os
import re
import signal
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import pexpect

from support.pages import Command, first_missing
from support.waiting import PATIENCE

PROMPT = "prompt-of-a-page> "
AFTER_THE_END = 20.0
"""Seconds for the output of background programs, after a command has ended; only a page that fails takes them."""
_CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


class Terminal:
    """A bash in a terminal of 120 columns. It ends with all that runs in it."""

    def __init__(self, folder: Path, environment: Mapping[str, str]) -> None:
        self._shell = pexpect.spawn(
            "bash",
            ["--norc", "--noprofile", "-i"],
            cwd=str(folder),
            env={**environment, "PS1": PROMPT, "PS2": "", "TERM": "dumb", "HISTFILE": "/dev/null"},
            dimensions=(50, 120),
            encoding="utf-8",
            echo=False,
        )
        self._output = ""
        """All that was printed since the last command."""
        self.all = ""
        self._wait_for_prompt()

    def run(self, command: Command, *, to_the_end: bool) -> None:
        """Type a command, and wait for the lines that it shows; with `to_the_end` also for its end."""
        if command.text == "^C":
            self._output = ""
            self._shell.sendintr()
        elif command.text:
            self._wait_for_prompt()
            self._output = ""
            self._shell.sendline(command.text)
        self._wait_until(lambda: first_missing(command.shown, self._lines()), command.text)
        if to_the_end or command.text == "^C":
            self._wait_for_prompt(command.text)

    def close(self) -> None:
        # each job of an interactive shell has a process group of its own, and jobd survives the end of its terminal
        for found in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                if os.getsid(int(found.name)) == self._shell.pid:
                    os.kill(int(found.name), signal.SIGKILL)
        self._shell.close(force=True)

    def _lines(self) -> list[str]:
        text = _CONTROL.sub("", self._output).replace(PROMPT, "\n")
        return re.split(r"[\r\n]+", text)

    def _wait_for_prompt(self, after: str = "the start") -> None:
        self._wait_until(lambda: None if PROMPT in self._output else "the prompt of the shell", after)

    def _wait_until(self, missing: Callable[[], str | None], after: str) -> None:
        until = time.monotonic() + PATIENCE
        while (line := missing()) is not None:
            if PROMPT in self._output and not after.endswith("&"):
                until = min(until, time.monotonic() + AFTER_THE_END)
            try:
                text = self._shell.read_nonblocking(65_536, timeout=max(0.0, until - time.monotonic()))
            except (pexpect.TIMEOUT, pexpect.EOF):
                raise AssertionError(f"after {after!r} this was not printed: {line!r}; but:\n{self._output}") from None
            self._output += text
            self.all += text
