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
    parser = argparse.ArgumentParser(prog="python -m support.guard", description="count what the paths of a job cost")
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"some of: {', '.join(ENGINES)} (default: all)")
    parser.add_argument("--write", action="store_true", help="write the counts as the expected ones")
    given = parser.parse_args()
    unknown = set(given.parts) - set(ENGINES)
    if unknown:
        parser.error(f"no such part: {', '.join(sorted(unknown))}; there are {', '.join(ENGINES)}")
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
