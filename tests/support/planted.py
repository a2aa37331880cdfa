"""Planted defects: the lists in `tests/mutants`, and copies of the tree that have one of them."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import tempfile
import tomllib
from collections import Counter
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
MUTANTS = ROOT / "tests" / "mutants"
LEFT_OUT = shutil.ignore_patterns(".git", ".venv*", "build", "dist", "__pycache__", ".*_cache", ".hypothesis")
LIMIT = 1_800
"""Seconds after which a run of pytest is ended; the tests' own timeouts come long before."""


@dataclass(frozen=True, kw_only=True)
class Planted:
    """One defect of the list."""

    id: str
    defect: str
    file: str
    tests: str
    """Arguments of pytest for the tests that should see it first."""
    old: str
    """Whole lines of the file, which occur there once."""
    new: str

    def planted(self, text: str) -> str:
        """The text with the defect; raises ValueError unless the defect fits exactly one place.

        A defect that leaves a file that Python cannot read proves nothing, so that raises SyntaxError.
        """
        places = f"\n{text}".count(f"\n{self.old}")
        if places != 1 or self.old == self.new:
            raise ValueError(f"{self.id} fits {places} places of {self.file}, and must change exactly one")
        after = f"\n{text}".replace(f"\n{self.old}", f"\n{self.new}")[1:]
        if self.file.endswith(".py"):
            ast.parse(after)
        return after


def planted() -> list[Planted]:
    """All of the lists; raises ValueError for an id that stands in two of them."""
    rows = [row for path in sorted(MUTANTS.glob("*.toml")) for row in tomllib.loads(path.read_text()).items()]
    if repeated := [id for id, count in Counter(id for id, _ in rows).items() if count > 1]:
        raise ValueError(f"listed twice: {', '.join(repeated)}")
    return [Planted(id=id, **row) for id, row in rows]


@contextmanager
def copy_of_tree(name: str = "tree") -> Generator[Path]:
    """A copy of this tree, in a folder of this name, for as long as a test run needs it."""
    with tempfile.TemporaryDirectory(prefix="planted-") as folder:
        home = Path(folder, name)
        shutil.copytree(ROOT, home, symlinks=True, ignore=LEFT_OUT)
        # programs that tests start have no other folder on their path
        package = home / "tests" / "peerjob"
        if not package.is_symlink():  # in a copy of a copy it is one already
            package.symlink_to(Path("..", "src", "peerjob"))
        yield home


def ended(
    home: Path, command: Sequence[str | Path], python_path: str, *, limit: float = LIMIT
) -> subprocess.CompletedProcess[str]:
    """A command that ran in a copy of the tree, with the package of that copy."""
    return subprocess.run(
        command,
        cwd=home,
        env=os.environ | {"PYTHONPATH": python_path, "MYPYPATH": str(home / "src")},
        capture_output=True,
        text=True,
        timeout=limit,
        check=False,
    )
