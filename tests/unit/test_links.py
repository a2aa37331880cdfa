"""A clone without symbolic links, as git on Windows makes it, is refused in one line, which names the cure."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = Path("src", "peerjob")

pytestmark = pytest.mark.skipif(not (ROOT / ".git").exists(), reason="a release of the sources has no links")


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A clone with the files of this tree that look at the links."""
    home = tmp_path / "clone"
    settings = ["-c", "core.symlinks=false", "-c", "advice.detachedHead=false"]
    subprocess.run(["git", *settings, "clone", "--quiet", "--shared", *settings, ROOT, home], check=True)
    for name in ("Makefile", "setup.py"):
        shutil.copy(ROOT / name, home)
    assert (home / PACKAGE / "store").read_text() == "../../store"
    return home


def ran(home: Path, *command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=home, capture_output=True, text=True, check=False)


def pip(home: Path, *, to: Path) -> subprocess.CompletedProcess[str]:
    options = ("--no-build-isolation", "--no-deps", "--no-index", "--target", str(to))
    return ran(home, sys.executable, "-m", "pip", "install", *options, ".")


def test_make_refuses_a_clone_without_links_before_it_installs(clone: Path) -> None:
    done = ran(clone, "make", ".venv/.installed", f"PYTHON={sys.executable}")
    assert done.returncode != 0
    first, *_ = done.stderr.splitlines()
    assert first.startswith("src/peerjob/cluster is a text file, expected a link to cluster/")
    assert not (clone / ".venv").exists()


@pytest.mark.matrix("pip runs twice, and builds the package once")
def test_pip_refuses_such_a_clone_until_the_commands_of_its_line_have_run(clone: Path, tmp_path: Path) -> None:
    refused = pip(clone, to=tmp_path / "broken")
    assert refused.returncode != 0
    told = [line for line in (refused.stdout + refused.stderr).splitlines() if "is a text file" in line]
    assert len(told) == 1
    commands = re.findall(r"`(git [^`]+)`", told[0])
    assert len(commands) == 2

    for command in commands:
        assert ran(clone, *command.split()).returncode == 0

    assert (clone / PACKAGE / "store").readlink() == Path("..", "..", "store")
    whole = tmp_path / "whole"
    installed = pip(clone, to=whole)
    assert installed.returncode == 0, installed.stdout + installed.stderr
    code = "import peerjob.store.base, peerjob.node.runtime; print(peerjob.__file__)"
    imported = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={"PYTHONPATH": str(whole)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert Path(imported.stdout.strip()).is_relative_to(whole), imported.stderr
