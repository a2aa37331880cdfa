"""User code is typed: both checkers, each at its strictest, know every result and refuse every mistake.

`tests/types` is that code. It is checked as a user's project would be: outside this checkout, against the installed
package. A mistake that a checker should refuse has an ignore comment, and an ignore that nothing needs is an error.
"""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

USER_CODE = Path(__file__).parents[1] / "types"

PYRIGHT = {
    "typeCheckingMode": "strict",
    # the ignores for mypy must not hide anything from pyright
    "enableTypeIgnoreComments": False,
    "reportUnnecessaryTypeIgnoreComment": "error",
}


@pytest.fixture
def project(tmp_path: Path) -> Path:
    shutil.copytree(USER_CODE, tmp_path, dirs_exist_ok=True)
    (tmp_path / "mypy.ini").write_text("[mypy]\nstrict = true\nenable_error_code = ignore-without-code\n")
    (tmp_path / "pyrightconfig.json").write_text(json.dumps(PYRIGHT))
    return tmp_path


def check(project: Path, *command: str) -> subprocess.CompletedProcess[str]:
    if importlib.util.find_spec(command[0]) is None:
        pytest.skip(f"{command[0]} is not installed for this Python; it comes with the dependency group 'dev'")
    return subprocess.run(
        [sys.executable, "-m", *command], cwd=project, capture_output=True, text=True, timeout=280, check=False
    )


@pytest.mark.matrix("make lint checks the same code as a part of the checkout")
@pytest.mark.timeout(300)
def test_mypy_knows_user_code(project: Path, pytestconfig: pytest.Config) -> None:
    cache = pytestconfig.cache.mkdir("mypy_user_code")
    checked = check(project, "mypy", f"--cache-dir={cache}", "--python-executable", sys.executable, ".")
    assert checked.returncode == 0, checked.stdout + checked.stderr


@pytest.mark.matrix("mypy finds nearly all that pyright finds")
@pytest.mark.timeout(300)
def test_pyright_knows_user_code(project: Path) -> None:
    checked = check(project, "pyright", "--pythonpath", sys.executable)
    assert checked.returncode == 0, checked.stdout + checked.stderr
