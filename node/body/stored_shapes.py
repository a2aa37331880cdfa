"""The forms in which values of an annotation are stored, by which conversion finds the member of a union."""

from __future__ import annotations

import collections
import functools
import types
import typing
from collections import abc
from collections.abc import Mapping
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Address, IPv6Interface, IPv6Network
from pathlib import PurePath
from typing import Annotated, Any, Literal, NewType, Union, cast
from uuid import UUID

import typing_extensions

from peerjob.model.signature import EMPTY, TYPE_ALIAS

from .fields import ClassField, fields_of, is_model, model_fields, tag_of

Form = type[Any] | tuple[type[Any], Any]
"""A class, for all of its values; or a class and a value, for this value alone."""

_SCALARS: Mapping[Any, frozenset[Form]] = {
    kind: frozenset({kind})
    for kind in (str, int, bool, bytes, complex, datetime, date, time, timedelta, UUID, Decimal, type(None))
} | {float: frozenset({float, int}), bytearray: frozenset({bytes}), memoryview: frozenset({bytes})}
_CONTAINERS: Mapping[Any, frozenset[Form]] = {
    kind: frozenset({kind}) for kind in (list, tuple, set, frozenset, dict)
} | {
    collections.deque: frozenset({list}),
    collections.OrderedDict: frozenset({dict}),
    collections.defaultdict: frozenset({dict}),
    collections.Counter: frozenset({dict}),
    abc.Sequence: frozenset({list, tuple}),
    abc.MutableSequence: frozenset({list}),
    abc.Set: frozenset({set, frozenset}),
    abc.MutableSet: frozenset({set}),
    abc.Mapping: frozenset({dict}),
    abc.MutableMapping: frozenset({dict}),
}
_STORED_AS_TEXT = (PurePath, IPv4Address, IPv4Network, IPv6Address, IPv6Network, IPv4Interface, IPv6Interface)
# pairs of classes: a value of a subclass of the first class is stored as a value of the second class
_BASES: tuple[tuple[Any, type[Any]], ...] = (
    *((kind, kind) for kind in (str, int, float, bytes, datetime, date, timedelta, UUID, Decimal, tuple)),
    (abc.Mapping, dict),
    *((kind, kind) for kind in (list, frozenset, set)),
    (_STORED_AS_TEXT, str),
)


class StoredShape:
    """The stored form of values of one annotation."""

    def __init__(self, annotation: Any) -> None:
        self.annotation = bare(annotation)
        self.kind: Any = typing.get_origin(self.annotation) or self.annotation
        self.parts = () if self.kind is Literal else typing.get_args(self.annotation)

    @functools.cached_property
    def members(self) -> tuple[StoredShape, ...]:
        """The members of a union. Any other annotation is its own only member."""
        if self.kind in (Union, types.UnionType):
            return tuple(member for part in self.parts for member in StoredShape(part).members)
        return (self,)

    @functools.cached_property
    def forms(self) -> frozenset[Form] | None:
        """The forms that a stored value can have; None for any form."""
        if len(self.members) > 1:
            forms = [member.forms for member in self.members]
            return (
                None
                if None in forms
                else frozenset[Form]().union(*(accepted for accepted in forms if accepted is not None))
            )
        kind = self.kind
        if kind is Literal:
            return self.forms_beside(())
        if kind in _SCALARS:
            return _SCALARS[kind]
        if kind in _CONTAINERS:
            return _CONTAINERS[kind]
        if not isinstance(kind, type):
            return None
        if issubclass(kind, Enum):
            return frozenset({int}) if issubclass(kind, int) else frozenset(map(_form_of, kind))
        if self.fields is not None:
            return frozenset({dict})
        if hasattr(self.kind, "__get_pydantic_core_schema__"):
            return None
        return next((frozenset({plain}) for base, plain in _BASES if issubclass(kind, base)), None)

    def forms_beside(self, kind: Any) -> frozenset[Form] | None:
        """The forms of stored values, without those of literals that are members of the enumeration `kind`."""
        if self.kind is not Literal:
            return self.forms
        return frozenset(
            _form_of(argument) for argument in typing.get_args(self.annotation) if not isinstance(argument, kind)
        )

    @functools.cached_property
    def fields(self) -> dict[str, ClassField] | None:
        """The fields by name, of a class that is stored as a mapping of its fields."""
        if not isinstance(self.kind, type):
            return None
        if is_model(self.kind):
            fields = None if getattr(self.kind, "__pydantic_root_model__", False) else model_fields(self.kind)
        else:
            fields = fields_of(self.annotation)
        return None if fields is None else {field.name: field for field in fields}

    @functools.cached_property
    def inner(self) -> dict[str, StoredShape]:
        """The shapes of the fields."""
        return {name: StoredShape(field.annotation) for name, field in (self.fields or {}).items()}

    @functools.cached_property
    def items(self) -> tuple[StoredShape, ...]:
        """The shapes of the items of a container; of a mapping, of its keys and values."""
        return tuple(StoredShape(part) for part in self.parts if part is not ...)

    @property
    def is_container(self) -> bool:
        return self.kind in _CONTAINERS

    @property
    def is_enum(self) -> bool:
        return isinstance(self.kind, type) and issubclass(self.kind, Enum)

    @property
    def is_plain_enum(self) -> bool:
        """Whether the class is an Enum whose members differ from their values, so that a body must get members."""
        return self.is_enum and not issubclass(self.kind, int | str | float | bytes)

    def accepts(self, value: Any) -> bool:
        """Whether a stored value has a fitting class, and fields of the right names."""
        if self.forms is None:
            return False
        if type(value) not in self.forms and not _is_among(value, self.forms):
            return False
        if self.fields is None:
            return True
        tag = tag_of(self.kind)
        if tag is not None and value.get(tag[0]) != tag[1]:
            return False
        names: set[str] = value.keys() - ({tag[0]} if tag is not None else set[str]())
        if typing_extensions.is_typeddict(self.kind):
            return names <= self.fields.keys() and all(
                field.name in names or not field.required for field in self.fields.values()
            )
        return names == self.fields.keys()

    def matches(self, value: Any) -> bool:
        """Whether a stored value fits with all its parts."""
        if self.forms is None:
            return True
        if len(self.members) > 1:
            return any(member.matches(value) for member in self.members)
        if not self.accepts(value):
            return False
        if self.fields is not None:
            return all(shape.matches(value[name]) for name, shape in self.inner.items() if name in value)
        if not self.items or self.kind not in _CONTAINERS:
            return True
        part: Any = value
        if isinstance(value, dict):
            return all(map(self.items[0].matches, part)) and all(map(self.items[-1].matches, part.values()))
        if self.kind is tuple and ... not in self.parts:
            return len(part) == len(self.items) and all(map(StoredShape.matches, self.items, part))
        return all(map(self.items[0].matches, part))


def bare(annotation: Any) -> Any:
    """Strip NewType, `type X = ...` and Annotated from an annotation."""
    while True:
        if annotation is EMPTY or annotation is object:
            return Any
        if annotation is None:
            return type(None)
        if isinstance(annotation, NewType):
            annotation = annotation.__supertype__
        elif isinstance(annotation, TYPE_ALIAS) and not isinstance(annotation.__value__, str):
            annotation = annotation.__value__
        elif typing.get_origin(annotation) is Annotated:
            annotation = typing.get_args(annotation)[0]
        else:
            return annotation


def overlap(forms: frozenset[Form] | None, other: frozenset[Form] | None) -> bool:
    """Whether one stored value can have a form of both sets."""
    if forms is None or other is None:
        return True
    return any(_same_form(a, b) for a in forms for b in other)


def _same_form(form: Form, other: Form) -> bool:
    if isinstance(form, tuple) and isinstance(other, tuple):
        return form == other
    return (form[0] if isinstance(form, tuple) else form) is (other[0] if isinstance(other, tuple) else other)


def _form_of(value: Any) -> Form:
    """The form of one value. An Enum member has the form of its value."""
    plain: Any = value.value if isinstance(value, Enum) else value
    kind: Any = cast("Any", type)(plain)
    return (kind, plain) if kind in _SCALARS else kind


def _is_among(value: Any, forms: frozenset[Form]) -> bool:
    return type(value) in _SCALARS and (type(value), value) in forms
