"""Converts values to JSON text. Values that JSON does not have become text or lists."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import msgspec

from .bounds import check_json
from .errors import OptionError
from .printable import hidden

_encode = msgspec.json.Encoder(enc_hook=str).encode
_EASY = frozenset({int, str, bool, type(None)})
"""Types that JSON has too, except for integers with too many digits and text with a lone surrogate."""


def to_json(value: Any) -> str:
    """Convert a value to JSON. It never fails: text replaces a part that cannot be converted."""
    if _is_easy(value):
        try:
            return _encode(value).decode()
        # msgspec cannot write an integer with too many digits or a lone surrogate in text: `_plain` replaces both
        except (ValueError, RecursionError):
            pass
    try:
        return _encode(_plain(value)).decode()
    except Exception as error:  # noqa: BLE001  # one value that cannot be shown must not break a view of many
        return _encode(f"<{_name(value)} that cannot be shown: {type(error).__name__}>").decode()


def _is_easy(value: Any) -> bool:
    """Whether JSON has the type of the value and the types of its items."""
    kind: Any = value.__class__
    if kind is list:
        return _EASY.issuperset(map(type, value))
    if kind is dict:
        return all(type(key) is str for key in value) and _EASY.issuperset(map(type, value.values()))
    return kind in _EASY


def _plain(value: Any) -> Any:
    kind: Any = value.__class__
    if kind is int:
        return _integer(value)
    if kind is str:
        return value if value.isascii() else value.encode("utf-8", "backslashreplace").decode()
    if issubclass(kind, Mapping):
        return {_key(key): _plain(item) for key, item in value.items()}
    if issubclass(kind, list | tuple | set | frozenset):
        return [_plain(item) for item in value]
    if issubclass(kind, float):
        return value if math.isfinite(value) else str(value)
    if issubclass(kind, bytes):
        return value.decode("utf-8", "backslashreplace")
    if issubclass(kind, str):
        return value.encode("utf-8", "backslashreplace").decode()
    return value


def _integer(value: int) -> int | str:
    if -(2**63) <= value < 2**63:
        return value
    try:
        str(value)
    # the integer has more digits than this interpreter converts to text
    except ValueError:
        return f"<an integer of {value.bit_length():,} bits>"
    return value


def _key(key: Any) -> str:
    plain = _plain(key)
    return plain if isinstance(plain, str) else to_json(plain)


def _name(value: object) -> str:
    return type(value).__qualname__


def json_value(text: str) -> Any:
    """The value in a JSON text of a user; raises OptionError, which does not show the text."""
    try:
        check_json(text)
        return msgspec.json.decode(text)
    except (ValueError, ArithmeticError, RecursionError) as error:
        raise OptionError("value", hidden(text), f'JSON, such as true or "text" ({error})') from None
