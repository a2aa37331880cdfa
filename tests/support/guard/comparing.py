"""The expected counts, and how a difference is told."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path

from .measuring import SCHEDULE, Paths

EXPECTED = Path(__file__).with_name("expected.toml")
_HEAD = """\
# What each path costs: the commands that Redis runs (also those inside scripts), the operations of etcd, the statements
# of SQLite, the round trips, and the files and memory blocks of a node. `make bench-guard` compares them.
#
# A count grew and you did not mean it: find the new call, and do without it. You meant it: write the new counts with
# `make bench-guard ARGS=--write`, and give the reason in the message of the commit.
"""
LIMITS: Paths = {SCHEDULE: {"coroutines": 7, "calls": 103}}
"""Paths that have limits instead of exact counts: the functions of asyncio that run differ between versions of Python.
"""
ADVICE = (
    "find the added call and do without it; if it is meant, run `make bench-guard ARGS=--write`, "
    "and give the reason in the message of the commit"
)


def expected() -> dict[str, Paths]:
    """The counts that the repository holds."""
    return tomllib.loads(EXPECTED.read_text()) if EXPECTED.exists() else {}


def differences(wanted: Mapping[str, Paths], found: Mapping[str, Paths]) -> list[str]:
    """A line for each path whose counts differ, and the advice at the end; nothing if all are as expected."""
    lines: list[str] = []
    for part, paths in found.items():
        before = wanted.get(part, {})
        for path in [*paths, *(before.keys() - paths.keys())]:
            old, new = before.get(path, {}), paths.get(path, {})
            if path in LIMITS:
                old = {what: min(limit, new[what]) for what, limit in LIMITS[path].items()}
            changes = [
                f"{what} {old.get(what, 0)} → {new.get(what, 0)}"
                for what in sorted(old.keys() | new.keys())
                if old.get(what, 0) != new.get(what, 0)
            ]
            if changes:
                lines.append(f"{part}, {path}: {', '.join(changes)}")
    return [*lines, ADVICE] if lines else []


def written(counts: Mapping[str, Paths]) -> str:
    """The text of the file of expected counts."""
    text = [_HEAD]
    for part, paths in counts.items():
        text.append(f"\n[{part}]\n")
        text += [f'"{path}" = {{ {_row(of)} }}\n' for path, of in paths.items() if path not in LIMITS]
    return "".join(text)


def _row(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{_key(what)} = {count}" for what, count in sorted(counts.items()))


def _key(text: str) -> str:
    return text if text.replace("_", "").isalnum() else f'"{text}"'
