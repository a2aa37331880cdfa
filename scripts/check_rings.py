"""Check that no modules of the package import each other in a ring.

Every import counts: also those inside functions and under TYPE_CHECKING. A module in a ring cannot be read or moved by
itself. To cut a ring, move what both sides need to a module below them, or describe it there by a Protocol.
"""

import ast
import os
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

SOURCES = Path(__file__).parents[1] / "src"


def modules(sources: Path) -> dict[str, Path]:
    """The files of all packages below a folder, by the full names of their modules."""
    paths: dict[str, Path] = {}
    for folder, _, names in os.walk(sources, followlinks=True):
        for name in names:
            path = Path(folder, name)
            if path.suffix == ".py":
                parts = path.relative_to(sources).with_suffix("").parts
                paths[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return paths


def imported_names(path: Path, package: str) -> Iterator[tuple[str, str]]:
    """Each import of a file, as a module and a name in it, or "" for a whole module."""
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package.split(".")[: 1 - node.level or None] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            yield from ((module, alias.name) for alias in node.names)


def graph(sources: Path) -> dict[str, set[str]]:
    """For each module, the modules of the same folder that it imports."""
    known = modules(sources)
    edges: dict[str, set[str]] = {}
    for name, path in known.items():
        package = name if path.name == "__init__.py" else name.rpartition(".")[0]
        targets = edges[name] = set[str]()
        for module, member in imported_names(path, package):
            target = f"{module}.{member}" if f"{module}.{member}" in known else module
            if target in known and target != name:
                targets.add(target)
    return edges


def rings(edges: dict[str, set[str]]) -> Iterator[list[str]]:
    """Rings, each cut at its last import before the search for the next one."""
    ordered = {name: sorted(edges[name]) for name in sorted(edges)}
    while True:
        try:
            TopologicalSorter(ordered).prepare()
        except CycleError as error:
            # graphlib lists a ring in reverse: each module is imported by the next one
            ring: list[str] = error.args[1][::-1]
            ordered[ring[-2]].remove(ring[-1])
            yield ring
        else:
            return


def main() -> int:
    edges = graph(SOURCES)
    cycles = list(rings(edges))
    for ring in cycles:
        print(f"import ring: {' -> '.join(ring)}")
    if not cycles:
        print(f"no import ring in {len(edges)} modules")
    return bool(cycles)


if __name__ == "__main__":
    sys.exit(main())
