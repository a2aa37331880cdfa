"""The fields of a class of any library, by the names under which the codec stores them."""

from __future__ import annotations

import dataclasses
import inspect
import sys
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar, cast

import msgspec
import typing_extensions

from peerjob.model.signature import EMPTY, QUALIFIERS, is_required, resolve


@dataclass(frozen=True, slots=True)
class ClassField:
    """One field that the constructor takes."""

    name: str
    """The name of the constructor's parameter, under which the codec stores the field."""
    annotation: Any
    required: bool
    other: str | None = None
    """A second name under which a stored value can contain the field; None for no such name."""


def fields_of(annotation: Any) -> list[ClassField] | None:
    """The fields that the constructor of a class takes; None for a class without fields, or of pydantic.

    In the fields of `Box[int]`, `int` replaces the type variable.
    """
    kind = typing.get_origin(annotation) or annotation
    if not isinstance(kind, type) or is_model(kind):
        return None
    declared = _declared(kind)
    parts = typing.get_args(annotation)
    parameters: tuple[Any, ...] = getattr(kind, "__parameters__", ())
    if not declared or not parts or len(parts) != len(parameters):
        return declared
    values = dict(zip(parameters, parts, strict=True))
    return [dataclasses.replace(field, annotation=_filled(field.annotation, values)) for field in declared]


def model_fields(kind: Any) -> list[ClassField]:
    """The fields of a pydantic class."""
    hints = _hints(kind)
    return [
        ClassField(name, _bare(hints.get(name, info.annotation)), info.is_required())
        for name, info in kind.__pydantic_fields__.items()
    ]


def is_model(kind: Any) -> bool:
    """Whether the class is a model or a dataclass of pydantic."""
    return hasattr(kind, "__pydantic_fields__")


def tag_of(kind: Any) -> tuple[str, Any] | None:
    """Name and value of the tag of a msgspec Struct that has one."""
    config: Any = getattr(kind, "__struct_config__", None)
    return None if config is None or config.tag is None else (config.tag_field, config.tag)


def _declared(declared: type[Any]) -> list[ClassField] | None:
    kind: Any = declared
    if dataclasses.is_dataclass(kind):
        missing = dataclasses.MISSING
        return [
            ClassField(field.name, hint, field.default is missing and field.default_factory is missing)
            for field, hint in _with_hints(
                kind, {field.name: field for field in dataclasses.fields(kind) if field.init}
            )
        ]
    if hasattr(kind, "__attrs_attrs__"):
        import attrs

        return [
            ClassField(field.alias, hint, field.default is attrs.NOTHING, field.name)
            for field, hint in _with_hints(kind, {field.name: field for field in kind.__attrs_attrs__ if field.init})
        ]
    if issubclass(kind, msgspec.Struct):
        return [
            ClassField(field.name, hint, field.required, field.encode_name)
            for field, hint in _with_hints(kind, {field.name: field for field in msgspec.structs.fields(kind)})
        ]
    if typing_extensions.is_typeddict(kind):
        hints = _hints(kind)
        return [
            ClassField(name, _bare(hints.get(name, Any)), is_required(kind, name, hints.get(name)))
            for name in kind.__annotations__
        ]
    names: tuple[str, ...] | None = getattr(declared, "_fields", None)
    if names is not None and issubclass(kind, tuple):
        defaults: Mapping[str, Any] = getattr(declared, "_field_defaults", {})
        named = {name: name for name in names}
        return [ClassField(name, hint, name not in defaults) for name, hint in _with_hints(kind, named)]
    return None


def _with_hints(kind: Any, fields: Mapping[str, Any]) -> Iterable[tuple[Any, Any]]:
    hints = _hints(kind)
    return [(field, _bare(hints.get(name, Any))) for name, field in fields.items()]


def _hints(kind: Any) -> Mapping[str, Any]:
    try:
        return typing_extensions.get_type_hints(kind, include_extras=True)
    except Exception:  # noqa: BLE001  # an annotation cannot be resolved, so resolve each one alone
        namespace = dict(vars(sys.modules[kind.__module__]))
        return {
            name: resolve(hint, namespace)
            for base in reversed(kind.__mro__)
            for name, hint in inspect.get_annotations(base).items()
        }


def _bare(hint: Any) -> Any:
    """Strip Required, NotRequired and ReadOnly from a type hint."""
    origin = typing.get_origin(hint)
    if origin in QUALIFIERS:
        return _bare(typing.get_args(hint)[0])
    if origin is Annotated and typing.get_origin(hint.__origin__) in QUALIFIERS:
        return Annotated[(_bare(hint.__origin__), *hint.__metadata__)]
    return Any if hint is EMPTY else hint


def _filled(hint: Any, values: Mapping[Any, Any]) -> Any:
    if isinstance(hint, TypeVar):
        return values.get(hint, hint)
    inner = cast("tuple[Any, ...]", getattr(hint, "__parameters__", ()))
    return hint[tuple(values.get(inner_type, inner_type) for inner_type in inner)] if inner else hint
