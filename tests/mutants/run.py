"""Plants the listed defects one by one in a copy of the tree, and shows which test or seed detects each first.

The `.toml` files beside this one have the defects, by the part of the product that they change. `file`, `old` and `new`
are the change, `tests` the arguments of pytest for the tests that should see it first. The letters of the ids:

* R: one for each rule that keeps the guarantees
* A: defects that the product once had
* S: slips that the tests did not see when they were planted the first time
* M: slips of the kind that a tired engineer writes
* N: the first sensible slip at a place of the package that was drawn at random
* L: slips in limits
* P: slips in what runs in production: rights, audit, drains, gateways, sentinels, SQLite
"""

from __future__ import annotations

import argparse
import itertools
import math
import random
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from _pytest.mark.expression import Expression

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tests"))

from support.planted import Planted, copy_of_tree, ended, planted  # noqa: E402  # found by the line above

ENGINES = {
    "store/lua/": "tests/integration -k 'lua or TestRedis or TestValkey or TestGlide'",
    "store/kv/": "tests/integration -k 'etcd or TestEtcd'",
}
"""Integration tests of an engine, by where its mechanisms live."""
SEEDS = ("--seeds", "10", "--storms", "2", "--processes", "1")
"""The random programs that run after the listed tests: on virtual time, and on each kind of store."""
_FAILED = re.compile(r"^(?:FAILED|ERROR) (tests/.+?)(?: - |$)", re.MULTILINE)
_SEED = re.compile(r"^((?:\w+, )?seed \d+) fails", re.MULTILINE)
_TESTS_FAILED = 1


@dataclass(frozen=True, kw_only=True)
class Caught:
    """What became of one defect."""

    defect: Planted
    test: str
    """The test or the seed that failed first; "" when none did."""
    seconds: float


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("ids", nargs="*", help="only these (default: all)")
    parser.add_argument("--jobs", type=int, default=1, help="how many are tried at a time")
    parser.add_argument(
        "--only-listed", action="store_true", help="run the listed tests alone: no random programs and no wider sets"
    )
    parser.add_argument(
        "--seconds", type=float, help="begin no defect after so many seconds; each commit has an order of its own"
    )
    parser.add_argument("--check", action="store_true", help="only check that each defect fits its file")
    parser.add_argument(
        "--collected", type=Path, help="with --check: the ids of all tests, of which each defect must select some"
    )
    given = parser.parse_args()
    chosen = [defect for defect in planted() if not given.ids or defect.id in given.ids]
    unknown = set(given.ids) - {defect.id for defect in chosen}
    if unknown:
        parser.error(f"not listed: {', '.join(sorted(unknown))}")
    if given.check:
        tests = [] if given.collected is None else given.collected.read_text().splitlines()
        return check(chosen, [test for test in tests if "::" in test])
    results: list[Caught] = []
    until = math.inf
    if given.seconds is not None:
        until = time.monotonic() + given.seconds
        random.Random(commit()).shuffle(chosen)

    def in_time(defect: Planted) -> Caught | None:
        return attempt(defect, only_listed=given.only_listed) if time.monotonic() < until else None

    with ThreadPoolExecutor(given.jobs) as pool:
        for caught in filter(None, pool.map(in_time, chosen)):
            results.append(caught)
            progress = f"[{len(results)}/{len(chosen)}] {caught.defect.id}"
            print(f"{progress} {caught.test or 'NOT CAUGHT'} {caught.seconds:.0f} s", file=sys.stderr, flush=True)
    print(table(results))
    return sum(not caught.test for caught in results) > 0


def commit() -> str:
    """The commit of this tree; "" in a tree without git."""
    asked = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False)
    return asked.stdout.strip()


def check(chosen: Sequence[Planted], tests: Sequence[str]) -> int:
    """Print the defects that no longer fit their file or, where tests are given, select none; 1 if there is one."""
    unfit = 0
    for defect in chosen:
        try:
            defect.planted((ROOT / defect.file).read_text())
            if tests and not selects(shlex.split(defect.tests), tests):
                raise ValueError(f"no test is selected by {defect.tests}")
        except (OSError, ValueError, SyntaxError) as error:
            unfit += 1
            print(f"{defect.id}: {error}")
    print(f"{len(chosen) - unfit} of {len(chosen)} planted defects fit")
    return int(unfit > 0)


def selects(arguments: Sequence[str], tests: Sequence[str]) -> bool:
    """Whether arguments of pytest, which are paths and at most one -k, select any of these tests."""
    paths = list(itertools.takewhile(lambda argument: argument != "-k", arguments))
    chosen = Expression.compile(arguments[len(paths) + 1]) if len(paths) < len(arguments) else None
    found = (test for test in tests for path in paths if test == path or test.startswith((f"{path}::", f"{path}[")))
    return any(chosen is None or chosen.evaluate(partial(has_word, test.lower())) for test in found)


def has_word(test: str, word: str, /, **_: object) -> bool:
    """Whether a name that stands after -k is in the id of a test."""
    return word.lower() in test


def attempt(defect: Planted, *, only_listed: bool) -> Caught:
    """Plant one defect, and run tests until one fails: the narrowest first, then random programs, then wide sets."""
    began = time.monotonic()
    wider = [] if only_listed else wider_sets(defect.file)
    with copy_of_tree() as home:
        path = home / defect.file
        path.write_text(defect.planted(path.read_text()))
        test = failed_test(home, shlex.split(defect.tests))
        if not test and not only_listed:
            test = failing_seed(home)
        for arguments in wider:
            test = test or failed_test(home, shlex.split(arguments))
    return Caught(defect=defect, test=test, seconds=time.monotonic() - began)


def wider_sets(file: str) -> list[str]:
    """The sets of tests that may see a defect in a file, beside those that should."""
    engines = [tests for folder, tests in ENGINES.items() if file.startswith(folder)]
    return ["tests/unit -n 2", *(engines or ["tests/integration -n 2"])]


def failed_test(home: Path, arguments: Sequence[str]) -> str:
    """The first test that fails there, or ""; raises RuntimeError where the tests could not be run."""
    source = str(home / "src")
    run = ended(home, [Path(sys.executable).with_name("pytest"), "-x", "-q", "--whole", *arguments], source)
    if run.returncode == 0:
        return ""
    if run.returncode < 0:
        return f"a crash of the test run (signal {-run.returncode})"
    failed = _FAILED.search(run.stdout)
    if run.returncode != _TESTS_FAILED or failed is None:
        raise RuntimeError(f"pytest {shlex.join(arguments)} ended with {run.returncode}:\n{run.stdout[-3000:]}")
    return failed[1]


def failing_seed(home: Path) -> str:
    """The first seed of the simulation that violates an invariant there, or ""."""
    try:
        run = ended(home, [sys.executable, "-m", "support.simulation", *SEEDS], f"{home / 'src'}:{home / 'tests'}")
    except subprocess.TimeoutExpired:
        return "a seed that does not end"
    failed = _SEED.search(run.stdout)
    return failed[1] if failed is not None else "an error of the simulation" if run.returncode else ""


def table(results: Sequence[Caught]) -> str:
    """The results in Markdown, and the rate."""
    rows = [
        f"| {caught.defect.id} | {caught.defect.defect} | {f'`{caught.test}`' if caught.test else 'nothing'} "
        f"| {caught.seconds:.0f} |"
        for caught in results
    ]
    count = sum(bool(caught.test) for caught in results)
    rate = f"{count} of {len(results)} caught"
    return "\n".join(["| id | defect | caught by | seconds |", "|---|---|---|---|", *rows, "", rate])


if __name__ == "__main__":
    sys.exit(main())
