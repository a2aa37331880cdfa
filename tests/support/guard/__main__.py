"""Counts what the paths of a job cost, and compares the counts with `expected.toml`.

make bench-guard
make bench-guard ARGS=--write     # the new counts are meant
"""

from __future__ import annotations

import argparse
import asyncio
import sys

from .comparing import EXPECTED, differences, expected, written
from .measuring import ENGINES, measured


def main() -> int:
    parser = argparse.ArgumentParser(prog="make bench-guard", description="count what the paths of a job cost")
    parser.add_argument("parts", nargs="*", choices=[[], *ENGINES], help="only these parts (default: all)")
    parser.add_argument("--write", action="store_true", help="write the counts as the expected ones")
    given = parser.parse_args()
    found = asyncio.run(measured(given.parts or ENGINES))
    wrong = differences(expected(), found)
    for line in wrong:
        print(line)
    if given.write:
        EXPECTED.write_text(written({**expected(), **found}))
        print(f"wrote {EXPECTED}")
        return 0
    if not wrong:
        print(f"{sum(map(len, found.values()))} paths cost what they should")
    return len(wrong) > 0


if __name__ == "__main__":
    sys.exit(main())
