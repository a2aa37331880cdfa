"""Which command runs a test: `make test`, `make matrix` or `make test-soak`; a plugin of pytest.

A test runs in `make test` unless a marker names another command. Two kinds of tests get the marker here:

* the rules of the conformance suite, from `tests/conformance.toml`
* a test on Valkey, or through valkey-glide, if the same test runs on Redis, too

A test with the marker `search` runs in both: `make matrix` has the option `--whole` (see `support.searches`).
"""

import re
import tomllib
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

import pytest

from support import searches

TABLE = Path(__file__).parents[1] / "conformance.toml"
COMMANDS = ("test", "matrix", "soak")
"""Lists of groups that a set-up can have in the table."""
REST = "*"
REASONED = ("matrix", "long")
"""Markers that need a reason."""
SETUP = "conformance_on"
"""The attribute of a test class that names its set-up."""
_OTHER_SERVER = re.compile(r"(?<![\w+])(?:valkey\+glide|valkey|glide)(?=\W|_|$)")
_OTHER_CLASS = re.compile(r"(?<=\bTest)(?:Valkey|Glide)")
_RULES = "peerjob.testing.store_conformance."


@cache
def table() -> Mapping[str, Mapping[str, Sequence[str]]]:
    """The groups of rules that each command runs on a set-up."""
    rows: dict[str, dict[str, list[str]]] = tomllib.loads(TABLE.read_text())
    return {setup: {command: row[command] for command in COMMANDS if command in row} for setup, row in rows.items()}


def groups_of(suite: type) -> set[str]:
    """The groups of rules that a test class has: the modules of the suite that hold its tests."""
    return {
        base.__module__.removeprefix(_RULES)
        for base in suite.__mro__
        if base.__module__.startswith(_RULES) and any(name.startswith("test_") for name in vars(base))
    }


def commands_of(suite: type) -> Mapping[str, str]:
    """The command for each group of a test class; raises UsageError where the class and the table differ."""
    groups, setup = groups_of(suite), getattr(suite, SETUP, "")
    if setup not in table():
        raise pytest.UsageError(f"{suite.__name__}.{SETUP} is {setup!r}, which {TABLE.name} does not list")
    row = table()[setup]
    commands = {group: command for command, listed in row.items() for group in listed}
    if unknown := commands.keys() - groups - {REST}:
        raise pytest.UsageError(f"{suite.__name__} has no rules of {', '.join(sorted(unknown))}: see {TABLE.name}")
    if missing := groups - commands.keys() if REST not in commands else set():
        raise pytest.UsageError(f"{TABLE.name} does not say where {setup} runs {', '.join(sorted(missing))}")
    return {group: commands.get(group, commands.get(REST, "")) for group in groups}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--whole", action="store_true", help="let the searches look at all of their cases")


def pytest_configure(config: pytest.Config) -> None:
    searches.whole = config.getoption("--whole")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    commands, ids = cache(commands_of), {item.nodeid for item in items}
    for item in items:
        for name in REASONED:
            for mark in item.iter_markers(name):
                if len(mark.args) != 1 or mark.kwargs or not isinstance(mark.args[0], str) or not mark.args[0]:
                    raise pytest.UsageError(f"{item.nodeid}: the marker {name} needs one text, the reason")
        module = item.function.__module__ if isinstance(item, pytest.Function) else ""
        if isinstance(item, pytest.Function) and item.cls is not None and module.startswith(_RULES):
            command = commands(item.cls)[module.removeprefix(_RULES)]
            if command != "test":
                item.add_marker(pytest.mark.soak if command == "soak" else pytest.mark.matrix(f"see {TABLE.name}"))
        elif (twin := on_redis(item.nodeid)) != item.nodeid and twin in ids:
            item.add_marker(pytest.mark.matrix("the same test runs on Redis"))


def in_matrix(value: object, why: str = "make test runs it on another engine") -> pytest.ParameterSet:
    """A value of a parameter that only `make matrix` has."""
    return pytest.param(value, marks=pytest.mark.matrix(why))


def on_redis(nodeid: str) -> str:
    """The id that a test would have on Redis."""
    path, separator, test = nodeid.partition("::")
    return path + separator + _OTHER_SERVER.sub("redis", _OTHER_CLASS.sub("Redis", test))
