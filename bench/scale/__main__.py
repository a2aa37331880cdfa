"""`make scale`: measure the grid, and write the page.

make scale
make scale ARGS=--quick
make scale ARGS='redis etcd --parts verbs'
make scale ARGS='--parts shards'      # writes only the sections of these parts
make scale ARGS='--minutes 45'        # what is not measured then is named on the page
make scale ARGS='--resume'            # measures what an earlier run left out
make scale ARGS='--cells "memory verbs: 10,000 kinds"'   # measures these cells again, and writes the page
make scale ARGS='--render'      # the page and its plots from the stored results
"""

import argparse
import asyncio
import json
import os
import re
import shutil
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from .cell import PARTS
from .cells import ENGINES, Cell, grid
from .longrun import RESULTS as MEMORY
from .page import SECTION_OF, as_markdown, goals_table, put_into, put_sections, sections, write_pictures
from .running import ROOT, Result, by_cell, merged, run, versions

PAGE = ROOT / "docs" / "scaling.md"
RESULTS = ROOT / "build" / "scale.json"
QUICK_RESULTS = ROOT / "build" / "scale-quick.json"
Report = dict[str, Any]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m scale", description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("engines", nargs="*", metavar="ENGINE", help=f"some of: {', '.join(ENGINES)} (default: all)")
    parser.add_argument("--quick", action="store_true", help="small sizes only, in five minutes; writes no page")
    parser.add_argument("--parts", nargs="+", choices=list(PARTS), default=list(PARTS), help="what is measured")
    parser.add_argument("--minutes", type=float, help="the most minutes (default: 60, with --quick 5)")
    parser.add_argument("--json", type=Path, help="where the results go (default: build/scale.json)")
    parser.add_argument("--resume", action="store_true", help="keep the cells that the JSON file has already")
    parser.add_argument("--cells", metavar="REGEX", help="measure again the cells whose names match, and no others")
    parser.add_argument("--render", action="store_true", help="measure nothing; write the page from the JSON file")
    given = parser.parse_args()
    if unknown := set(given.engines) - set(ENGINES):
        parser.error(f"no such engine: {', '.join(sorted(unknown))}; there are {', '.join(ENGINES)}")
    given.json = given.json or (QUICK_RESULTS if given.quick else RESULTS)
    whole = not given.engines and len(given.parts) == len(PARTS) and not given.cells
    stored: Report = json.loads(given.json.read_text()) if given.json.exists() else {}
    if given.cells and not stored:
        parser.error(f"--cells needs the results of an earlier run in {given.json}")
    if given.render:
        report = stored
    else:
        cells = [cell for cell in grid(given.engines or ENGINES, quick=given.quick) if cell.part in given.parts]
        if given.cells:
            cells = [cell for cell in cells if re.fullmatch(given.cells, cell.name)]
        report = _measured(cells, {} if whole and not given.resume else stored, given)
    report["memory"] = json.loads(MEMORY.read_text()) if MEMORY.exists() else {}
    if not given.quick:
        _write(report, given, whole=whole or bool(given.cells))
    print(goals_table(report["cells"]))
    return any("error" in one for one in report["cells"])


def _write(report: Report, given: argparse.Namespace, *, whole: bool) -> None:
    """Write the page; the sections of some parts, if all engines were measured; nothing for some engines."""
    if whole:
        text = as_markdown(report, PAGE)
        put_into(PAGE, text)
    elif not given.engines:
        found, told = sections(report), f"Run on {report['date'][:10]} by `{report['command']}`."
        texts = {title: f"{told}\n\n{found[title]}" for title in (SECTION_OF[part] for part in given.parts)}
        put_sections(PAGE, texts)
        text = "".join(texts.values())
    else:
        return
    write_pictures(PAGE.parent / "images", report["cells"], text)


def _measured(cells: Sequence[Cell], before: Report, given: argparse.Namespace) -> Report:
    """Measure the cells, beside those of an earlier run; the file has all results after each cell."""
    arguments = [f'"{word}"' if " " in word else word for word in sys.argv[1:] if word != "--resume"]
    command = "make scale" + (f" ARGS='{' '.join(arguments)}'" if arguments else "")
    now = datetime.now(UTC).isoformat()
    machine = {"cores": os.cpu_count(), "cpu": _cpu()}
    report: Report = {"command": command, "date": now, "machine": machine, "versions": versions()}
    again = bool(given.cells and before)
    if again:
        report = {**before}
    stored = by_cell(before)
    given.json.parent.mkdir(parents=True, exist_ok=True)
    known = {cell: result for cell, result in stored.items() if "found" in result} if given.resume else {}

    def kept(results: Mapping[Cell, Result]) -> None:
        report["cells"] = merged(stored, results)
        if again:
            report["note"] = before.get("note", "") + measured_again(now, command, results)
        new = given.json.with_suffix(".new")
        new.write_text(json.dumps(report, indent=1) + "\n")
        new.replace(given.json)  # a run that is killed leaves a whole file

    signal.signal(signal.SIGTERM, signal.default_int_handler)  # the cells end with their servers
    began = time.monotonic()
    report["cells"] = merged(stored, known)
    if given.json.exists():
        shutil.copy(given.json, given.json.with_suffix(".before.json"))
    asyncio.run(run(cells, known, kept, 60 * (given.minutes or (5 if given.quick else 60))))
    print(f"{len(cells)} cells in {(time.monotonic() - began) / 60:.1f} minutes")
    return report


def measured_again(date: str, command: str, results: Mapping[Cell, Result]) -> str:
    """A sentence for the page about cells that were measured after the others."""
    names = ", ".join(cell.name for cell, result in results.items() if "found" in result)
    return f" On {date[:10]}, `{command}` measured again, at another load of the machine: {names}." if names else ""


def _cpu() -> str:
    found = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    return found[1].strip() if found else "an unknown CPU"


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit("ended; --resume measures the other cells, and --render writes the page without them")
