"""The table of docs/guarantees.md names a run for each of its cells, and each run exists."""

import re
from pathlib import Path

import pytest

from support.lab.setups import SETUPS

ROOT = Path(__file__).parents[2]
RUN = re.compile(r"; `(?:faultlab (?P<setup>\S+)|(?P<test>test_\w+))`$")

pytestmark = pytest.mark.one_python


def cells() -> list[tuple[str, str]]:
    """The store of each row, and each of its cells."""
    _, _, section = (ROOT / "docs" / "guarantees.md").read_text().partition("## What your store makes of it")
    rows = [line.strip("|").split(" | ") for line in section.partition("\n## ")[0].splitlines() if line.startswith("|")]
    return [(row[0].strip(), cell.strip()) for row in rows[2:] for cell in row[1:]]


def test_each_cell_names_a_run_that_exists() -> None:
    tests = "\n".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    found = cells()
    assert len(found) >= 22
    for store, cell in found:
        named = RUN.search(cell)
        assert named is not None, f"{store}: {cell!r} names no run"
        if named["setup"]:
            assert named["setup"] in SETUPS, f"{store}: the lab has no set-up {named['setup']}"
        else:
            assert f"def {named['test']}(" in tests, f"{store}: there is no {named['test']}"
