"""Each test runs in `make test`, in `make matrix` or by a command that the workflow or CONTRIBUTING.md names."""

import re
import tomllib
from collections import Counter
from itertools import chain, combinations
from pathlib import Path

import pytest
from _pytest.mark.expression import Expression

from peerjob.testing import store_conformance
from support.division import COMMANDS, REST, TABLE, on_redis, table

ROOT = Path(__file__).parents[2]
MAKEFILE = (ROOT / "Makefile").read_text()
MARKERS = ("matrix", "search", "long", "soak", "compose", "slow", "one_python")
RULES = {path.stem for path in Path(store_conformance.__file__).parent.glob("*.py")}


def selected(variable: str, markers: tuple[str, ...]) -> bool:
    """Whether an expression of the Makefile selects a test with these markers."""
    (expression,) = re.findall(rf"^{variable} := .*-m '(.*)'$", MAKEFILE, re.MULTILINE)
    return Expression.compile(expression).evaluate(lambda name, /, **_: name in markers)


def test_each_test_runs_in_one_of_the_two_commands() -> None:
    for markers in chain.from_iterable(combinations(MARKERS, count) for count in range(len(MARKERS) + 1)):
        ours = not {"soak", "compose"} & {*markers}
        assert selected("IN_TEST", markers) == (ours and "matrix" not in markers), markers
        assert selected("IN_MATRIX", markers) == (ours and bool({"matrix", "search"} & {*markers})), markers


def test_every_marker_is_one_of_these() -> None:
    """A marker that is new may need a place in an expression."""
    config = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["pytest"]["ini_options"]
    assert {re.split(r"\W", line)[0] for line in config["markers"]} == {*MARKERS}


def test_each_folder_of_tests_belongs_to_a_command() -> None:
    of_test, of_matrix = (
        set(re.findall(rf"pytest (tests/.*?) -n.*\$\({part}\)", MAKEFILE)) for part in ("IN_TEST", "IN_MATRIX")
    )
    assert of_test == {"tests/unit", "tests/integration"}
    assert of_matrix == {"tests/unit tests/integration"}
    assert "pytest -m soak $(ARGS)" in MAKEFILE
    assert "pytest -m compose tests/compose" in MAKEFILE
    folders = {path.relative_to(ROOT).parts[1] for path in (ROOT / "tests").rglob("test_*.py")}
    assert folders == {"unit", "integration", "compose"}


def test_each_command_has_its_targets() -> None:
    targets = {
        name: re.findall(rf"^{name}: (.*?) ##", MAKEFILE, re.MULTILINE)[0].split() for name in ("test", "matrix")
    }
    assert {"unit", "integration"} <= {*targets["test"]}
    assert {"matrix-tests", "unit-others"} <= {*targets["matrix"]}


def test_no_rule_hides_another_of_its_name() -> None:
    """The suite joins the groups by inheritance, so of two rules with one name only the first would run."""
    names = Counter(
        name for group in store_conformance.StoreConformance.__mro__ for name in vars(group) if name.startswith("test_")
    )
    assert [name for name, count in names.items() if count > 1] == []


def test_the_table_names_the_groups_of_rules() -> None:
    for setup, row in tomllib.loads(TABLE.read_text()).items():
        listed = [group for groups in row.values() for group in groups]
        assert {*row} <= {*COMMANDS}, setup
        assert {*listed} <= RULES | {REST}, setup
        assert len(listed) == len({*listed}) > 0, setup


def test_each_setup_of_the_table_has_one_test_class() -> None:
    sources = [path.read_text() for path in (ROOT / "tests").rglob("test_*.py")]
    assert sorted(re.findall(r'^    conformance_on = "(.*)"$', "\n".join(sources), re.MULTILINE)) == sorted(table())


def test_make_test_runs_each_group_on_both_engines() -> None:
    for setup in ("memory", "redis", "reference"):
        assert table()[setup]["test"] == [REST], setup


@pytest.mark.parametrize(
    ("test", "twin"),
    [
        ("a.py::test_a[valkey]", "a.py::test_a[redis]"),
        ("a.py::test_a[valkey+glide-7]", "a.py::test_a[redis-7]"),
        ("a.py::test_a[glide]", "a.py::test_a[redis]"),
        ("a.py::test_a[x-valkey_url]", "a.py::test_a[x-redis_url]"),
        ("a.py::TestValkey::test_a", "a.py::TestRedis::test_a"),
        ("a.py::TestGlideStore::test_a", "a.py::TestRedisStore::test_a"),
        ("valkey.py::test_valkey", "valkey.py::test_valkey"),
    ],
)
def test_the_twin_of_a_test_on_valkey_is_the_one_on_redis(test: str, twin: str) -> None:
    assert on_redis(test) == twin
