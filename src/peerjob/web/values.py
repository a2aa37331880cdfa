"""Arguments, results and errors as text. Secrets are masked, and long texts are cut."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any, cast

from peerjob.handles.instance import Instance
from peerjob.model.codec import decode_value
from peerjob.model.errors import DecodeError
from peerjob.model.json_text import to_json
from peerjob.model.printable import printable_json
from peerjob.model.secret import MASK

MAX_SHOWN = 64 << 10
"""The most characters of a value on a page. A link leads to the whole value."""


@dataclass(frozen=True, kw_only=True)
class ShownValue:
    """A value on a page."""

    text: str
    cut: bool


def shown_value(text: str) -> ShownValue:
    """A text, cut at 64 KiB."""
    return ShownValue(text=text[:MAX_SHOWN], cut=len(text) > MAX_SHOWN)


def pretty(value: Any) -> str:
    """A value as indented JSON. What cannot be printed is escaped as JSON does it, so that a form takes it again."""
    return printable_json(json.dumps(json.loads(to_json(value)), indent=2, ensure_ascii=False))


def arguments_text(instance: Instance[Any]) -> str:
    """The arguments as JSON, with "***" for secrets."""
    return _readable(lambda: pretty({"args": list(instance.args), "kwargs": instance.kwargs}))


def result_text(instance: Instance[Any]) -> str:
    """The result as JSON; "" if there is none."""
    result = instance.record.result
    return "" if result is None else _readable(lambda: pretty(decode_value(result)))


def has_mask(value: Any) -> bool:
    """Whether a value contains the text "***", which stands for a secret."""
    return f'"{MASK}"' in to_json(value)


def has_masked(instance: Instance[Any]) -> bool:
    """Whether an argument is a secret, which a form cannot give again."""
    return f'"{MASK}"' in arguments_text(instance)


def masked_like(value: Any, shown: Any) -> Any:
    """The value of JSON with "***" where `shown` has it, so that an edited text has no secret."""
    if shown == MASK:
        return MASK
    if isinstance(value, dict) and isinstance(shown, dict):
        known = cast("dict[str, Any]", shown)
        return {key: masked_like(item, known.get(key)) for key, item in cast("dict[str, Any]", value).items()}
    if isinstance(value, list) and isinstance(shown, list):
        items: list[Any] = value  # pyright: ignore[reportUnknownVariableType]
        others: list[Any] = shown  # pyright: ignore[reportUnknownVariableType]
        return [masked_like(item, other) for item, other in zip_longest(items, others[: len(items)])]
    return value  # pyright: ignore[reportUnknownVariableType]


def traceback_text(instance: Instance[Any]) -> str:
    """The traceback of the last error."""
    return _readable(lambda: "" if instance.error is None else instance.error.traceback)


def _readable(read: Callable[[], str]) -> str:
    try:
        return read()
    except (DecodeError, ValueError, RecursionError) as error:
        return f"<{error}>"
