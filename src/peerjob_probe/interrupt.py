"""Lets Ctrl-C end the command without a traceback while its modules are loaded.

Import this module first. Python's own handler would raise KeyboardInterrupt inside an import.
"""

from __future__ import annotations

import signal
import sys

COMMANDS = ("jobctl", "jobd")

if sys.argv[0].rpartition("/")[2] in COMMANDS and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)
