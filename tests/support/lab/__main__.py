"""`make faultlab`: run each set-up of real servers under faults, judge it, and write the report."""

from __future__ import annotations

import argparse
import asyncio
import shutil
import signal
import sys
import tempfile
import traceback
from datetime import UTC, datetime
from pathlib import Path

from support.servers import MissingServerError

from .reporting import as_json, as_markdown, kept, put_into
from .running import Report, run
from .setups import SETUPS

ROOT = Path(__file__).parents[3]


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m support.lab",
        description="Run nodes on real servers under faults, and check that nothing is lost or doubled. "
        "Ctrl-C ends the lab early, with a report of what has run.",
    )
    parser.add_argument("setups", nargs="*", metavar="SETUP", help=f"some of: {', '.join(SETUPS)} (default: all)")
    parser.add_argument("--minutes", type=float, default=10.0, help="minutes for each set-up (default: 10)")
    parser.add_argument("--seed", type=int, default=1, help="another seed has another order of faults (default: 1)")
    parser.add_argument("--json", type=Path, default=ROOT / "build" / "faultlab.json", help="where the report goes")
    parser.add_argument("--page", type=Path, help="a page in which the report goes between the markers")
    parser.add_argument("--keep", type=Path, help="a folder that keeps the logs of the nodes and the journals")
    parser.add_argument("--kills", type=int, default=30, help="least kills of nodes for each set-up (default: 30)")
    parser.add_argument("--add", action="store_true", help="keep the reports of other set-ups from an earlier run")
    given = parser.parse_args()
    unknown = set(given.setups) - set(SETUPS)
    if unknown:
        parser.error(f"no such set-up: {', '.join(sorted(unknown))}; there are {', '.join(SETUPS)}")
    if not 0 < given.minutes <= 24 * 60:
        parser.error(f"--minutes must be more than 0 and at most 1440, got {given.minutes:g}")
    names = given.setups or list(SETUPS)
    reports, broken, stopped = asyncio.run(_run_all(names, given))
    if stopped:
        print("\nstopped: the report of earlier runs stays as it is")
    if stopped or not reports:
        return 1
    if given.add:
        reports = sorted([*kept(given.json, names), *reports], key=lambda one: list(SETUPS).index(one.setup))
    named = f" ARGS='{' '.join(given.setups)}'" if given.setups else ""
    command = f"make faultlab MINUTES={given.minutes:g}{'' if given.add else named}"
    now = datetime.now(UTC)
    text = as_markdown(reports, command, now)
    given.json.parent.mkdir(parents=True, exist_ok=True)
    given.json.write_text(as_json(reports, command, now))
    if given.page is not None:
        put_into(given.page, text)
    print(text)
    return bool(broken) or any(report.violations for report in reports)


async def _run_all(names: list[str], given: argparse.Namespace) -> tuple[list[Report], list[str], bool]:
    """The reports, the names of the set-ups that an error has ended, and whether Ctrl-C has ended the run.

    The reports of the other set-ups are kept after an error.
    """
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGINT, stop.set)
    reports: list[Report] = []
    broken: list[str] = []
    for name in names:
        if stop.is_set():
            break
        with tempfile.TemporaryDirectory(prefix="faultlab-") as folder:
            home = Path(folder) if given.keep is None else given.keep / name
            home.mkdir(parents=True, exist_ok=True)
            try:
                report = await run(name, given.minutes * 60, given.seed, home, _progress, stop, kills=given.kills)
            except MissingServerError as missing:
                print(f"{name}: skipped, {missing}")
                continue
            except Exception:  # noqa: BLE001  # the error is shown, and the other set-ups go on
                traceback.print_exc()
                broken.append(name)
                report = None
            if (report is None or report.violations) and given.keep is None:
                kept_in = ROOT / "build" / f"faultlab-{name}-{given.seed}"
                shutil.rmtree(kept_in, ignore_errors=True)
                shutil.copytree(home, kept_in)
                print(f"\n{name}: logs of the nodes and the journal are in {kept_in}")
            if report is None:
                continue
        reports.append(report)
        print(f"\n{name}: {len(report.violations)} violation(s); all work ended {report.rest} s after the last fault")
        for violation in report.violations:
            print(f"  {violation}")
    return reports, broken, stop.is_set()


def _progress(text: str) -> None:
    """Replace the line of a terminal; elsewhere, print a line."""
    print(f"\r{text}\033[K" if sys.stdout.isatty() else text, end="" if sys.stdout.isatty() else "\n", flush=True)


if __name__ == "__main__":
    sys.exit(main())
