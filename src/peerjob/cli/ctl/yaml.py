"""Plain values as YAML in block style, with quotes around every ambiguous text."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any, cast

_PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_./+-]*( [A-Za-z0-9_./+-]+)*")
_WORDS = frozenset({"null", "true", "false", "yes", "no", "on", "off", "y", "n", "none"})
"""Words that some YAML parsers read as a boolean or null instead of text."""


def to_yaml(value: Any) -> str:
    """A JSON value as a YAML document."""
    return "\n".join(_block(value)) + "\n"


def _block(value: Any) -> list[str]:
    if isinstance(value, dict) and value:
        return [
            line for key, item in cast("dict[str, Any]", value).items() for line in _entry(f"{_scalar(key)}:", item)
        ]
    if isinstance(value, list) and value:
        return [line for item in cast("Sequence[Any]", value) for line in _item(item)]
    return [_scalar(value)]


def _entry(lead: str, value: Any) -> list[str]:
    if isinstance(value, dict | list) and value:
        return [lead, *(f"  {line}" for line in _block(value))]
    return [f"{lead} {_scalar(value)}"]


def _item(value: Any) -> list[str]:
    first, *others = _block(value)
    return [f"- {first}", *(f"  {line}" for line in others)]


def _scalar(value: Any) -> str:
    if isinstance(value, str) and _PLAIN.fullmatch(value) and value.casefold() not in _WORDS:
        return value
    # JSON is valid YAML, and escapes all characters outside ASCII, such as line ends that only YAML knows
    return json.dumps(value)
