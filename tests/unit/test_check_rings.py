"""The lint that finds import rings between modules of the package."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CHECK = ROOT / "scripts" / "check_rings.py"


def check(home: Path, files: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Run the lint on a package `p` of these files."""
    (home / "scripts").mkdir()
    shutil.copy(CHECK, home / "scripts")
    for name, code in {"__init__.py": "", **files}.items():
        path = home / "src" / "p" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(code)
    command = [sys.executable, str(home / "scripts" / CHECK.name)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.matrix("make lint checks it")
def test_the_package_has_no_ring() -> None:
    done = subprocess.run([sys.executable, str(CHECK)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_a_ring_of_local_and_type_checking_imports_is_found(tmp_path: Path) -> None:
    files = {
        "a.py": "def f():\n    from .b import g\n",
        "b.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from p import c\n",
        "c.py": "import p.a\n",
        "d.py": "from p.a import f\n",
    }
    done = check(tmp_path, files)
    assert done.returncode == 1
    assert done.stdout.startswith("import ring: ")
    assert all(f"p.{name}" in done.stdout for name in "abc")
    assert "p.d" not in done.stdout


def test_a_ring_through_a_package_is_found(tmp_path: Path) -> None:
    done = check(tmp_path, {"sub/__init__.py": "from .x import y\n", "sub/x.py": "from . import z\n"})
    assert done.returncode == 1


def test_imports_in_one_direction_are_no_ring(tmp_path: Path) -> None:
    done = check(tmp_path, {"a.py": "from . import b\n", "b.py": "from .sub.x import y\n", "sub/x.py": "import os\n"})
    assert done.returncode == 0, done.stdout
