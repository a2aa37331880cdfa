"""A test that costs much more than its budget fails, and the summary names each that costs more."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

CONFTEST = """
from support import costs

pytest_plugins = ["support.costs", "support.division"]
costs.BUDGETS["unit"] = 0.04
"""

TESTS = """
import subprocess
import sys
import time

import pytest


def spend(seconds):
    while time.process_time() < seconds:
        pass


@pytest.fixture(scope="module")
def shared():
    spend(time.process_time() + 0.16)


@pytest.fixture
def own():
    spend(time.process_time() + 0.16)


def test_cheap(): ...


def test_shared(shared): ...


def test_own(own): ...


def test_own_process():
    code = "import time\\nwhile time.process_time() < 0.16: pass"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.long("it counts")
def test_long(own): ...


@pytest.mark.matrix("it counts")
def test_matrix(own): ...


def test_a_little_more():
    spend(time.process_time() + 0.07)
"""


def run(folder: Path, tests: str) -> list[str]:
    unit = folder / "unit"
    unit.mkdir()
    (folder / "conftest.py").write_text(CONFTEST)
    (folder / "pytest.ini").write_text("[pytest]\nmarkers =\n    long\n    matrix\n")
    (unit / "test_it.py").write_text(tests)
    command: list[str | Path] = [
        sys.executable,
        "-P",
        "-m",
        "pytest",
        "-rA",
        "-q",
        "-p",
        "no:cacheprovider",
        "-p",
        "no:valkey",
        folder,
    ]
    path = {"PYTHONPATH": str(ROOT / "tests"), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    done = subprocess.run(command, env=os.environ | path, cwd=folder, capture_output=True, text=True, check=False)
    return (done.stdout + done.stderr).splitlines()


def names(lines: list[str], outcome: str) -> set[str]:
    return {line.partition("::")[2].split()[0] for line in lines if line.startswith(outcome)}


@pytest.mark.matrix("what measures the tests is a tool")
def test_a_test_above_its_budget_fails(tmp_path: Path) -> None:
    lines = run(tmp_path, TESTS)

    assert names(lines, "ERROR") == {"test_own", "test_own_process"}, lines
    assert names(lines, "PASSED") >= {"test_cheap", "test_shared", "test_long", "test_matrix", "test_a_little_more"}
    assert any("tests above their budget" in line for line in lines)
    assert {line.rpartition("::")[2] for line in lines if " s unit/" in line} >= {"test_own", "test_a_little_more"}


def test_a_marker_without_a_reason_is_refused(tmp_path: Path) -> None:
    lines = run(tmp_path, "import pytest\n@pytest.mark.long\ndef test_it(): ...\n")

    assert any("unit/test_it.py::test_it: the marker long needs one text, the reason" in line for line in lines), lines
