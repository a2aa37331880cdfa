"""Runs the program that closes the event loop of a node without a stop."""

import os
import subprocess
import sys
from pathlib import Path


def after_a_closed_loop(url: str, given: str = "url") -> str:
    """What the program says, if all is as it expects. It runs alone, since asyncio complains of the lost tasks."""
    done = subprocess.run(
        [sys.executable, "-m", "support.closed_loop_program", url, given],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stderr
