"""Fails if a comment, a docstring, a Lua comment or a page has a word that hides the subject of a sentence.

Reading is what counts; this list only holds the worst words. Each class name of the product is unique, too.
"""

import ast
import io
import re
import subprocess
import sys
import tokenize
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
WORDS = re.compile(r"\b(nobody|somebody|whoever|whom|whosoever)\b", re.IGNORECASE)
PRODUCT = ("cluster", "node", "store", "src", "bench", "scripts", "examples", "docs", "README.md", "CONTRIBUTING.md")


def main() -> int:
    problems = [*_words(), *_classes()]
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


def _classes() -> Iterator[str]:
    places: dict[str, list[str]] = defaultdict(list)
    for path in _files():
        if path.suffix == ".py" and path.relative_to(ROOT).parts[0] in ("cluster", "node", "store", "src"):
            for node in ast.parse(path.read_text()).body:
                if isinstance(node, ast.ClassDef):
                    places[node.name].append(str(path.relative_to(ROOT)))
    for name, files in sorted(places.items()):
        if len(files) > 1:
            yield f"class {name} exists {len(files)} times: {', '.join(files)}"


if __name__ == "__main__":
    sys.exit(main())
