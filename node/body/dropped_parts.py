"""Finds the first part of a value that the store would lose: its class, or a field."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from typing import Any, cast
from uuid import UUID

from peerjob.model.codec import stored_fields
from peerjob.model.printable import with_article

Path = tuple[object, ...]
DroppedPart = tuple[Path, str]
"""Path to the part, and a sentence about the loss."""

_LEAVES = frozenset({int, str, float, bool, type(None), bytes, complex, datetime, date, time, timedelta, UUID, Decimal})


def first_dropped_part(before: Any, after: Any, path: Path = ()) -> DroppedPart | None:
    """The first part that lost fields, or became an object of another class of the user; None for no such part.

    Plain data is not a loss: an object can arrive as a mapping of its fields, and an Enum member as its value. An
    object of a subclass of a builtin scalar or container can arrive as an object of the base.
    """
    kind = cast(Any, type(before))
    if kind in _LEAVES:
        return None
    if isinstance(before, Enum):
        if isinstance(after, Enum) and (type(after) is not kind or after != before):
            return path, f"{_shown(before)} would arrive as {_shown(after)}, which has the same value"
        return None
    if not issubclass(kind, type) and (fields := stored_fields(before)) is not None:
        return _dropped_in_fields(before, fields, after, path)
    if issubclass(kind, Mapping):
        return _dropped_in_mapping(before, after, path)
    if isinstance(before, list | tuple | deque) and isinstance(after, list | tuple | deque):
        return _dropped_in_items(cast("list[Any]", before), cast("list[Any]", after), path)
    if isinstance(before, set | frozenset) and isinstance(after, set | frozenset):
        return _dropped_in_set(cast("set[Any]", before), cast("set[Any]", after), path)
    return None


def _dropped_in_fields(before: Any, fields: Any, after: Any, path: Path) -> DroppedPart | None:
    arrived = after
    if type(after) is type(before) or _generic(after) is _generic(before) is not None:
        arrived = stored_fields(after)
    elif not isinstance(after, type) and stored_fields(after) is not None:
        return path, f"{with_article(_name(before))} would arrive as {with_article(_name(after))}"
    if not isinstance(fields, dict):  # a RootModel of pydantic is stored as its one value, without fields
        return first_dropped_part(fields, arrived, path)
    if not isinstance(arrived, Mapping):
        return None
    for name, item in cast("dict[str, Any]", fields).items():
        if name not in arrived:
            return path, f"{with_article(_name(before))} would arrive without its field {name!r}"
        if (dropped := first_dropped_part(item, arrived[name], (*path, name))) is not None:
            return dropped
    return None


def _dropped_in_mapping(before: Mapping[Any, Any], after: Any, path: Path) -> DroppedPart | None:
    if issubclass(cast(Any, type(after)), Mapping):
        arrived: Mapping[Any, Any] = after
        keys = _dropped_in_items(before, arrived, path)
        return keys or _dropped_in_items(before.values(), arrived.values(), path, tuple(before))
    for key, item in before.items():
        if isinstance(key, str) and hasattr(after, key):
            dropped = first_dropped_part(item, getattr(after, key), (*path, key))
            if dropped is not None:
                return dropped
    return None


def _dropped_in_items(
    before: Iterable[Any], after: Iterable[Any], path: Path, keys: tuple[Any, ...] | None = None
) -> DroppedPart | None:
    if _LEAVES.issuperset(map(type, before)):
        return None
    for index, (item, arrived) in enumerate(zip(before, after, strict=False)):
        dropped = first_dropped_part(item, arrived, (*path, index if keys is None else keys[index]))
        if dropped is not None:
            return dropped
    return None


def _dropped_in_set(before: set[Any], after: set[Any], path: Path) -> DroppedPart | None:
    """Compare sets: only members of enumerations can change, because the codec refuses objects in sets."""
    arrived = {member for member in after if isinstance(member, Enum)}
    for member in before:
        if arrived and isinstance(member, Enum) and member not in arrived:
            return path, f"{_shown(member)} would arrive as a member of another class"
    return None


def _generic(value: Any) -> Any:
    """The class of a parametrised pydantic model, `Page` for `Page[int]`; None for other classes."""
    kind = cast(Any, type(value))
    metadata: dict[str, Any] | None = getattr(kind, "__pydantic_generic_metadata__", None)
    return None if metadata is None else metadata["origin"] or kind


def _name(value: object) -> str:
    return type(value).__qualname__


def _shown(member: Enum) -> str:
    return f"{_name(member)}.{member.name}"
