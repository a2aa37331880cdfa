"""Planted defects: the list in `tests/mutants`, how a patch of it is applied without git, and copies of the tree."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import tomllib
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

    @property
    def patch(self) -> str:
        return (MUTANTS / f"{self.id}.patch").read_text()


def planted() -> list[Planted]:
    """All of the list, in its order."""
    listed = tomllib.loads((MUTANTS / "list.toml").read_text())
    return [Planted(id=id, **row) for id, row in listed.items()]


def patched(text: str, patch: str) -> str:
    """The text after a unified diff; raises ValueError unless each hunk fits exactly one place."""
    for hunk in patch.split("\n@@ ")[1:]:
        lines = hunk.removesuffix("\n").split("\n")[1:]
        before = "".join(f"{line[1:]}\n" for line in lines if line[:1] in ("-", " "))
        after = "".join(f"{line[1:]}\n" for line in lines if line[:1] in ("+", " "))
        if f"\n{text}".count(f"\n{before}") != 1:
            raise ValueError(f"a hunk fits {text.count(before)} places: @@ {hunk}")
        text = f"\n{text}".replace(f"\n{before}", f"\n{after}")[1:]
    return text


@contextmanager
def copy_of_tree() -> Generator[Path]:
    """A copy of this tree, for as long as a test run needs it."""
    with tempfile.TemporaryDirectory(prefix="planted-") as folder:
        home = Path(folder, "tree")
        shutil.copytree(ROOT, home, symlinks=True, ignore=LEFT_OUT)
        # programs that tests start have no other folder on their path
        (home / "tests" / "peerjob").symlink_to(Path("..", "src", "peerjob"))
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
