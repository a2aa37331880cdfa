"""The tests pass wherever the checkout is."""

import sys

import pytest

from support.planted import copy_of_tree, ended

FOLDER = "a b ü/peerjob"
"""`git clone` makes the last name; the others are those of users."""
TESTS = (
    "tests/unit/django",
    "tests/unit/deploy/test_workflows.py",
    "tests/unit/store/test_sqlite_location.py",
    "tests/unit/node/test_executor.py",
    "tests/unit/node/test_processes.py",
    "tests/unit/test_docs.py",
    "tests/unit/test_pages.py",
    "tests/unit/test_reference.py",
    "tests/integration/test_jobctl.py::test_an_output_that_takes_nothing_is_one_line",
)
"""Those whose outcome can depend on a path: they read files of the tree, start programs or show where code is."""

pytestmark = [pytest.mark.one_python, pytest.mark.matrix("runs many tests a second time, in another folder")]


@pytest.mark.timeout(900)
def test_the_tests_pass_in_a_folder_of_any_name() -> None:
    with copy_of_tree(FOLDER) as home:
        # the programs beside the interpreter have a path in this folder, too
        (home / ".venv").symlink_to(sys.prefix)
        python = home / ".venv" / "bin" / "python"
        run = ended(home, [python, "-P", "-m", "pytest", "-q", "-n", "0", "-m", "not slow", *TESTS], str(home / "src"))
    assert run.returncode == 0, run.stdout[-4000:] + run.stderr[-2000:]
    assert " passed" in run.stdout
