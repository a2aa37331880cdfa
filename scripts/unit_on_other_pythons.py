"""Run the unit tests on the newest other supported Python, from the PATH or from pyenv; with --every, on each.

Tests with the marker `one_python` are left out: they search for a long time, and do not depend on the Python version.
Each Python has a virtual environment in .venvs/, which is renewed when pyproject.toml changes. Arguments go to pytest.
"""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
VERSIONS = [(3, minor) for minor in range(11, 15)]
MARKED = ("-m", "not matrix and not soak and not compose and not one_python")
ASK_VERSION = "import sys; print(*sys.version_info[:2])"


def interpreter(version: tuple[int, int]) -> Path | None:
    """A Python of this version that runs: a pyenv shim may exist without one."""
    number = f"{version[0]}.{version[1]}"
    pyenv = Path(os.environ.get("PYENV_ROOT", "~/.pyenv"), "versions").expanduser()
    for folder in (*map(Path, os.get_exec_path()), *pyenv.glob(f"{number}.*/bin")):
        path = folder / f"python{number}"
        if path.is_file():
            answer = subprocess.run([path, "-c", ASK_VERSION], capture_output=True, text=True, check=False)
            if answer.returncode == 0 and answer.stdout.split() == [str(part) for part in version]:
                return path
    return None


def environment(version: tuple[int, int], python: Path) -> Path:
    """Create or renew the virtual environment of a Python; its bin folder."""
    home = ROOT / ".venvs" / f"{version[0]}.{version[1]}"
    stamp, config = home / ".installed", ROOT / "pyproject.toml"
    if not stamp.exists() or stamp.stat().st_mtime < config.stat().st_mtime:
        # the pip that runs this script installs into the new environment, since Debian's Pythons have no ensurepip
        subprocess.run([python, "-m", "venv", "--clear", "--without-pip", home], check=True)
        install = ["install", "--quiet", "--editable", f"{ROOT}[all]", "--group", f"{config}:test"]
        subprocess.run([sys.executable, "-m", "pip", "--python", home, *install], check=True)
        stamp.touch()
    return home / "bin"


def main() -> int:
    others = [version for version in VERSIONS if version != sys.version_info[:2]]
    available = [(version, python) for version in others if (python := interpreter(version))]
    if not available:
        print("no other Python found")
    arguments = [argument for argument in sys.argv[1:] if argument != "--every"]
    if arguments == sys.argv[1:]:
        available = available[-1:]
    failed: list[str] = []
    for version, python in available:
        print(f"unit tests on {python}", flush=True)
        pytest = environment(version, python) / "pytest"
        if subprocess.run([pytest, "tests/unit", *MARKED, *arguments], cwd=ROOT, check=False).returncode:
            failed.append(str(python))
    if failed:
        print(f"unit tests failed on {', '.join(failed)}")
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
