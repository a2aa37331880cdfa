"""`make scale`: measure the grid, and write the page.

make scale
make scale ARGS=--quick
make scale ARGS='redis etcd --parts verbs'
make scale ARGS='--render'      # the page and its plots from the stored results
"""

import argparse
import asyncio
import json
import os
import re
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from .cell import PARTS
from .cells import ENGINES, Cell, grid
from .longrun import RESULTS as MEMORY
from .page import as_markdown, goals_table, put_into, write_pictures
from .running import ROOT, run, versions

PAGE = ROOT / "docs" / "scaling.md"
RESULTS = ROOT / "build" / "scale.json"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m scale", description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("engines", nargs="*", metavar="ENGINE", help=f"some of: {', '.join(ENGINES)} (default: all)")
    parser.add_argument("--quick", action="store_true", help="small sizes only, in five minutes; writes no page")
    parser.add_argument("--parts", nargs="+", choices=list(PARTS), default=list(PARTS), help="what is measured")
    parser.add_argument("--json", type=Path, default=RESULTS, help="where the results go")
    parser.add_argument("--resume", action="store_true", help="keep the cells that the JSON file has already")
    parser.add_argument("--render", action="store_true", help="measure nothing; write the page from the JSON file")
    given = parser.parse_args()
    if unknown := set(given.engines) - set(ENGINES):
        parser.error(f"no such engine: {', '.join(sorted(unknown))}; there are {', '.join(ENGINES)}")
    report: dict[str, Any] = json.loads(given.json.read_text()) if given.resume or given.render else {}
    if not given.render:
        cells = [cell for cell in grid(given.engines or ENGINES, quick=given.quick) if cell.part in given.parts]
        report = _measured(cells, report.get("cells", []), given)
    report["memory"] = json.loads(MEMORY.read_text()) if MEMORY.exists() else {}
    if not given.quick and not given.engines and len(given.parts) == len(PARTS):
        put_into(PAGE, as_markdown(report))
        write_pictures(PAGE.parent / "images", report["cells"])
    print(goals_table(report["cells"]))
    return any("error" in one for one in report["cells"])


def _measured(cells: Sequence[Cell], known: Sequence[dict[str, Any]], given: argparse.Namespace) -> dict[str, Any]:
    arguments = [word for word in sys.argv[1:] if word != "--resume"]
    report: dict[str, Any] = {
        "command": "make scale" + (f" ARGS='{' '.join(arguments)}'" if arguments else ""),
        "date": datetime.now(UTC).isoformat(),
        "machine": {"cores": os.cpu_count(), "cpu": _cpu()},
        "versions": versions(),
        "cells": [],
    }
    given.json.parent.mkdir(parents=True, exist_ok=True)

    def kept(results: list[dict[str, Any]]) -> None:
        report["cells"] = results
        given.json.write_text(json.dumps(report, indent=1) + "\n")

    began = time.monotonic()
    asyncio.run(run(cells, known, kept))
    print(f"{len(cells)} cells in {(time.monotonic() - began) / 60:.1f} minutes")
    return report


def _cpu() -> str:
    found = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    return found[1].strip() if found else "an unknown CPU"


if __name__ == "__main__":
    sys.exit(main())
