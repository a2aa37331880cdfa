"""The planted defects of `tests/mutants`: each of the list has a patch, and each patch still applies."""

import ast
from pathlib import Path

import pytest

from support.planted import MUTANTS, Planted, patched, planted

ROOT = Path(__file__).parents[2]


def test_each_defect_has_its_patch_and_each_patch_its_defect() -> None:
    assert [one.id for one in planted()] == list(dict.fromkeys(one.id for one in planted()))
    assert {f"{one.id}.patch" for one in planted()} == {path.name for path in MUTANTS.glob("*.patch")}


@pytest.mark.parametrize("one", planted(), ids=lambda one: one.id)
def test_the_patch_applies(one: Planted) -> None:
    """And leaves a file that Python can read: a defect that breaks the syntax proves nothing."""
    text = (ROOT / one.file).read_text()
    after = patched(text, one.patch)
    assert after != text
    assert [f"a/{one.file}", f"b/{one.file}"] == [line.split()[1] for line in one.patch.splitlines()[:2]]
    if one.file.endswith(".py"):
        ast.parse(after)
