"""No test depends on how quick the machine is."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.waiting import PATIENCE

TESTS = Path(__file__).parents[1]
CLOCKS = {"monotonic", "perf_counter", "time", "time_ns", "monotonic_ns", "perf_counter_ns"}
PATIENT = {"PATIENCE", "IN_TIME"}
"""Limits that say nothing about how quick anything is."""
SHORT_US = 4_000_000
"""A renewal or a campaign gives up after 60 % of its lease, and the machine may stand still for two seconds."""

Function = ast.FunctionDef | ast.AsyncFunctionDef


def is_span(node: ast.AST) -> bool:
    """Whether an expression has a difference of a moment that is read now."""
    return any(
        isinstance(part, ast.BinOp) and isinstance(part.op, ast.Sub) and any(map(_is_moment, ast.walk(part)))
        for part in ast.walk(node)
    )


def _is_moment(node: ast.AST) -> bool:
    match node:
        case ast.Call(func=ast.Attribute(value=ast.Name(id="time"), attr=name)):
            return name in CLOCKS
        case _:
            return False


def _is_patient(limit: ast.AST) -> bool:
    number = limit.value if isinstance(limit, ast.Constant) else None
    return bool(names_in(limit) & PATIENT) or (isinstance(number, int | float) and number >= PATIENCE)


def names_in(node: ast.AST) -> set[str]:
    return {part.id for part in ast.walk(node) if isinstance(part, ast.Name)}


def limits(function: Function) -> Iterator[int]:
    """The lines that limit how long something took, in a function that knows of no stall."""
    spans = set[str]()
    for node in ast.walk(function):
        match node:
            case ast.Assign(targets=[ast.Name(id=name)], value=value) if is_span(value):
                spans.add(name)
            case ast.Call(func=ast.Attribute(value=ast.Name(id=name), attr="append"), args=[value]) if is_span(value):
                spans.add(name)
            case _:
                pass
    if "stalls" in names_in(function):
        return
    for asserted in (node for node in ast.walk(function) if isinstance(node, ast.Assert)):
        for compared in (node for node in ast.walk(asserted.test) if isinstance(node, ast.Compare)):
            sides = [compared.left, *compared.comparators]
            for less, how, more in zip(sides, compared.ops, sides[1:], strict=False):
                limited = isinstance(how, ast.Lt | ast.LtE) and (is_span(less) or names_in(less) & spans)
                if limited and not is_span(more) and not _is_patient(more):
                    yield asserted.lineno


def short_leases(module: ast.Module) -> Iterator[int]:
    """The lines that renew or campaign for a lease that is too short."""
    known = {
        node.targets[0].id: node.value.value
        for node in module.body
        if isinstance(node, ast.Assign)
        and isinstance(node.targets[0], ast.Name)
        and isinstance(node.value, ast.Constant)
    }
    for node in ast.walk(module):
        match node:
            case ast.Call(func=ast.Attribute(attr="renew" | "campaign"), keywords=keywords):
                for given in (keyword.value for keyword in keywords if keyword.arg == "ttl_us"):
                    ttl_us = known.get(given.id) if isinstance(given, ast.Name) else getattr(given, "value", None)
                    if isinstance(ttl_us, int) and ttl_us < SHORT_US:
                        yield node.lineno
            case _:
                pass


@pytest.mark.parametrize("folder", ["unit", "integration"])
def test_a_limit_of_elapsed_time_excludes_stalls(folder: str) -> None:
    found = [
        f"{path.relative_to(TESTS)}:{line}"
        for path in sorted((TESTS / folder).rglob("*.py"))
        if re.search(r"\btime\.\w+\(", text := path.read_text())
        for function in ast.walk(ast.parse(text))
        if isinstance(function, Function)
        for line in limits(function)
    ]
    assert found == [], "compare `support.stalls.Stalls.took`, or processor time of `support.effort`"


def test_a_lease_that_a_test_renews_outlasts_a_pause_of_the_machine() -> None:
    found = [
        f"{path.relative_to(TESTS)}:{line}"
        for path in sorted((TESTS / "integration").glob("*.py"))
        for line in short_leases(ast.parse(path.read_text()))
    ]
    assert found == []


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("began = time.monotonic()\n assert time.monotonic() - began < 5", [3]),
        ("took = time.perf_counter() - began\n assert took <= 5", [3]),
        ("times.append(time.perf_counter() - began)\n assert sorted(times)[3] < 5", [3]),
        ("took = time.monotonic() - began\n assert 0.2 < took", []),
        ("assert time.monotonic() - began < IN_TIME", []),
        ("assert time.time() - began < 120", []),
        ("with Stalls() as stalls:\n  assert time.monotonic() - began - stalls.between(1, 2) < 5", []),
    ],
)
def test_a_limit_is_found(text: str, lines: list[int]) -> None:
    (function,) = ast.parse(f"def test() -> None:\n {text}\n").body
    assert isinstance(function, Function)
    assert list(limits(function)) == lines


def test_a_short_lease_is_found() -> None:
    text = "TTL_US = 400_000\nnode.renew(ttl_us=TTL_US)\nnode.join(ttl_us=5)\nnode.campaign(one, ttl_us=5)\n"
    assert list(short_leases(ast.parse(text))) == [2, 4]
