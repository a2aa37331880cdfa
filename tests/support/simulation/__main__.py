"""`python -m support.simulation`: run one seed or many, replay a program, make a failing one smaller."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from .coverage import rare, table
from .generator import generate
from .program import Program, from_json
from .runner import Verdict, run
from .shrinking import shrunk
from .soaking import soak
from .storm_soak import ENGINES, storm_soak

MIN_PAIRS = 20
"""How often each verb is to meet each fault."""


def main() -> int:
    """Run what the arguments say; 1 when an invariant is violated."""
    parser = argparse.ArgumentParser(prog="python -m support.simulation", description=__doc__)
    parser.add_argument("--seed", type=int, help="run the program of one seed")
    parser.add_argument("--program", type=Path, help="run a program from a file, as --print wrote it")
    parser.add_argument("--print", action="store_true", help="print the program before it runs")
    parser.add_argument("--trace", action="store_true", help="print the trace")
    parser.add_argument("--shrink", action="store_true", help="make a failing program smaller, and print it")
    parser.add_argument("--seeds", type=int, default=100, help="run so many seeds")
    parser.add_argument("--first", type=int, default=1, help="the first of the seeds")
    parser.add_argument("--processes", type=int, default=2, help="processes that run seeds")
    parser.add_argument("--tally", type=Path, help="keep each seed's result in this file, and go on where it ends")
    parser.add_argument("--storms", type=int, default=20, help="run so many seeds against each kind of store, too")
    given = parser.parse_args()
    if given.program is not None:
        return _one(from_json(given.program.read_text()), given)
    if given.seed is not None:
        return _one(generate(given.seed), given)
    failing, calls, store = soak(range(given.first, given.first + given.seeds), given.processes, given.tally)
    storms = range(given.first, given.first + given.storms)
    for engine in ENGINES:
        failed, happened = storm_soak(engine, storms)
        store.update(happened)
        failing += failed
    print(f"\n{table(calls)}\n\n{table(store)}\n")
    for verb, fault, times in [*rare(calls, MIN_PAIRS), *rare(store, MIN_PAIRS)]:
        print(f"{verb} met {fault} only {times} time(s)")
    print(f"failing seeds: {', '.join(map(str, failing)) or 'none'}")
    return 1 if failing else 0


def _one(program: Program, given: argparse.Namespace) -> int:
    if given.print:
        print(program.to_json())
    verdict = run(program)
    if given.shrink and verdict.violations:
        invariants = {violation.invariant for violation in verdict.violations}
        program = shrunk(program, lambda smaller: bool(invariants & _violated(smaller)))
        verdict = run(program)
        kept = [op for op in program.ops if op.verb != "nothing"]
        print(f"{len(kept)} operations are left:\n{program.to_json()}")
    if given.trace:
        print("\n".join(verdict.trace))
    _tell(verdict)
    return 1 if verdict.violations else 0


def _violated(program: Program) -> set[str]:
    return {violation.invariant for violation in run(program).violations}


def _tell(verdict: Verdict) -> None:
    for violation in verdict.violations:
        print(violation)
    evidence = verdict.evidence
    print(
        f"seed {verdict.program.seed}: {verdict.program.operations} operations, {verdict.program.faults} faults, "
        f"{len(evidence.records)} instances, {len(evidence.runs)} runs, {len(verdict.violations)} violations, "
        f"trace {verdict.digest}"
    )


if __name__ == "__main__":
    sys.exit(main())
