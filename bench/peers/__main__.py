"""`make bench-peers`: measure peerjob and its peers in interleaved rounds, and write the page."""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
import traceback
from collections.abc import Collection, Generator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

from . import measuring
from .catalogue import PEERS, Peer, before
from .measuring import Figures
from .page import write
from .report import Report, Result
from .services import server_versions
from .system import has_priority, machine, take_priority
from .venvs import HOME, ROOT, InstallError, ensure, versions


def main() -> int:
    # the processes of a measurement end with it
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, _end)
    parser = argparse.ArgumentParser(prog="make bench-peers", description=__doc__)
    names = ", ".join(peer.called[-1] for peer in PEERS)
    parser.add_argument("--only", help=f"which, with commas (default: all): {names}; peerjob is all of its stores")
    parser.add_argument("--before", metavar="COMMIT", help="measure peerjob as it was at this commit, too")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of each peer (default: 3)")
    measures = ", ".join([*measuring.ROUND, measuring.KILL])
    parser.add_argument("--skip", help=f"which measures to leave out, with commas: {measures}")
    parser.add_argument("--quick", action="store_true", help="a tenth of the jobs, and no kills")
    parser.add_argument("--json", type=Path, default=HOME / "results.json", help="where the figures go")
    parser.add_argument("--page", type=Path, help="the page to write (default: docs/benchmarks.md for a whole run)")
    parser.add_argument("--from-json", action="store_true", help="write the page anew from the figures of the last run")
    given = parser.parse_args()
    page = given.page or ROOT / "docs" / "benchmarks.md"
    if given.from_json:
        write(page, Report.from_json(given.json.read_text()))
        return 0
    peers = PEERS
    if given.before is not None:
        if (commit := _commit(given.before)) is None:
            parser.error(f"--before must name a commit of this repository, got {given.before!r}")
        peers += before(ROOT, commit)
    parts: list[str] = given.only.split(",") if given.only else []
    if unknown := [part for part in parts if not any(part in peer.called for peer in peers)]:
        parser.error(f"no such peer: {', '.join(unknown)}; there are {names}")
    skip: list[str] = given.skip.split(",") if given.skip else []
    if unknown := [one for one in skip if one not in (*measuring.ROUND, measuring.KILL)]:
        parser.error(f"no such measure: {', '.join(unknown)}; there are {measures}")
    if given.rounds < 1:
        parser.error(f"--rounds must be at least 1, got {given.rounds}")
    chosen = [peer for peer in peers if not parts or any(part in peer.called for part in parts)]
    command = "make bench-peers" + (f" ARGS='{' '.join(sys.argv[1:])}'" if sys.argv[1:] else "")
    given.json.parent.mkdir(parents=True, exist_ok=True)
    for report in run(chosen, given.rounds, quick=given.quick, skip=skip, command=command):
        given.json.write_text(report.to_json())
        print(report.table(), flush=True)
        if given.page or not (given.only or given.quick):
            write(page, report)
    return 0


def _commit(name: str) -> str | None:
    """The short hash of what git calls `name`; None if it knows no such commit."""
    command = ["git", "rev-parse", "--short=7", "--verify", "--quiet", "--end-of-options", f"{name}^{{commit}}"]
    found = subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True)
    return found.stdout.strip() if found.returncode == 0 else None


def _end(signum: int, frame: object) -> None:
    sys.exit(128 + signum)


def run(chosen: list[Peer], rounds: int, *, quick: bool, command: str, skip: Collection[str] = ()) -> Generator[Report]:
    """Measure the peers in turns: each has its first round before any has its second. Yields after each round."""
    missing: dict[str, str] = {}
    for peer in chosen:
        try:
            ensure(peer)
        except InstallError as error:
            missing[peer.name] = str(error)
    chosen = [peer for peer in chosen if peer.name not in missing]
    found: dict[str, list[Figures]] = {peer.name: [] for peer in chosen}
    installed = {peer.name: versions(peer) for peer in chosen}
    ahead = take_priority()
    begun = datetime.now(UTC)
    for number in range(rounds):
        for peer in chosen:
            figures = _measured(peer, quick=quick, skip=skip)
            ahead = ahead and has_priority()
            found[peer.name].append(figures)
            print(json.dumps({"round": number + 1, "peer": peer.name, **figures}), flush=True)
        if not quick and measuring.KILL not in skip:
            # these wait, and so do no harm to each other
            with ThreadPoolExecutor(len(chosen)) as pool:
                for peer, figures in zip(chosen, pool.map(_killed, chosen), strict=True):
                    found[peer.name][-1] |= figures
                    print(json.dumps({"round": number + 1, "peer": peer.name, **figures}), flush=True)
        results = [
            Result(
                name=peer.name,
                setting=peer.setting,
                keeps=peer.keeps,
                reference=peer.reference,
                versions=installed[peer.name],
                rounds=list(found[peer.name]),
            )
            for peer in chosen
        ]
        yield Report(
            command=command,
            begun=begun.isoformat(timespec="minutes"),
            ended=datetime.now(UTC).isoformat(timespec="minutes"),
            rounds=number + 1,
            quick=quick,
            ahead=ahead,
            machine=machine(),
            servers=server_versions(),
            results=results,
            missing=missing,
        )


def _measured(peer: Peer, *, quick: bool, skip: Collection[str]) -> Figures:
    try:
        return measuring.one_round(peer, quick=quick, skip=skip)
    except Exception as error:  # noqa: BLE001  # the error is shown, and the other peers go on
        traceback.print_exc()
        return {"failed": str(error)}


def _killed(peer: Peer) -> Figures:
    try:
        return measuring.after_kill(peer)
    except Exception as error:  # noqa: BLE001  # as above
        traceback.print_exc()
        return {"failed after_kill": str(error)}


if __name__ == "__main__":
    sys.exit(main())
