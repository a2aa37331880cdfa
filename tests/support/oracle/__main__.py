"""`python -m support.oracle`: run programs against the reference and an engine, and make a failing one smaller."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from support.simulation.storm_soak import ENGINES, serving

from .generator import OPERATIONS, generate
from .program import Program, from_json
from .soaking import judge, smaller, soak, told


def main() -> int:
    """Run what the arguments say; 1 if an engine differs from the reference."""
    parser = argparse.ArgumentParser(prog="python -m support.oracle", description=__doc__)
    parser.add_argument("engines", nargs="*", default=list(ENGINES), help=f"of {', '.join(ENGINES)}")
    parser.add_argument("--seed", type=int, help="run the program of one seed")
    parser.add_argument("--program", type=Path, help="run a program from a file, as --print wrote it")
    parser.add_argument("--print", action="store_true", help="print the program before it runs")
    parser.add_argument("--shrink", action="store_true", help="make a failing program smaller, and print it")
    parser.add_argument("--seeds", type=int, default=100, help="run so many seeds")
    parser.add_argument("--first", type=int, default=1, help="the first of the seeds")
    parser.add_argument("--operations", type=int, default=OPERATIONS, help="operations of each program")
    given = parser.parse_args()
    if given.program is not None:
        return max(_one(engine, from_json(given.program.read_text()), given) for engine in given.engines)
    if given.seed is not None:
        return max(_one(engine, generate(given.seed, given.operations), given) for engine in given.engines)
    failing = 0
    for engine in given.engines:
        seeds = range(given.first, given.first + given.seeds)
        tally = soak(engine, seeds, operations=given.operations)
        failing += len(tally.failing)
        print(
            f"{engine}: {tally.programs:,} programs, {sum(tally.calls.values()):,} calls, {tally.blurred} blurred, "
            f"{len(tally.failing)} failing, {tally.seconds:.0f} s"
        )
        print("  " + ", ".join(f"{verb} {count:,}" for verb, count in sorted(tally.calls.items())), flush=True)
    return 1 if failing else 0


def _one(engine: str, program: Program, given: argparse.Namespace) -> int:
    if given.print:
        print(program.to_json())
    with serving(engine) as url:
        verdict = judge(program, url)
        if given.shrink and verdict.differences:
            program = smaller(program, url)
            verdict = judge(program, url)
            print(f"{program.operations} operations are left:\n{program.to_json()}")
    print(told(verdict) if verdict.differences else f"{engine}: no difference in {sum(verdict.calls.values())} calls")
    return 1 if verdict.differences else 0


if __name__ == "__main__":
    sys.exit(main())
