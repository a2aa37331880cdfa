"""Templates of idempotency keys, such as `key="user/{user}"`: each name in braces stands for an argument."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import date, datetime, time
from decimal import Decimal
from enum import Enum
from string import Formatter
from typing import Any
from uuid import UUID

from .errors import OptionError

EXPECTED = "a text in which {name} stands for an argument; {{ and }} are plain braces"
_PARSER = Formatter()


def names_in(template: str) -> tuple[str, ...]:
    """The names of the arguments in a template; raises OptionError for a text that is no template."""
    return tuple(name for _, name in _parts(template) if name is not None)


def rendered(template: str, text_of: Callable[[str], str]) -> str:
    """The key; `text_of` returns the text of the argument with a name."""
    return "".join(literal + (text_of(name) if name is not None else "") for literal, name in _parts(template))


def _parts(template: str) -> Iterator[tuple[str, str | None]]:
    try:
        for literal, name, spec, conversion in _PARSER.parse(template):
            if name is not None and (not name.isidentifier() or spec or conversion):
                raise OptionError("key", template, EXPECTED)
            yield literal, name
    except ValueError as error:
        if isinstance(error, OptionError):
            raise
        raise OptionError("key", template, EXPECTED) from None


def key_text(value: Any) -> str | None:
    """The text of an argument in a key, the same in every process; None for a value that a key cannot have."""
    match value:
        case Enum():
            return key_text(value.value)
        case None:
            return "null"
        case bool():
            return "true" if value else "false"
        case str():
            return value
        case int() | float() | Decimal() | UUID():
            return str(value)
        case datetime() | date() | time():
            return value.isoformat()
        case _:
            return None
