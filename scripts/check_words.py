"""Fails if a sentence has a word that hides its subject, or if a name has a word with a second meaning.

Sentences are those of comments, docstrings and pages. Reading is what counts; these lists only hold the worst words.
Each class name of the product is unique, too. docs/glossary.md tells what each word means.
"""

import ast
import io
import re
import subprocess
import sys
import tokenize
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[1]
WORDS = re.compile(r"\b(nobody|somebody|whoever|whom|whosoever)\b", re.IGNORECASE)
ONE_MEANING: dict[str, tuple[frozenset[str], str]] = {
    "settle": (frozenset({"settle"}), "flush, resolve, acknowledge"),
    "lost": (
        frozenset({"lost", "LOST", "OwnershipLost", "assert_lost", "connection_lost"}),
        "missed, disconnected, dropped, missing",
    ),
    "once": (frozenset(), "together, immediately, repeat_id"),
    "note": (frozenset({"note", "NOTE", "MAX_NOTE", "NOTE_LIMIT", "_NAME_AND_NOTE", "error_note"}), "remember, log"),
    "room": (frozenset(), "remaining, bytes_left, permit"),
    "turn": (frozenset({"turn", "by_turn"}), "lock, long_poll, write_lock"),
    "place": (frozenset(), "position, index, path, permit, location"),
}
"""A part of names → the names that have it with its one meaning, and words for its former other meanings."""
NO_NAMES = {"one": "the name of the thing", "found": "what was found"}
"""Names of variables that do not say what they hold."""
KEPT = {("src/peerjob/model/errors.py", "found")}
"""An attribute of LayoutError, which users may read."""
CLASSES: dict[str, str] = {}
"""Names of classes that are kept free, for what."""
CHECKED = ("cluster", "node", "src", "store")
"""The folders whose names are checked."""
PRODUCT = ("cluster", "node", "store", "src", "bench", "scripts", "examples", "docs", "README.md", "CONTRIBUTING.md")


def main() -> int:
    problems = [*_words(), *_names(), *_classes()]
    for problem in problems:
        print(problem)
    return 1 if problems else 0


def _words() -> Iterator[str]:
    for path in _files():
        if path == Path(__file__):
            continue
        for number, line in _prose(path):
            if match := WORDS.search(line):
                yield f"{path.relative_to(ROOT)}:{number}: {match.group()!r} hides the subject: {line.strip()}"


def _files() -> list[Path]:
    listed = subprocess.run(["git", "ls-files", *PRODUCT], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    paths = [ROOT / name for name in listed.split() if "_pb2" not in name]
    return [path for path in paths if path.suffix in (".py", ".lua", ".md") and path.is_file()]


def _prose(path: Path) -> Iterator[tuple[int, str]]:
    text = path.read_text()
    if path.suffix == ".md":
        yield from enumerate(text.splitlines(), 1)
    elif path.suffix == ".lua":
        for number, line in enumerate(text.splitlines(), 1):
            if "--" in line:
                yield number, line[line.index("--") :]
    else:
        for token in tokenize.generate_tokens(io.StringIO(text).readline):
            if token.type == tokenize.COMMENT or (token.type == tokenize.STRING and token.string.startswith('"""')):
                for offset, line in enumerate(token.string.splitlines()):
                    yield token.start[0] + offset, line


def _names() -> Iterator[str]:
    for path in _files():
        name = path.relative_to(ROOT).as_posix()
        if path.suffix != ".py" or not name.startswith(CHECKED):
            continue
        for part in _parts(path.stem):
            if part in ONE_MEANING:
                yield f"{name}: {part!r} has one meaning: call the file {ONE_MEANING[part][1]}"
        for node in ast.walk(_parsed(path)):
            bound, is_variable = _bound(node)
            if not bound:
                continue
            where = f"{name}:{getattr(node, 'lineno', 0)}"
            if is_variable and bound in NO_NAMES and (name, bound) not in KEPT:
                yield f"{where}: the variable {bound!r} does not say what it holds: {NO_NAMES[bound]}"
            if isinstance(node, ast.ClassDef) and bound in CLASSES:
                yield f"{where}: the class {bound!r} is kept free for {CLASSES[bound]}"
            for part in () if bound.startswith("test_") else _parts(bound):
                allowed, others = ONE_MEANING.get(part, (frozenset({bound}), ""))
                if bound not in allowed:
                    yield f"{where}: {part!r} in {bound!r} has one meaning, see the glossary; else {others}"


def _bound(node: ast.AST) -> tuple[str, bool]:
    """The name that a node defines, or "", and whether it is a variable."""
    match node:
        case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
            return name, False
        case ast.Attribute(attr=name, ctx=ast.Store()):
            return name, False
        case ast.Name(id=name, ctx=ast.Store()) | ast.arg(arg=name):
            return name, True
        case _:
            return "", False


@cache
def _parts(name: str) -> list[str]:
    return [part.lower() for part in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", name)]


@cache
def _parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def _classes() -> Iterator[str]:
    places: dict[str, list[str]] = defaultdict(list)
    for path in _files():
        if path.suffix == ".py" and path.relative_to(ROOT).parts[0] in ("cluster", "node", "store", "src"):
            for node in _parsed(path).body:
                if isinstance(node, ast.ClassDef):
                    places[node.name].append(str(path.relative_to(ROOT)))
    for name, files in sorted(places.items()):
        if len(files) > 1:
            yield f"class {name} exists {len(files)} times: {', '.join(files)}"


if __name__ == "__main__":
    sys.exit(main())
