"""Ends the command without a traceback on Ctrl-C while the modules of the command are loaded.

Imported before everything else. Python's own handler would raise KeyboardInterrupt within an import.
"""

from __future__ import annotations

import signal
import sys

COMMANDS = ("jobctl", "jobd")

if sys.argv[0].rpartition("/")[2] in COMMANDS and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)
