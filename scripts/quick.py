"""Check what differs from main: lint of the changed files, and the unit tests of their folders.

A folder of tests/unit has the tests of the folder of the package with the same name. The tests that
tests/unit/slow.txt names are left out. Arguments go to pytest.
"""

import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

ROOT = Path(__file__).parents[1]
BIN = Path(sys.executable).parent
UNIT = Path("tests", "unit")
MARKED = ("-m", "not matrix and not soak and not compose and not long and not slow")


def changed_files() -> list[str]:
    """The files that differ from main, or from the last commit where there is no main, and new files."""
    base = _git("merge-base", "HEAD", "main") or _git("rev-parse", "HEAD")
    names = {*_git("diff", "--name-only", *base[:1]), *_git("ls-files", "--others", "--exclude-standard")}
    return sorted(name for name in names if (ROOT / name).is_file())


def _git(*arguments: str) -> list[str]:
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout.split() if done.returncode == 0 else []


def tests_of(files: Iterable[str]) -> list[str]:
    """The unit tests of changed files: a changed test itself, else the folder; those of model if nothing changed."""
    chosen: set[Path] = set()
    for name in files:
        parts = PurePosixPath(name.removeprefix("src/peerjob/")).parts
        if parts[:2] == UNIT.parts and name.endswith(".py"):
            chosen.add(Path(name))
        elif (ROOT / UNIT / parts[0]).is_dir():
            chosen.add(UNIT / parts[0])
    return sorted(str(path) for path in chosen if not any(parent in chosen for parent in path.parents)) or [
        str(UNIT / "model")
    ]


def main() -> int:
    files = changed_files()
    # mypy knows the files of the package only by the links in src/peerjob
    python = [
        f"src/peerjob/{name}" if (ROOT / "src" / "peerjob" / name.partition("/")[0]).is_symlink() else name
        for name in files
        if name.endswith((".py", ".pyi")) and "_pb2." not in name
    ]
    lint: list[list[str | Path]] = [
        [BIN / "ruff", "check", "--quiet", *python],
        [BIN / "ruff", "format", "--check", "--quiet", *python],
        [BIN / "mypy", "--no-error-summary", *python],
        [sys.executable, "scripts/check_words.py"],
    ]
    # the linters run beside the tests, which mostly use one core each
    linters = [
        subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        for command in (lint if python else [])
    ]
    tests = tests_of(files)
    print(f"{len(files)} changed files; tests of {', '.join(tests)}", flush=True)
    failed = subprocess.run([BIN / "pytest", *tests, *MARKED, "-q", *sys.argv[1:]], cwd=ROOT, check=False).returncode
    for linter in linters:
        output, _ = linter.communicate()
        if linter.returncode:
            failed = 1
            print(output)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
