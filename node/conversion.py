"""Turns stored arguments into what annotations ask for.

pydantic does the work, in lax mode. It is helped where it would refuse or misread what people write: durations
("5s", and "00:05" is none), JSON text for anything with parts, enum members by name. Classes whose fields pydantic
does not know how to fill, or would not fill with that help, are rebuilt field by field: dataclass, attrs, msgspec,
NamedTuple, TypedDict. A pydantic model keeps its own rules inside.
"""

from __future__ import annotations

import collections
import collections.abc
import contextlib
import dataclasses
import functools
import inspect
import sys
import types
import typing
from collections.abc import Callable, Mapping
from datetime import timedelta
from enum import Enum
from typing import Annotated, Any, NewType, Union, cast

import msgspec
import pydantic
import typing_extensions

from peerjob.durations import parse_duration
from peerjob.errors import path_text
from peerjob.signature import EMPTY, QUALIFIERS, TYPE_ALIAS, resolve

Converter = Callable[[Any], Any]
"""Returns the converted value, or raises; `explain` tells what was wrong."""

_CONFIG = pydantic.ConfigDict(arbitrary_types_allowed=True)


def make_converter(annotation: Any) -> Converter:
    """A converter to an annotated type; one that changes nothing where there is nothing to convert to."""
    for candidate in (_prepared(annotation, frozenset()), annotation):
        # an annotation may be any object, and its schema is code of the user's
        with contextlib.suppress(Exception):
            return functools.partial(_adapter(candidate).validate_python, by_alias=True, by_name=True)
    return lambda value: value


def explain(name: str, error: Exception) -> list[str]:
    """What a converter found wrong with a value, in sentences that begin with its name."""
    if not isinstance(error, pydantic.ValidationError):
        return [f"{name}: {type(error).__name__}: {error}"]
    return [
        f"{name}{path_text(one['loc'])}: {one['msg'].removeprefix('Value error, ')} (got {_short(one['input'])})"
        for one in error.errors(include_url=False, include_context=False)
    ]


def _short(value: Any) -> str:
    try:
        text = repr(value)
    except Exception:  # noqa: BLE001  # the value's own code
        return f"a {type(value).__name__}"
    return text if len(text) <= 80 else f"{text[:77]}..."


def _adapter(annotation: Any) -> pydantic.TypeAdapter[Any]:
    try:
        return pydantic.TypeAdapter(annotation, config=_CONFIG)
    except pydantic.PydanticUserError as error:
        if error.code != "type-adapter-config-unused":
            raise
        return pydantic.TypeAdapter(annotation)  # a class that may have a configuration of its own


# -- what pydantic is given in the place of an annotation ------------------------------------------------------


def _prepared(annotation: Any, inside: frozenset[Any]) -> Any:
    """The annotation with our own parsing before every part that needs it."""
    if annotation is EMPTY or annotation is object:
        return Any
    if isinstance(annotation, NewType):
        return _prepared(annotation.__supertype__, inside)
    if isinstance(annotation, TYPE_ALIAS):
        recursive = annotation in inside or isinstance(annotation.__value__, str)
        return annotation if recursive else _prepared(annotation.__value__, inside | {annotation})
    origin, parts = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Annotated:
        return Annotated[(_prepared(parts[0], inside), *parts[1:])]
    if origin in (Union, types.UnionType):
        return Union[tuple(_prepared(part, inside) for part in parts)]  # noqa: UP007
    base: Any = origin or annotation
    if not isinstance(base, type):
        return annotation
    if base in _STREAMS:
        item = parts[0] if parts else Any
        wholes = [types.GenericAlias(one, item) for one in (list, set)] + [types.GenericAlias(tuple, (item, ...))]
        return Union[tuple(_prepared(one, inside) for one in wholes)]  # noqa: UP007
    if base in _ARRAYS or base in _OBJECTS:
        inner = tuple(part if part is ... else _prepared(part, inside) for part in parts)
        whole = cast(Any, base)[inner] if inner else annotation
        return Annotated[whole, pydantic.BeforeValidator(_array_text if base in _ARRAYS else _object_text)]
    return _prepared_class(annotation) if origin is None else annotation


def _prepared_class(kind: type[Any]) -> Any:
    if kind is timedelta:
        return Annotated[timedelta, pydantic.BeforeValidator(_duration)]
    if issubclass(kind, Enum):
        return Annotated[kind, pydantic.BeforeValidator(functools.partial(_member, kind))]
    if hasattr(kind, "__pydantic_fields__"):
        return Annotated[kind, pydantic.BeforeValidator(_any_text)]
    if (fields := _fields_of(kind)) is not None:
        return Annotated[Any, pydantic.PlainValidator(_Rebuilder(kind, fields))]
    return kind


_ARRAYS: set[Any] = {
    list,
    tuple,
    set,
    frozenset,
    collections.deque,
    collections.abc.Sequence,
    collections.abc.MutableSequence,
    collections.abc.Set,
    collections.abc.MutableSet,
}
_OBJECTS: set[Any] = {
    dict,
    collections.OrderedDict,
    collections.defaultdict,
    collections.Counter,
    collections.abc.Mapping,
    collections.abc.MutableMapping,
}
# pydantic would check these as they are read, which is too late
_STREAMS: set[Any] = {
    collections.abc.Iterable,
    collections.abc.Collection,
    collections.abc.Iterator,
    collections.abc.Generator,
}


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
    """By value, by name, or by a value written as text; what is none of them is left for pydantic to explain."""
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


def _parsed(value: Any, openings: str) -> Any:
    """JSON text as what it stands for, if it begins as it must; anything else as it is."""
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


# -- classes with fields ---------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, slots=True)
class _Field:
    name: str
    """As the constructor takes it, and the codec stores it."""
    annotation: Any
    required: bool
    other: str | None = None
    """Another name under which it may come."""


class _Rebuilder:
    """Makes an object of a class from a mapping of its fields, or from JSON text of one."""

    def __init__(self, kind: type[Any], fields: list[_Field]) -> None:
        self._kind = kind
        self._fields = fields
        self._plain = typing_extensions.is_typeddict(kind)
        self._positional = issubclass(kind, tuple)
        config: Any = getattr(kind, "__struct_config__", None)
        self._tag: tuple[str, Any] | None = (
            (config.tag_field, config.tag) if config is not None and config.tag is not None else None
        )

    def __call__(self, value: Any) -> Any:
        if not self._plain and isinstance(value, self._kind):
            return value
        given = self._named(_any_text(value) if self._positional else _object_text(value))
        # pydantic's ValidationError passes through, with its places below the place of this value
        found = self._model.model_validate(given, by_alias=True, by_name=True)
        values = {
            one.name: getattr(found, name)
            for name, one in zip(self._model.model_fields, self._fields, strict=True)
            if name in found.model_fields_set
        }
        if self._plain:
            return values
        try:
            return self._kind(**values)
        except Exception as error:  # a check in the class's own constructor
            raise ValueError(f"{type(error).__name__}: {error}") from error

    def _named(self, value: Any) -> dict[str, Any]:
        if self._positional and isinstance(value, list | tuple):
            values = cast(list[Any], value)
            if len(values) > len(self._fields):
                raise ValueError(f"{self._kind.__name__} has {len(self._fields)} fields, not {len(values)}")
            return {one.name: item for one, item in zip(self._fields, values, strict=False)}
        if not isinstance(value, Mapping):
            raise ValueError(f"expected a {self._kind.__name__}, as a mapping of its fields or JSON text of one")
        given = dict(cast(Mapping[str, Any], value))
        if self._tag is not None and given.pop(self._tag[0], self._tag[1]) != self._tag[1]:
            raise ValueError(f"expected the tag {self._tag[1]!r}")
        for one in self._fields:
            if one.other is not None and one.other in given and one.name not in given:
                given[one.name] = given.pop(one.other)
        return given

    @functools.cached_property
    def _model(self) -> type[pydantic.BaseModel]:
        # made when first needed, so that a class may have fields of its own kind
        prepared = [_prepared(one.annotation, frozenset()) for one in self._fields]
        try:
            return self._make_model(prepared)
        except Exception:  # noqa: BLE001  # as in make_converter
            return self._make_model([one if _is_understood(one) else Any for one in prepared])

    def _make_model(self, annotations: list[Any]) -> type[pydantic.BaseModel]:
        definitions: dict[str, Any] = {
            f"field_{index}_": (annotation, pydantic.Field(... if one.required else None, alias=one.name))
            for index, (one, annotation) in enumerate(zip(self._fields, annotations, strict=True))
        }
        config = pydantic.ConfigDict(arbitrary_types_allowed=True, extra="forbid")
        return pydantic.create_model(self._kind.__name__, __config__=config, **definitions)


def _is_understood(annotation: Any) -> bool:
    try:
        _adapter(annotation)
    except Exception:  # noqa: BLE001  # as in make_converter
        return False
    return True


def _fields_of(kind: Any) -> list[_Field] | None:
    """The fields that a class is made from, or None for a class that does not declare them."""
    if dataclasses.is_dataclass(kind):
        missing = dataclasses.MISSING
        return [
            _Field(one.name, hint, one.default is missing and one.default_factory is missing)
            for one, hint in _with_hints(kind, {one.name: one for one in dataclasses.fields(kind) if one.init})
        ]
    if hasattr(kind, "__attrs_attrs__"):
        import attrs

        return [
            _Field(one.alias, hint, one.default is attrs.NOTHING, one.name)
            for one, hint in _with_hints(kind, {one.name: one for one in kind.__attrs_attrs__ if one.init})
        ]
    if issubclass(kind, msgspec.Struct):
        return [
            _Field(one.name, hint, one.required, one.encode_name)
            for one, hint in _with_hints(kind, {one.name: one for one in msgspec.structs.fields(kind)})
        ]
    if typing_extensions.is_typeddict(kind):
        keys = {name: name for name in kind.__annotations__}
        return [_Field(name, hint, name in kind.__required_keys__) for name, hint in _with_hints(kind, keys)]
    names: tuple[str, ...] | None = getattr(kind, "_fields", None)
    defaults: Mapping[str, Any] = getattr(kind, "_field_defaults", {})
    if names is not None and issubclass(kind, tuple):
        return [
            _Field(name, hint, name not in defaults) for name, hint in _with_hints(kind, {one: one for one in names})
        ]
    return None


def _with_hints(kind: Any, fields: Mapping[str, Any]) -> list[tuple[Any, Any]]:
    namespace = dict(vars(sys.modules[kind.__module__]))
    try:
        hints = typing_extensions.get_type_hints(kind, include_extras=True)
    except Exception:  # noqa: BLE001  # annotations of the user's; those that can be resolved still count
        hints = {
            name: resolve(hint, namespace)
            for base in reversed(kind.__mro__)
            for name, hint in inspect.get_annotations(base).items()
        }
    return [(one, _bare(hints.get(name, Any))) for name, one in fields.items()]


def _bare(hint: Any) -> Any:
    while typing.get_origin(hint) in QUALIFIERS:
        (hint,) = typing.get_args(hint)
    return Any if hint is EMPTY else hint
