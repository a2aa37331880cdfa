"""Converts stored values to the types of annotations.

pydantic converts, in lax mode. Code here prepares what pydantic would refuse or misread: durations ("5s"; "00:05" is
none), JSON text for values with parts, enum members by name. Classes whose fields pydantic cannot fill with this help
are rebuilt field by field: dataclass, attrs, msgspec, NamedTuple, TypedDict. Inside a pydantic model, its own rules
hold.
"""

from __future__ import annotations

import collections
import contextlib
import decimal
import functools
import types
import typing
import uuid
from collections import abc
from collections.abc import Callable, Mapping
from datetime import date, datetime, timedelta
from enum import Enum
from typing import Annotated, Any, Literal, NewType, Union, cast

import msgspec
import pydantic
import typing_extensions

from peerjob.model.durations import parse_duration
from peerjob.model.errors import path_text
from peerjob.model.printable import with_article
from peerjob.model.signature import EMPTY, TYPE_ALIAS

from .fields import ClassField, fields_of, tag_of
from .stored_shapes import StoredShape
from .unions import is_discriminated

Converter = Callable[[Any], Any]
"""Returns the converted value, or raises an error, which `explain` turns into sentences."""

_CONFIG = pydantic.ConfigDict(arbitrary_types_allowed=True)


def make_converter(annotation: Any) -> Converter:
    """Make a converter to an annotated type; it changes nothing if pydantic has no schema for the annotation."""
    for candidate in (_prepared(annotation, frozenset()), annotation):
        # pydantic can raise anything for an annotation, which can be any object, with a schema made by code of the user
        with contextlib.suppress(Exception):
            return functools.partial(_adapter(candidate).validate_python, by_alias=True, by_name=True)
    return lambda value: value


def explain(name: str, error: Exception) -> list[str]:
    """Say what a converter found wrong with a value, in sentences that begin with its name."""
    if not isinstance(error, pydantic.ValidationError):
        return [f"{name}: {type(error).__name__}: {error}"]
    return [
        f"{name}{path_text(flaw['loc'])}: {flaw['msg'].removeprefix('Value error, ')} (got {_short(flaw['input'])})"
        for flaw in error.errors(include_url=False, include_context=False)
    ]


def located(error: Exception) -> tuple[tuple[object, ...], str]:
    """The first problem that a converter found in a value: the path to the part, and the reason."""
    if not isinstance(error, pydantic.ValidationError):
        return (), f"{type(error).__name__}: {error}"
    first = error.errors(include_url=False, include_context=False)[0]
    return first["loc"], f"{first['msg'].removeprefix('Value error, ')} (got {_short(first['input'])})"


def _short(value: Any) -> str:
    try:
        text = repr(value)
    except Exception:  # noqa: BLE001  # `__repr__` of a user's class can raise anything
        return with_article(type(value).__name__)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _adapter(annotation: Any) -> pydantic.TypeAdapter[Any]:
    try:
        return pydantic.TypeAdapter(annotation, config=_CONFIG)
    except pydantic.PydanticUserError as error:
        if error.code != "type-adapter-config-unused":
            raise
        return pydantic.TypeAdapter(annotation)  # the class has a configuration, and pydantic refuses a second one


# -- annotations that pydantic gets instead of those of users --------------------------------------------------


def _prepared(annotation: Any, inside: frozenset[Any]) -> Any:
    """Return the annotation, with a validator of this module around each part that pydantic would refuse or misread."""
    if annotation is EMPTY or annotation is object:
        return Any
    if annotation is typing.LiteralString:
        return str
    if isinstance(annotation, NewType):
        return _prepared(annotation.__supertype__, inside)
    if isinstance(annotation, TYPE_ALIAS):
        recursive = annotation in inside or isinstance(annotation.__value__, str)
        return annotation if recursive else _prepared(annotation.__value__, inside | {annotation})
    origin, parts = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Annotated:
        chosen = is_discriminated(parts[1:]) and typing.get_origin(parts[0]) in _UNIONS
        first = _any_of(typing.get_args(parts[0]), inside) if chosen else _prepared(parts[0], inside)
        return Annotated[(first, *parts[1:])]
    if origin in _UNIONS:
        return _prepared_union(parts, inside)
    base: Any = origin or annotation
    if not isinstance(base, type):
        return _prepared_literal(annotation) if origin is Literal else annotation
    if base in _STREAMS:
        item = parts[0] if parts else Any
        wholes = [types.GenericAlias(container, item) for container in (list, set)] + [
            types.GenericAlias(tuple, (item, ...))
        ]
        return _any_of(tuple(wholes), inside)
    if base in _ARRAYS or base in _OBJECTS:
        inner = tuple(part if part is ... else _prepared(part, inside) for part in parts)
        whole = cast(Any, base)[inner] if inner else annotation
        return Annotated[whole, pydantic.BeforeValidator(_array_text if base in _ARRAYS else _object_text)]
    if origin is None:
        return _prepared_class(annotation)
    if (fields := fields_of(annotation)) is not None:
        return Annotated[Any, pydantic.PlainValidator(_Rebuilder(base, fields))]
    return _prepared_subclass(base) or annotation


def _prepared_literal(annotation: Any) -> Any:
    literals = typing.get_args(annotation)
    if not any(isinstance(literal, Enum) for literal in literals):
        return annotation
    return Annotated[annotation, pydantic.BeforeValidator(functools.partial(_literal_member, literals))]


def _prepared_union(parts: tuple[Any, ...], inside: frozenset[Any]) -> Any:
    whole = _any_of(parts, inside)
    shapes = [member for part in parts for member in StoredShape(part).members]
    return Annotated[Any, pydantic.PlainValidator(_Chooser(shapes, whole))] if _needs_choice(shapes) else whole


def _any_of(parts: tuple[Any, ...], inside: frozenset[Any]) -> Any:
    return Union[tuple(_prepared(part, inside) for part in parts)]  # noqa: UP007


def _prepared_class(kind: type[Any]) -> Any:
    if kind is timedelta:
        return Annotated[timedelta, pydantic.BeforeValidator(_duration)]
    if issubclass(kind, Enum):
        return Annotated[kind, pydantic.BeforeValidator(functools.partial(_member, kind))]
    if hasattr(kind, "__pydantic_fields__"):
        return Annotated[kind, pydantic.BeforeValidator(_any_text)]
    if (fields := fields_of(kind)) is not None:
        return Annotated[Any, pydantic.PlainValidator(_Rebuilder(kind, fields))]
    return _prepared_subclass(kind) or kind


_UNIONS = (Union, types.UnionType)


_ARRAYS: set[Any] = {
    *(list, tuple, set, frozenset, collections.deque),
    *(abc.Sequence, abc.MutableSequence, abc.Set, abc.MutableSet),
}
_OBJECTS: set[Any] = {
    *(dict, collections.OrderedDict, collections.defaultdict, collections.Counter),
    *(abc.Mapping, abc.MutableMapping),
}
# A value of one of these types is converted to a list, set or tuple. Otherwise pydantic would check the items only
# when the body reads them, which is too late.
_STREAMS: set[Any] = {abc.Iterable, abc.Collection, abc.Iterator, abc.Generator}


def _duration(value: Any) -> Any:
    try:
        if isinstance(value, str):
            return parse_duration(value)
        if isinstance(value, int | float) and not isinstance(value, bool):
            return timedelta(seconds=value)
    except OverflowError as error:
        raise ValueError(f"a duration out of range: {error}") from error
    if isinstance(value, timedelta):
        return value
    raise ValueError("expected a duration: seconds, or text such as '5s', '1h30m', 'PT1H30M'")


def _member(kind: type[Enum], value: Any) -> Any:
    """Find an enum member by value, by name, or by its value as text; leave other values for pydantic to refuse."""
    try:
        return kind(value)
    except (ValueError, TypeError):
        pass
    if isinstance(value, str):
        if value in kind.__members__:
            return kind[value]
        for member in kind:
            if str(member.value) == value:
                return member
    return value


def _literal_member(literals: tuple[Any, ...], value: Any) -> Any:
    """Return the enum member, among literals, that is stored as this value; return the value if there is none."""
    for literal in literals:
        if isinstance(literal, Enum) and type(literal.value) is type(value) and literal.value == value:
            return literal
    return value


def _parsed(value: Any, openings: str) -> Any:
    """Parse JSON text that begins with one of the brackets in `openings`; return other values unchanged."""
    if isinstance(value, str) and value.lstrip()[:1] in openings and value.strip():
        try:
            return msgspec.json.decode(value)
        except (msgspec.DecodeError, RecursionError) as error:
            raise ValueError(f"not valid JSON: {error}") from error
    return value


def _array_text(value: Any) -> Any:
    return _parsed(value, "[")


def _object_text(value: Any) -> Any:
    return _parsed(value, "{")


def _any_text(value: Any) -> Any:
    return _parsed(value, "[{")


# -- unions ----------------------------------------------------------------------------------------------------


def _needs_choice(shapes: list[StoredShape]) -> bool:
    """Whether pydantic can take a stored value for a wrong member of the union.

    pydantic tries the prepared members in order, and cannot prefer an exact value to a converted one.
    """
    valued = [shape for shape in shapes if shape.kind is not type(None)]
    return len(valued) > 1 and any(shape.fields is not None or shape.is_enum or shape.is_container for shape in valued)


class _Chooser:
    """Converts a value to the member of a union that it was stored from, or to any member if none matches."""

    def __init__(self, shapes: list[StoredShape], whole: Any) -> None:
        self._shapes = shapes
        self._whole_annotation = whole
        self._adapters: dict[int, Converter] = {}

    def __call__(self, value: Any) -> Any:
        likely = [candidate for candidate in enumerate(self._shapes) if candidate[1].accepts(value)]
        if len(likely) > 1:
            likely = [candidate for candidate in likely if candidate[1].matches(value)] or likely
            # `dict` accepts each stored object, so a class with fields comes first, in any order of the members
            likely.sort(key=lambda candidate: candidate[1].fields is None)
        for index, shape in likely[:1]:
            with contextlib.suppress(pydantic.ValidationError):
                return self._converter(index, shape)(value)
        # do not wrap a ValidationError: pydantic adds the path to this value before the paths inside the error
        return self._whole(value)

    def _converter(self, index: int, shape: StoredShape) -> Converter:
        if index not in self._adapters:
            self._adapters[index] = make_converter(shape.annotation)
        return self._adapters[index]

    @functools.cached_property
    def _whole(self) -> Converter:
        # made at the first use: a class can have a field of the same class, so making converters early would never end
        adapter = _adapter(self._whole_annotation)
        return functools.partial(adapter.validate_python, by_alias=True, by_name=True)


# -- subclasses of builtin classes -----------------------------------------------------------------------------


def _prepared_subclass(kind: type[Any]) -> Any:
    """The annotation for a subclass of a builtin class that pydantic does not know; None for other classes."""
    if kind in (bytearray, memoryview):
        return Annotated[Any, pydantic.PlainValidator(_SubclassMaker(kind, bytes))]
    if hasattr(kind, "__get_pydantic_core_schema__") or kind.__module__ in ("builtins", "datetime"):
        return None
    base = next((builtin for builtin in _BUILTINS if issubclass(kind, builtin)), None)
    if base is None and hasattr(kind, "__index__"):
        base = int
    return None if base is None or base is kind else Annotated[Any, pydantic.PlainValidator(_SubclassMaker(kind, base))]


_BUILTINS: tuple[type[Any], ...] = (
    *(str, int, float, bytes, datetime, date, timedelta, uuid.UUID, decimal.Decimal),
    *(tuple, list, set, frozenset, dict, abc.Mapping),
)


class _SubclassMaker:
    """Makes an object of a subclass from a value of its base; keeps the base if the constructor takes no value."""

    def __init__(self, kind: Any, base: Any) -> None:
        self._kind = kind
        self._convert = make_converter(base)

    def __call__(self, value: Any) -> Any:
        if isinstance(value, self._kind):
            return value
        plain = self._convert(value)
        try:
            made = self._kind(plain)
        except TypeError:
            return plain
        except Exception as error:  # the constructor of the user's class refuses the value
            raise ValueError(f"{type(error).__name__}: {error}") from error
        if made != plain:
            raise ValueError(f"{self._kind.__name__} does not keep the value that it is made of")
        return made


# -- classes with fields ---------------------------------------------------------------------------------------


class _Rebuilder:
    """Makes an object of a class from a mapping of its fields, or from JSON text of one."""

    def __init__(self, kind: type[Any], fields: list[ClassField]) -> None:
        self._kind = kind
        self._fields = fields
        self._plain = typing_extensions.is_typeddict(kind)
        self._positional = issubclass(kind, tuple)
        self._tag = tag_of(kind)

    def __call__(self, value: Any) -> Any:
        if not self._plain and isinstance(value, self._kind):
            return value
        given = self._named(_any_text(value) if self._positional else _object_text(value))
        # do not wrap a ValidationError: pydantic adds the path to this value before the paths inside the error
        model = self._model.model_validate(given, by_alias=True, by_name=True)
        values = {
            field.name: getattr(model, name)
            for name, field in zip(self._model.model_fields, self._fields, strict=True)
            if name in model.model_fields_set
        }
        if self._plain:
            return values
        try:
            return self._kind(**values)
        except Exception as error:  # the constructor of the user's class refuses the value
            raise ValueError(f"{type(error).__name__}: {error}") from error

    def _named(self, value: Any) -> dict[str, Any]:
        if self._positional and isinstance(value, list | tuple):
            values = cast(list[Any], value)
            if len(values) > len(self._fields):
                raise ValueError(f"{self._kind.__name__} has {len(self._fields)} fields, not {len(values)}")
            return {field.name: item for field, item in zip(self._fields, values, strict=False)}
        if not isinstance(value, Mapping):
            raise ValueError(
                f"expected {with_article(self._kind.__name__)}, as a mapping of its fields or JSON text of one"
            )
        given = dict(cast(Mapping[str, Any], value))
        if self._tag is not None and given.pop(self._tag[0], self._tag[1]) != self._tag[1]:
            raise ValueError(f"expected the tag {self._tag[1]!r}")
        for field in self._fields:
            if field.other is not None and field.other in given and field.name not in given:
                given[field.name] = given.pop(field.other)
        return given

    @functools.cached_property
    def _model(self) -> type[pydantic.BaseModel]:
        # made at the first use: a class can have a field of the same class, so making converters early would never end
        prepared = [_prepared(field.annotation, frozenset()) for field in self._fields]
        try:
            return self._make_model(prepared)
        except Exception:  # noqa: BLE001  # code of users can raise anything while pydantic makes a schema
            return self._make_model([annotation if _is_understood(annotation) else Any for annotation in prepared])

    def _make_model(self, annotations: list[Any]) -> type[pydantic.BaseModel]:
        definitions: dict[str, Any] = {
            f"field_{index}_": (annotation, pydantic.Field(... if field.required else None, alias=field.name))
            for index, (field, annotation) in enumerate(zip(self._fields, annotations, strict=True))
        }
        config = pydantic.ConfigDict(arbitrary_types_allowed=True, extra="forbid")
        return pydantic.create_model(self._kind.__name__, __config__=config, **definitions)


def _is_understood(annotation: Any) -> bool:
    try:
        _adapter(annotation)
    except Exception:  # noqa: BLE001  # code of users can raise anything while pydantic makes a schema
        return False
    return True
