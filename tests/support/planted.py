"""Planted defects: the list in `tests/mutants`, and how a patch of it is applied without git."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path

MUTANTS = Path(__file__).parents[1] / "mutants"


@dataclass(frozen=True, kw_only=True)
class Planted:
    """One defect of the list."""

    id: str
    defect: str
    file: str
    tests: str
    """Arguments of pytest for the tests that should see it first."""

    @property
    def patch(self) -> str:
        return (MUTANTS / f"{self.id}.patch").read_text()


def planted() -> list[Planted]:
    """All of the list, in its order."""
    listed = tomllib.loads((MUTANTS / "list.toml").read_text())
    return [Planted(id=id, **row) for id, row in listed.items()]


def patched(text: str, patch: str) -> str:
    """The text after a unified diff; raises ValueError unless each hunk fits exactly one place."""
    for hunk in patch.split("\n@@ ")[1:]:
        lines = hunk.removesuffix("\n").split("\n")[1:]
        before = "".join(f"{line[1:]}\n" for line in lines if line[:1] in ("-", " "))
        after = "".join(f"{line[1:]}\n" for line in lines if line[:1] in ("+", " "))
        if f"\n{text}".count(f"\n{before}") != 1:
            raise ValueError(f"a hunk fits {text.count(before)} places: @@ {hunk}")
        text = f"\n{text}".replace(f"\n{before}", f"\n{after}")[1:]
    return text
