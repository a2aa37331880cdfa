"""Arguments and return values, as JSON has them."""

from __future__ import annotations

import json
from typing import Any

from .framework import normalize_json


def as_json(value: object) -> Any:
    """Return a value as it is after a round trip through JSON, which Django's contract of tasks asks for.

    Tuples become lists, keys become text, and bytes become text if they are UTF-8. Raises TypeError for a type that
    JSON lacks, and ValueError for a value that it lacks: other bytes, NaN and infinity.
    """
    return json.loads(json.dumps(normalize_json(value), allow_nan=False))
