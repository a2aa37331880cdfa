"""Plants random slips in the product one by one, and tells for each whether a unit test that runs its line fails.

The listed defects show that old mistakes stay caught. Random slips measure the rate for mistakes that no list has.
"""

from __future__ import annotations

import argparse
import ast
import random
import sqlite3
import subprocess
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import accumulate, chain
from pathlib import Path

import coverage
import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tests"))

from support.planted import copy_of_tree, ended  # noqa: E402  # found by the line above

PARTS = ("node", "store", "cluster", "src/peerjob")
LEFT_OUT = ("_pb2", "/testing/", "blocking_calls", "__pycache__")
MAX_TESTS = 240
"""The number of tests that are tried for one slip, of all that run its line.

Half of them run the fewest lines in all, the others the most lines of the file.
"""
LIMIT = 400
"""The number of seconds after which a slip counts as caught, because its tests do not end."""
COMPARISONS: Mapping[type[ast.cmpop], tuple[str, str]] = {
    ast.Lt: ("<", "<="),
    ast.LtE: ("<=", "<"),
    ast.Gt: (">", ">="),
    ast.GtE: (">=", ">"),
    ast.Eq: ("==", "!="),
    ast.NotEq: ("!=", "=="),
    ast.Is: ("is", "is not"),
    ast.IsNot: ("is not", "is"),
    ast.In: ("in", "not in"),
    ast.NotIn: ("not in", "in"),
}
ARITHMETIC: Mapping[type[ast.operator], tuple[str, str]] = {
    ast.Add: ("+", "-"),
    ast.Sub: ("-", "+"),
    ast.Mult: ("*", "//"),
    ast.FloorDiv: ("//", "*"),
}
SWAPPED = {"min": "max", "max": "min", "any": "all", "all": "any"}


@dataclass(frozen=True, kw_only=True)
class Slip:
    """One change of one place of a file."""

    file: str
    line: int
    start: int
    """The first byte that the slip replaces."""
    end: int
    before: str
    after: str

    def planted(self, text: bytes) -> bytes:
        return text[: self.start] + self.after.encode() + text[self.end :]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=1, help="another seed draws other slips")
    parser.add_argument("--count", type=int, default=20, help="how many slips to plant")
    parser.add_argument("--first", type=int, default=0, help="leave out so many of the drawn slips")
    parser.add_argument("--part", default="", help="only files whose path begins with this")
    parser.add_argument(
        "--coverage", type=Path, default=ROOT / "build" / "contexts", help="which tests run which lines"
    )
    given = parser.parse_args()
    if not given.coverage.exists():
        measure(given.coverage)
    covering = Covering(given.coverage)
    candidates = [slip for path in product_files() for slip in slips_of(path) if slip.file.startswith(given.part)]
    random.Random(given.seed).shuffle(candidates)
    drawn = candidates[given.first : given.first + given.count]
    caught = 0
    for number, slip in enumerate(drawn, given.first):
        began = time.monotonic()
        by = attempt(slip, covering.tests(slip))
        caught += bool(by)
        print(
            f"{number} {slip.file}:{slip.line} {slip.before!r} -> {slip.after!r}: {by or 'NOT CAUGHT'}"
            f" ({time.monotonic() - began:.0f} s)",
            flush=True,
        )
    print(f"{caught} of {len(drawn)} caught, {caught / max(1, len(drawn)):.0%}")
    return 0


def measure(data: Path) -> None:
    """Run the unit tests once, and keep which test runs which line."""
    data.parent.mkdir(parents=True, exist_ok=True)
    options = data.with_name("slips.ini")
    options.write_text(f"[run]\ndata_file = {data}\nsource = peerjob\nparallel = false\n")
    command: list[str | Path] = [Path(sys.executable).with_name("pytest"), "-q", "-n", "2", "tests/unit"]
    command += ["--cov", "--cov-context=test", "--cov-report=", f"--cov-config={options}"]
    subprocess.run(command, cwd=ROOT, check=False)


class Covering:
    """The tests that run a line."""

    def __init__(self, data: Path) -> None:
        self._data = coverage.CoverageData(str(data))
        self._data.read()
        self._names = {Path(name).resolve(): name for name in self._data.measured_files()}
        self._lines: dict[str, Mapping[int, Sequence[str]]] = {}
        self._sizes = _sizes(data)

    def tests(self, slip: Slip) -> list[str]:
        name = self._names.get((ROOT / slip.file).resolve())
        if name is None:
            return []
        if name not in self._lines:
            self._lines[name] = self._data.contexts_by_lineno(name)
        lines = self._lines[name]
        # an import runs the line of a constant, so that the line has no test: take those of the whole file
        contexts = set(lines.get(slip.line, ())) - {""} or set(chain.from_iterable(lines.values())) - {""}
        found = {context.rpartition("|")[0] for context in contexts}
        in_file = Counter(context.rpartition("|")[0] for line in lines.values() for context in line)
        small = sorted(found, key=lambda test: (self._sizes[test], test))
        near = sorted(found, key=lambda test: (-in_file[test], self._sizes[test], test))
        return list(dict.fromkeys(small[: MAX_TESTS // 2] + near[: MAX_TESTS // 2]))


def _sizes(data: Path) -> Mapping[str, int]:
    """How many lines each test runs."""
    sizes: defaultdict[str, int] = defaultdict(int)
    rows = "SELECT context, numbits FROM line_bits JOIN context ON context.id = context_id"
    with closing(sqlite3.connect(data)) as database:
        for context, bits in database.execute(rows):
            sizes[context.rpartition("|")[0]] += int.from_bytes(bits).bit_count()
    return sizes


def attempt(slip: Slip, tests: Sequence[str]) -> str:
    """The test that sees the slip, or ""."""
    if not tests:
        return ""
    with copy_of_tree() as home:
        path = home / slip.file
        path.write_bytes(slip.planted(path.read_bytes()))
        (home / "chosen.txt").write_text("\n".join(sorted(tests)))
        command: list[str | Path] = [Path(sys.executable).with_name("pytest"), "-x", "-q", "-n", "0", "@chosen.txt"]
        try:
            run = ended(home, command, str(home / "src"), limit=LIMIT)
        except subprocess.TimeoutExpired:
            return "tests that do not end"
    if run.returncode == 0:
        return ""
    if run.returncode == pytest.ExitCode.USAGE_ERROR and " not found: " in run.stderr:
        check_names(tests)
    failed = [line for line in run.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
    return failed[0][:120] if failed else f"pytest ended with {run.returncode}"


def check_names(tests: Sequence[str]) -> None:
    """Raise for tests that are not found without the slip either: their end says nothing on the slip."""
    command: list[str | Path] = [Path(sys.executable).with_name("pytest"), "--collect-only", "-q", "-n", "0", *tests]
    run = subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True)
    if run.returncode:
        raise SystemExit(f"the measured coverage is old, remove it: {run.stderr.strip().splitlines()[0]}")


def product_files() -> list[Path]:
    files = chain.from_iterable((ROOT / part).rglob("*.py") for part in PARTS)
    kept = {path.resolve() for path in files if not any(name in str(path) for name in LEFT_OUT)}
    return sorted(kept)


def slips_of(path: Path) -> Iterator[Slip]:
    """Yield every slip of a file."""
    source = Source(path)
    tree = ast.parse(source.text)
    decorated = [node for node in ast.walk(tree) if isinstance(node, ast.ClassDef | ast.FunctionDef)]
    decorators = {id(part) for node in decorated for one in node.decorator_list for part in ast.walk(one)}
    for node in ast.walk(tree):
        if id(node) not in decorators:
            yield from source.operators(node)
            yield from source.values(node)
            yield from source.statements(node)


class Source:
    """The text of a file, and the slips of one of its nodes."""

    def __init__(self, path: Path) -> None:
        self.text = path.read_bytes()
        self._file = str(path.relative_to(ROOT.resolve()))
        sizes = [len(line) for line in self.text.splitlines(keepends=True)]
        self._starts = list(accumulate(sizes, initial=0))

    def operators(self, node: ast.AST) -> Iterator[Slip]:
        match node:
            case ast.Compare(left=left, ops=[op], comparators=[right]):
                yield self._operator(left, right, *COMPARISONS[type(op)])
            case ast.BoolOp(op=ast.And(), values=[left, right, *_]):
                yield self._operator(left, right, "and", "or")
            case ast.BoolOp(op=ast.Or(), values=[left, right, *_]):
                yield self._operator(left, right, "or", "and")
            case ast.BinOp(left=left, op=op, right=right) if type(op) in ARITHMETIC:
                yield self._operator(left, right, *ARITHMETIC[type(op)])
            case ast.UnaryOp(op=ast.Not()):
                first = self._start(node)
                yield self._slip(node.lineno, first, first + len("not"), "")
            case _:
                pass

    def values(self, node: ast.AST) -> Iterator[Slip]:
        match node:
            case ast.Constant(value=bool(value)):
                yield self._whole(node, str(not value))
            case ast.Constant(value=int(value)):
                yield self._whole(node, str(value + 1))
            case ast.Call(func=ast.Name(id=name) as called) if name in SWAPPED:
                yield self._whole(called, SWAPPED[name])
            case _:
                pass

    def statements(self, node: ast.AST) -> Iterator[Slip]:
        match node:
            case ast.If(test=test) | ast.While(test=test) | ast.IfExp(test=test):
                yield self._whole(test, "False")
            case ast.Return(value=ast.expr() as value) if not isinstance(value, ast.Constant):
                yield self._whole(value, "None")
            case (
                ast.Expr(value=ast.Call() | ast.Await()) | ast.AugAssign() | ast.Delete() | ast.Continue() | ast.Break()
            ):
                yield self._whole(node, "pass")
            case ast.Assign(targets=[ast.Attribute() | ast.Subscript()]):
                yield self._whole(node, "pass")
            case _:
                pass

    def _start(self, node: ast.expr | ast.stmt) -> int:
        return self._starts[node.lineno - 1] + node.col_offset

    def _end(self, node: ast.expr | ast.stmt) -> int:
        assert node.end_lineno is not None
        assert node.end_col_offset is not None
        return self._starts[node.end_lineno - 1] + node.end_col_offset

    def _slip(self, line: int, start: int, end: int, after: str) -> Slip:
        before = self.text[start:end].decode()
        return Slip(file=self._file, line=line, start=start, end=end, before=before, after=after)

    def _whole(self, node: ast.expr | ast.stmt, after: str) -> Slip:
        return self._slip(node.lineno, self._start(node), self._end(node), after)

    def _operator(self, left: ast.expr, right: ast.expr, old: str, new: str) -> Slip:
        """Replace an operator, and keep the parentheses around it."""
        start, end = self._end(left), self._start(right)
        between = self.text[start:end].decode()
        return self._slip(left.lineno, start, end, between.replace(old, new, 1))


if __name__ == "__main__":
    sys.exit(main())
