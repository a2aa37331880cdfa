"""The names that the page of the architecture gives are names of the code, in the files that the page gives."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "architecture.md").read_text()
FOLDERS = ("node", "store", "cluster", "src", "scripts")
IN_FILE = re.compile(rf"`([\w.]+)`(?: and `([\w.]+)`)? in `((?:{'|'.join(FOLDERS)})/[\w./-]+\.(?:py|lua))`")
"""A name, or two, with a file."""
NAME = re.compile(r"`([A-Za-z_]\w*(?:\.[A-Za-z_]\w*)?)(?:\(\))?`")
NO_NAMES = {*FOLDERS, "jobd", "jobctl", "CancelledError"}
"""Folders, commands, and a name of Python."""


def names_with_files() -> list[tuple[str, str]]:
    return [(name, path) for first, second, path in IN_FILE.findall(PAGE) for name in (first, second) if name]


def names_of(path: Path) -> set[str]:
    """The names that a file defines; for Python, those of a class also as `Class.name`."""
    text = path.read_text()
    return set(_python_names(ast.parse(text).body) if path.suffix == ".py" else _lua_names(text))


def _python_names(body: list[ast.stmt]) -> Iterator[str]:
    for statement in body:
        for node in ast.walk(statement):
            match node:
                case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.Name(id=name, ctx=ast.Store()):
                    yield name
                case ast.ClassDef(name=name):
                    yield name
                    yield from (f"{name}.{member}" for member in _python_names(node.body))
                case _:
                    pass


def _lua_names(text: str) -> Iterator[str]:
    yield from re.findall(r"\bfunction (\w+)", text)
    for names in re.findall(r"\blocal ([\w, ]+?)(?: =|$)", text, re.MULTILINE):
        yield from names.split(", ")


def test_the_page_gives_names_with_their_files() -> None:
    assert len(names_with_files()) >= 8


@pytest.mark.parametrize(("name", "path"), names_with_files())
def test_a_name_is_defined_in_the_file_that_the_page_gives(name: str, path: str) -> None:
    assert name in names_of(ROOT / path)


def test_each_other_name_is_defined_in_the_product() -> None:
    given = {name.rpartition(".")[2] for name in NAME.findall(PAGE) if not name.endswith((".lua", ".py", ".toml"))}
    given -= NO_NAMES | {name for name, _ in names_with_files()}
    names = "|".join(given)
    defined = re.compile(rf"(?:def|class|function|local) ({names})\b|^ *({names})(?::| =)", re.MULTILINE)
    known = {
        name
        for folder in FOLDERS
        for suffix in ("py", "lua")
        for path in (ROOT / folder).rglob(f"*.{suffix}")
        for match in defined.finditer(path.read_text())
        for name in match.groups()
    }

    assert given - known == set()
