"""Finds unions of classes whose stored objects look alike."""

from __future__ import annotations

import contextlib
import itertools
import types
import typing
from collections.abc import Iterator
from typing import Annotated, Any, Union

import typing_extensions

from peerjob.model.signature import TYPE_ALIAS, annotation_text

from .fields import tag_of
from .stored_shapes import StoredShape, bare, overlap


def find_confusion(annotation: Any) -> str | None:
    """Name two classes of a union inside an annotation whose stored objects look alike, and why; None for none."""
    with contextlib.suppress(Exception):  # an annotation can be any object, whose methods can raise anything
        return next(_confusions(annotation, set()), None)
    return None


def is_discriminated(additions: tuple[Any, ...]) -> bool:
    """Whether the additions to a union in Annotated tell pydantic how to choose a member."""
    return any(
        getattr(addition, "discriminator", None) is not None or hasattr(addition, "__get_pydantic_core_schema__")
        for addition in additions
    )


def _confusions(annotation: Any, seen: set[Any]) -> Iterator[str]:
    if typing.get_origin(annotation) is Annotated:
        whole, *additions = typing.get_args(annotation)
        if not is_discriminated(tuple(additions)):
            yield from _confusions(whole, seen)
        return
    if isinstance(annotation, TYPE_ALIAS):
        if annotation in seen:
            return
        seen.add(annotation)
    annotation = bare(annotation)
    origin, parts = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (Union, types.UnionType):
        members = [member for part in parts for member in StoredShape(part).members]
        for first, other in itertools.combinations(members, 2):
            if (reason := _confusion(first, other)) is not None:
                yield reason
    for part in parts:
        yield from _confusions(part, seen)
    shape = StoredShape(annotation)
    if shape.fields is not None and annotation not in seen:
        seen.add(annotation)
        infos: Any = getattr(shape.kind, "__pydantic_fields__", {})
        for name, field in shape.fields.items():
            if getattr(infos.get(name), "discriminator", None) is None:
                yield from _confusions(field.annotation, seen)


def _confusion(shape: StoredShape, other: StoredShape) -> str | None:
    """Say why an object of one shape can be read as the other shape; None if that is impossible or harmless."""
    if shape.kind is other.kind and not shape.items:
        return None
    if not overlap(shape.forms, other.forms) or shape.forms is None or other.forms is None:
        return None
    for a, b in ((shape, other), (other, shape)):
        if a.is_plain_enum and overlap(a.forms, b.forms_beside(a.kind)):
            return f"{_name(a)} and {_name(b)} have values in common"
    if shape.fields is not None and other.fields is not None:
        if _told_apart(shape, other) or (_is_plain(shape) and _is_plain(other)):
            return None
        named = ", ".join(map(repr, shape.fields)) or "none"
        return f"{_name(shape)} and {_name(other)} have the same fields ({named}); a Literal field can tell them apart"
    if shape.kind is other.kind or (shape.items and other.items):
        return _confusion_inside(shape, other)
    return None


def _confusion_inside(shape: StoredShape, other: StoredShape) -> str | None:
    """Like `_confusion`, for the items of two containers. Items that always differ tell the containers apart."""
    if shape.fields is not None or other.fields is not None or len(shape.items) != len(other.items):
        return None
    reason: str | None = None
    for left, right in zip(shape.items, other.items, strict=True):
        if not overlap(left.forms, right.forms) and len(shape.items) > 1:
            return None
        for a, b in itertools.product(left.members, right.members):
            reason = reason or _confusion(a, b)
    return reason


def _told_apart(shape: StoredShape, other: StoredShape) -> bool:
    """Whether the stored mappings of two classes with fields always differ."""
    pairs, known = [(shape, other)], [(shape.annotation, other.annotation)]
    for left, right in pairs:  # grows, by the fields that both classes have
        names, others = left.fields or {}, right.fields or {}
        if names.keys() != others.keys():
            return True
        if left.kind is right.kind:
            continue
        if tag_of(left.kind) != tag_of(right.kind):
            return True
        for name in names:
            inner = left.inner[name], right.inner[name]
            if not overlap(inner[0].forms, inner[1].forms):
                return True
            both = inner[0].annotation, inner[1].annotation
            if all(field.fields is not None for field in inner) and both not in known:
                known.append(both)
                pairs.append(inner)
    return False


def _is_plain(shape: StoredShape) -> bool:
    """Whether a shape is that of a TypedDict, whose values are plain mappings and have no class to lose."""
    return bool(typing_extensions.is_typeddict(shape.kind))


def _name(shape: StoredShape) -> str:
    return annotation_text(shape.annotation).rpartition(".")[2]
