"""The console of results: as wide as the terminal. Without a terminal, no line is broken, so that `grep` finds it."""

from __future__ import annotations

import os
import sys

from rich.console import Console

MAX_WIDTH = 100_000
"""The width of an output that is not a terminal, unless COLUMNS is set."""


def result_console() -> Console:
    """A console on standard output."""
    # rich reads COLUMNS itself, and otherwise takes 80 for an output that is not a terminal
    fits = sys.stdout.isatty() or os.environ.get("COLUMNS", "").isdigit()
    return Console(highlight=False, soft_wrap=False, width=None if fits else MAX_WIDTH)
