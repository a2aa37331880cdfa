"""Arguments and return values, as JSON has them."""

from __future__ import annotations

import json
from typing import Any, cast

from .framework import normalize_json

_SAME = frozenset({str, int, bool, type(None)})
"""Types whose values JSON gives back as they are."""
_NAME = frozenset({str})
_encode = json.JSONEncoder(allow_nan=False).encode


def as_json(value: object) -> Any:
    """Return a value as it is after a round trip through JSON, which Django's contract of tasks asks for.

    Tuples become lists, keys become text, and bytes become text if they are UTF-8. Raises TypeError for a type that
    JSON lacks, and ValueError for a value that it lacks: other bytes, NaN and infinity.
    """
    if type(value) is tuple or type(value) is list:
        items = cast("list[object] | tuple[object, ...]", value)
        if _SAME.issuperset(map(type, items)):
            return list(items)
    elif type(value) is dict:
        named = cast("dict[object, object]", value)
        if _SAME.issuperset(map(type, named.values())) and _NAME.issuperset(map(type, named)):
            return dict(named)
    return json.loads(_encode(normalize_json(value)))
