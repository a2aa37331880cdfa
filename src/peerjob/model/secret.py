"""Arguments that nobody is shown: how they are declared, and what stands in their place."""

from __future__ import annotations

import contextlib
import typing
from collections.abc import Mapping
from typing import Annotated, Any, NewType

import typing_extensions

MASK = "***"
"""What is shown in the place of a secret."""


class Secret:
    """Marks an argument that is shown to nobody: `password: Annotated[str, Secret]`.

    `Secret(value)` is a value that is one wherever it goes, for a job whose signature is not known where it is
    scheduled; the job gets the plain value.
    """

    __slots__ = ("_value",)

    def __init__(self, value: Any) -> None:
        self._value = value

    def get_secret_value(self) -> Any:
        """The plain value, by the name that pydantic's secrets have for it."""
        return self._value

    def __repr__(self) -> str:
        return MASK


def is_secret(annotation: Any, inside: frozenset[Any] = frozenset()) -> bool:
    """Whether an annotation declares a secret: itself, in a part of it, or in a field of a class.

    Secrets are what is annotated with `Secret`, and pydantic's SecretStr, SecretBytes and Secret.
    """
    if annotation is Secret or isinstance(annotation, Secret) or hasattr(annotation, "get_secret_value"):
        return True
    if isinstance(annotation, NewType):
        return is_secret(annotation.__supertype__, inside)
    origin, parts = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Annotated:
        return is_secret(parts[0], inside) or any(one is Secret or isinstance(one, Secret) for one in parts[1:])
    if any(is_secret(part, inside) for part in parts):
        return True
    named = origin or annotation
    with contextlib.suppress(TypeError):  # an annotation need not be hashable
        if named in inside:
            return False
        inside |= {named}
    if (alias := getattr(named, "__value__", None)) is not None:
        return is_secret(alias, inside)
    return isinstance(named, type) and any(is_secret(hint, inside) for hint in _hints(named).values())


def _hints(kind: type[Any]) -> Mapping[str, Any]:
    with contextlib.suppress(Exception):  # annotations are code of the user's
        return typing_extensions.get_type_hints(kind, include_extras=True)
    return {}
