"""Arguments that no view shows: their declaration and their mask."""

from __future__ import annotations

import contextlib
import typing
from collections.abc import Mapping
from typing import Annotated, Any, NewType

import typing_extensions

MASK = "***"
"""The text that views show instead of a secret."""


class Secret:
    """Marks an argument that no view shows: `password: Annotated[str, Secret]`.

    Pass `Secret(value)` to schedule a job whose signature is not known here. The job gets the plain value.
    """

    __slots__ = ("_value",)

    def __init__(self, value: Any) -> None:
        self._value = value

    def get_secret_value(self) -> Any:
        """Return the plain value; the method has the same name as in pydantic."""
        return self._value

    def __repr__(self) -> str:
        return MASK


def is_secret(annotation: Any) -> bool:
    """Whether an annotation declares a secret: itself, in one of its parts, or in a field of a class.

    Secrets are annotated with `Secret`, or have pydantic's types SecretStr, SecretBytes or Secret.
    """
    return _is_secret(annotation, set())


def _is_secret(annotation: Any, seen: set[Any]) -> bool:
    """Like `is_secret`, but without what was looked at already: classes can share their parts at each level."""
    if annotation is Secret or isinstance(annotation, Secret) or hasattr(annotation, "get_secret_value"):
        return True
    if isinstance(annotation, NewType):
        return _is_secret(annotation.__supertype__, seen)
    origin, parts = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Annotated:
        return _is_secret(parts[0], seen) or any(part is Secret or isinstance(part, Secret) for part in parts[1:])
    if any(_is_secret(part, seen) for part in parts):
        return True
    named = origin or annotation
    # an annotation without a hash cannot be in the set
    with contextlib.suppress(TypeError):
        if named in seen:
            return False
        seen.add(named)
    if (alias := getattr(named, "__value__", None)) is not None:
        return _is_secret(alias, seen)
    return isinstance(named, type) and any(_is_secret(hint, seen) for hint in _hints(named).values())


def _hints(kind: type[Any]) -> Mapping[str, Any]:
    # reading annotations runs the user's code, which can raise any error
    with contextlib.suppress(Exception):
        return typing_extensions.get_type_hints(kind, include_extras=True)
    return {}
