"""Every public name has a docstring, and its place in the reference."""

import inspect
import re
from pathlib import Path
from types import ModuleType

import pytest

import peerjob
import peerjob.sql
import peerjob.testing
import peerjob_pytest

ROOT = Path(__file__).parents[2]
REFERENCE = "".join(path.read_text() for path in sorted((ROOT / "docs" / "reference").glob("*.md")))
SHOWN = re.findall(r"^<!-- reference: (\S+)(?: own)? -->$", REFERENCE, re.MULTILINE)
MODULES: tuple[ModuleType, ...] = (peerjob, peerjob.sql, peerjob.testing)
FIXTURES = [name for name in vars(peerjob_pytest) if name.startswith("peerjob_")]


def names() -> list[str]:
    return [f"{module.__name__}.{name}" for module in MODULES for name in module.__all__ if not name.startswith("_")]


def test_the_reference_has_each_public_name_once() -> None:
    fixtures = [f"peerjob_pytest.{name}" for name in FIXTURES]
    assert len(fixtures) == 6
    assert sorted(SHOWN) == sorted([*names(), *fixtures])


@pytest.mark.parametrize("name", names())
def test_a_public_name_has_a_docstring(name: str) -> None:
    module, _, last = name.rpartition(".")
    found = getattr({one.__name__: one for one in MODULES}[module], last)
    if not inspect.isclass(found):
        assert not callable(found) or found.__doc__, f"{name} has no docstring"
        return
    assert (vars(found).get("__doc__") or "").strip(), f"{name} has no docstring"
    assert undocumented(found) == []


@pytest.mark.parametrize("name", [name for name in names() if name.endswith("Error")])
def test_an_error_says_what_to_do(name: str) -> None:
    """The site makes a table of errors from this paragraph of their docstrings."""
    text = inspect.getdoc(getattr(peerjob, name.rpartition(".")[2])) or ""
    when, _, solution = text.partition("\n\nSolution: ")
    assert when
    assert solution.endswith(".")


def undocumented(owner: type) -> list[str]:
    """The public methods and properties of a class that neither have a docstring nor implement one that has."""
    found: list[str] = []
    for name in dir(owner):
        definitions = [vars(one)[name] for one in owner.__mro__ if name in vars(one)]
        ours = [one for one in owner.__mro__ if name in vars(one) and one.__module__.startswith("peerjob")]
        if name.startswith("_") or not ours or not isinstance(definitions[0], METHODS):
            continue
        if not any((getattr(one, "__doc__", None) or "").strip() for one in definitions):
            found.append(f"{ours[0].__name__}.{name}")
    return found


METHODS = (property, classmethod, staticmethod, type(undocumented))


def test_a_method_without_a_docstring_is_found() -> None:
    class Contract:
        def told(self) -> None:
            """Do it."""

    class Example(Contract):
        def told(self) -> None: ...

        @property
        def untold(self) -> int:
            return 1

    Contract.__module__ = Example.__module__ = "peerjob.example"
    assert undocumented(Example) == ["Example.untold"]
