"""Makes the package `peers` of the folder `bench` importable, and none of the programs beside it."""

import importlib
import sys
from pathlib import Path

BENCH = str(Path(__file__).parents[3] / "bench")

sys.path.append(BENCH)
try:
    importlib.import_module("peers")
finally:
    sys.path.remove(BENCH)
