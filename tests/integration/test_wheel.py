"""What is installed is the package, all of it, and nothing else."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path, PurePath

import pytest

pytestmark = pytest.mark.matrix("builds the package")

ROOT = Path(__file__).parents[2]
FOLDERS = ("cluster", "node", "proto", "store")
SHIPPED = {".css", ".html", ".js", ".lua", ".proto", ".py", ".pyi", ".svg", ".txt", ".typed"}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """Build a wheel from a copy of the sources, since a build leaves folders behind."""
    copy, out = tmp_path_factory.mktemp("copy"), tmp_path_factory.mktemp("wheel")
    for name in ("src", *FOLDERS):
        ignore = shutil.ignore_patterns("__pycache__", "*.egg-info")
        shutil.copytree(ROOT / name, copy / name, symlinks=True, ignore=ignore)
    for name in ("LICENSE", "README.md", "pyproject.toml"):
        shutil.copy(ROOT / name, copy)
    build = [sys.executable, "-m", "pip", "wheel", "--no-build-isolation", "--no-deps", "--no-index"]
    built = subprocess.run([*build, "--wheel-dir", out, copy], capture_output=True, text=True, check=False, timeout=150)
    assert built.returncode == 0, built.stdout + built.stderr
    return zipfile.ZipFile(next(out.glob("*.whl")))


def test_the_wheel_holds_all_code_and_nothing_else(wheel: zipfile.ZipFile) -> None:
    packages = [(ROOT / "src", ROOT / "src" / name) for name in ("peerjob", "peerjob_probe", "peerjob_pytest")]
    sources = packages + [(ROOT, ROOT / name) for name in FOLDERS]
    expected = {
        PurePath("peerjob" if base == ROOT else "", path.relative_to(base)).as_posix()
        for base, folder in sources
        for path in folder.rglob("*")
        if path.suffix in SHIPPED
    }

    shipped = {name for name in wheel.namelist() if ".dist-info/" not in name}

    assert shipped == expected
    assert "peerjob/py.typed" in shipped


def test_the_wheel_brings_the_command(wheel: zipfile.ZipFile) -> None:
    [entry_points] = [name for name in wheel.namelist() if name.endswith("entry_points.txt")]

    commands = wheel.read(entry_points).decode().splitlines()
    assert "jobd = peerjob_probe:main" in commands
    assert "jobctl = peerjob_probe:jobctl" in commands


def test_the_wheel_brings_the_pytest_plugin(wheel: zipfile.ZipFile, tmp_path: Path) -> None:
    wheel.extractall(tmp_path / "installed")
    test = tmp_path / "test_node.py"
    test.write_text(
        "import peerjob, peerjob_pytest\n"
        "async def test_it(peerjob_node):\n"
        "    assert peerjob_node.running\n"
        f"    assert {str(tmp_path)!r} in peerjob.__file__ and {str(tmp_path)!r} in peerjob_pytest.__file__\n"
    )
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", "-c", os.devnull, "-o", "asyncio_mode=auto", str(test)],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(tmp_path / "installed")},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "1 passed" in ran.stdout
