"""The arguments of a submitted form, and the form values that give arguments again. A secret is never shown again.

A field reads only what has one meaning: numbers, truth values and JSON. All other text goes to the node as it is, and
the node converts it to the annotation of the parameter, as it does for `jobctl`.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

import msgspec

from peerjob.model.bounds import BoundsError, check_json
from peerjob.model.json_text import to_json

from .fields import REST, WHOLE, Field
from .values import has_mask


@dataclasses.dataclass(frozen=True, kw_only=True)
class GivenArguments:
    """The arguments of a submitted form, and the problem of each field that cannot be read."""

    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = dataclasses.field(default_factory=dict[str, Any])
    problems: dict[str, list[str]] = dataclasses.field(default_factory=dict[str, list[str]])
    """By the name of the parameter; by "" for those of the whole form."""


# -- from a form -------------------------------------------------------------------------------------------------------


def read_arguments(fields: Sequence[Field], form: Mapping[str, str]) -> GivenArguments:
    """The arguments of a form: those of its fields, or those of the value `WHOLE` if it is not empty."""
    whole = form.get(WHOLE, "").strip()
    if whole:
        return _read_whole(whole)
    read = GivenArguments()
    for field in fields:
        text = form.get(field.key, "")
        if not text.strip() and not (text and field.control in ("text", "password")):
            if not field.required:
                continue
            if not field.nullable and field.type != "text":
                read.problems.setdefault(field.name, []).append("missing")
                continue
            read.kwargs[field.name] = None if field.nullable else ""
            continue
        try:
            value = _read(field, text)
        except ValueError as error:
            # the sentence says what is expected, then what was given
            problem = str(error).partition(", got ")[0] if field.secret else str(error)
            read.problems.setdefault(field.name, []).append(problem)
            continue
        if field.name != REST:
            read.kwargs[field.name] = value
        elif isinstance(value, dict):
            read.kwargs.update(cast("dict[str, Any]", value))
        else:
            read.problems.setdefault(field.name, []).append("expected a JSON object")
    return read


def _read_whole(text: str) -> GivenArguments:
    try:
        value = _json(text)
    except ValueError as error:
        return GivenArguments(problems={WHOLE: [str(error)]})
    if isinstance(value, dict):
        return GivenArguments(kwargs=cast("dict[str, Any]", value))
    if isinstance(value, list):
        items: list[Any] = value  # pyright: ignore[reportUnknownVariableType]
        return GivenArguments(args=tuple(items))
    return GivenArguments(problems={WHOLE: ["expected a JSON array or object"]})


def _read(field: Field, text: str) -> Any:
    """The value of a text; raises ValueError with a sentence for people."""
    if field.control == "json":
        return _json(text)
    if field.type == "whole number":
        if not re.fullmatch(r"\s*[+-]?\d{1,4300}\s*", text, re.ASCII):
            raise ValueError(f"expected a whole number, got {text[:100]!r}")
        return int(text)
    if field.type == "number":
        try:
            number = float(text)
        except ValueError:
            number = math.nan
        if not math.isfinite(number):
            raise ValueError(f"expected a number, got {text[:100]!r}")
        return number
    if field.choices:
        if text not in field.choices:
            raise ValueError(f"expected one of {', '.join(field.choices)}, got {text[:100]!r}")
        return msgspec.json.decode(text)
    return text


def _json(text: str) -> Any:
    try:
        check_json(text)
        return msgspec.json.decode(text)
    except (msgspec.MsgspecError, BoundsError, RecursionError, UnicodeError) as error:
        raise ValueError(f"expected JSON, with text in double quotes ({str(error)[:200]})") from None


# -- problems and given values ---------------------------------------------------------------------------------------


def problems_by_field(problems: Iterable[str], fields: Iterable[Field]) -> dict[str, list[str]]:
    """The problems of an ArgumentError by the parameter that they begin with; by "" for all others."""
    names = {field.name for field in fields}
    errors: dict[str, list[str]] = {}
    for problem in problems:
        name = re.split(r"[\[:]", problem, maxsplit=1)[0]
        known = name in names
        errors.setdefault(name if known else "", []).append(problem.removeprefix(f"{name}: ") if known else problem)
    return errors


def form_of(fields: Sequence[Field], args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, str]:
    """The form values that give these arguments again; without values that are or contain a secret."""
    plain = [field for field in fields if field.name != REST]
    if len(args) > len(plain):
        return {WHOLE: to_json(list(args))} if not kwargs and not has_mask(args) else {}
    given = {field.name: value for field, value in zip(plain, args, strict=False)} | dict(kwargs)
    given = {name: value for name, value in given.items() if not has_mask(value)}
    if any(field.name in given and _reads_as_default(field, given[field.name]) for field in plain) and not any(
        field.secret for field in plain
    ):
        return {WHOLE: to_json(given)}
    form: dict[str, str] = {}
    for field in plain:
        if field.name in given and not field.secret:
            form[field.key] = _text(field, given.pop(field.name))
        else:
            given.pop(field.name, None)
    if given:
        form[f"arg.{REST}"] = to_json(given)
    return form


def shown_again(fields: Sequence[Field], form: Mapping[str, str]) -> dict[str, str]:
    """The values of a submitted form without its secrets. JSON of several arguments can contain one, too."""
    hidden = {field.key for field in fields if field.secret}
    if hidden:
        hidden |= {WHOLE, f"arg.{REST}"}
    return {key: text for key, text in form.items() if key not in hidden}


def _reads_as_default(field: Field, value: Any) -> bool:
    """Whether the field would be empty, which stands for its default and not for this value."""
    return not field.required and not _text(field, value) and to_json(value) != field.default


def _text(field: Field, value: Any) -> str:
    if value is None and field.control != "json":
        return ""
    if field.control == "json" or field.choices or not isinstance(value, str):
        text = to_json(value)
        # JSON has no times, UUIDs and decimals: they are texts there, and the field takes the text
        is_text = field.control != "json" and not field.choices and text.startswith('"')
        return str(msgspec.json.decode(text)) if is_text else text
    return value
