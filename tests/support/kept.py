"""What the objects of the package keep: the number of items in each collection that one of them holds."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Mapping
from functools import partial
from types import CellType, FunctionType, MethodType
from typing import Any

import msgspec

_COLLECTIONS = (dict, set, list, deque)
_LEFT_OUT = ("peerjob.store.", "peerjob.testing.", "peerjob.proto", "peerjob.model.caps")
"""A store keeps what was done, and a claim waits at each moment or does not."""


def kept(root: object) -> Counter[str]:
    """Count the items of each collection that is reachable from an object, by class and attribute.

    It looks into objects of the package alone.
    """
    counts: Counter[str] = Counter()
    seen: dict[int, object] = {}
    left: list[Any] = [root]
    while left:
        owner = left.pop()
        if id(owner) in seen:
            continue
        seen[id(owner)] = owner
        if not _is_part(owner):
            left += _behind(owner)
            continue
        for name, value in _attributes(owner).items():
            left += _behind(value) if isinstance(value, _COLLECTIONS) else [value]
            if isinstance(value, _COLLECTIONS):
                counts[f"{type(owner).__name__}.{name.lstrip('_')}"] += len(value)
    return counts


def grown(before: Mapping[str, int], after: Mapping[str, int]) -> dict[str, tuple[int, int]]:
    """The collections that have more items than before."""
    return {name: (before.get(name, 0), count) for name, count in after.items() if count > before.get(name, 0)}


def _is_part(value: object) -> bool:
    module = type(value).__module__
    return module.startswith("peerjob.") and not module.startswith(_LEFT_OUT)


def _behind(value: Any) -> list[Any]:
    """What a collection has, and what a callback uses."""
    match value:
        case dict():
            return [*value, *value.values()]
        case set() | list() | tuple() | deque():
            return list(value)
        case MethodType():
            return [value.__self__, value.__func__]
        case FunctionType():
            return [cell.cell_contents for cell in value.__closure__ or () if cell != CellType()]
        case partial():
            return [value.func, *value.args, *value.keywords.values()]
        case _:
            return []


def _attributes(owner: object) -> dict[str, Any]:
    if isinstance(owner, msgspec.Struct):
        return {name: getattr(owner, name) for name in owner.__struct_fields__}
    slots = [name for cls in type(owner).__mro__ for name in getattr(cls, "__slots__", ()) if hasattr(owner, name)]
    return {name: getattr(owner, name) for name in slots} | dict(getattr(owner, "__dict__", {}))
