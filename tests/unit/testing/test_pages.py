"""The recipes and guides: the files that a page shows, and the tests that it shows for them."""

from importlib.metadata import entry_points
from pathlib import Path

import fastapi
import flask
import pytest

import peerjob.testing
from support.pages import DOCS, files

pytest_plugins = ["pytester"]
LOADED = (peerjob.testing, fastapi, flask)
"""Loaded here as a whole, so that no run below loads a part of them anew, beside the parts that another test loaded."""
PAGES = sorted([*(DOCS / "cookbook").glob("*.md"), *(DOCS / "guides").glob("*.md")])


@pytest.mark.long("runs pytest within a test")
@pytest.mark.parametrize("page", PAGES, ids=lambda page: f"{page.parent.name}/{page.stem}")
def test_the_tests_of_a_page_pass(page: Path, pytester: pytest.Pytester) -> None:
    shown = files(page)
    for name, code in shown.items():
        pytester.path.joinpath(name).write_text(code)
    tests = sum(code.count("def test_") for name, code in shown.items() if name.startswith("test_"))
    assert tests
    plugin = () if any(one.name == "peerjob" for one in entry_points(group="pytest11")) else ("-p", "peerjob_pytest")
    options = ("-p", "no:cacheprovider", "-p", "no:xdist", "-p", "no:anyio", "-W", "error")
    modes = ("-o", "asyncio_mode=auto", "-o", "asyncio_default_fixture_loop_scope=function")
    pytester.runpytest_inprocess(*plugin, *options, *modes).assert_outcomes(passed=tests)


@pytest.mark.parametrize("page", sorted((DOCS / "cookbook").glob("*.md")), ids=lambda page: page.stem)
def test_a_recipe_has_its_parts(page: Path) -> None:
    text = page.read_text()
    assert text.index("\n**Problem.** ") < text.index("\n```python\n# ")
    assert text.index("\n```python\n# ") < text.index("\n## At a `kill -9`\n") < text.index("\n## Limits\n")
