"""Form fields from the JSON schema of a kind's arguments, and the arguments from a submitted form.

A field reads only what has one meaning: numbers, truth values and JSON. All other text goes to the node as it is, and
the node converts it to the annotation of the parameter, as it does for `jobctl`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, cast

import msgspec

from peerjob.model.bounds import BoundsError, check_json
from peerjob.model.json_text import to_json

Control = Literal["text", "number", "select", "date", "time", "password", "json"]

REST = "*"
"""The name of the field with further arguments by name; no parameter has this name."""
WHOLE = "json"
"""The name of the form value with all arguments as JSON."""
_BOOLEANS = {"true": True, "false": False}
_TEXTS: dict[str, tuple[Control, str, str]] = {
    "date-time": ("text", "time with zone", "2026-12-24T18:00:00+01:00"),
    "date": ("date", "date", ""),
    "time": ("time", "time of day", ""),
    "duration": ("text", "duration", "1h30m"),
    "uuid": ("text", "UUID", "0190f0e0-0000-7000-8000-000000000000"),
    "binary": ("text", "bytes as text", ""),
}
"""The format of a string: its control, its name for people, and an example."""


@dataclass(frozen=True, kw_only=True)
class Field:
    """One parameter of a kind."""

    name: str
    control: Control
    type: str
    """The type of the value, for people."""
    required: bool = True
    nullable: bool = False
    default: str | None = None
    """The default as JSON; None: there is none, or it is unknown."""
    choices: tuple[str, ...] = ()
    """The allowed values as JSON, of a select."""
    example: str = ""

    @property
    def key(self) -> str:
        """The name of the value in the form."""
        return f"arg.{self.name}"

    @property
    def options(self) -> list[tuple[str, str]]:
        """The choices of a select with their labels: the text of a string, else JSON."""
        return [(one, str(msgspec.json.decode(one)) if one.startswith('"') else one) for one in self.choices]

    @property
    def empty(self) -> str:
        """The meaning of an empty field."""
        if not self.required:
            return "the default" if self.default is None else self.default
        if self.nullable:
            return "null"
        return "an empty text" if self.type == "text" else ""


@dataclass(frozen=True, kw_only=True)
class GivenArguments:
    """The arguments of a submitted form, and the problem of each field that cannot be read."""

    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict[str, Any])
    problems: dict[str, list[str]] = field(default_factory=dict[str, list[str]])
    """By the name of the parameter; by "" for those of the whole form."""


# -- from a schema ---------------------------------------------------------------------------------------------------


def fields_of(schema_text: str | None) -> list[Field]:
    """The fields of a schema as `RegisteredJob.json_schema`; without properties, one field for a JSON object.

    The schema can contain code of users, so each part of it may be of any type.
    """
    schema = _object(_decoded(schema_text))
    properties = _object(schema.get("properties"))
    required = schema.get("required")
    names = cast("list[object]", required) if isinstance(required, list) else []
    definitions = _object(schema.get("$defs"))
    found = [_field(name, _object(part), name in names, definitions) for name, part in properties.items()]
    if schema.get("additionalProperties") is True or not isinstance(schema.get("properties"), dict):
        found.append(Field(name=REST, control="json", type="JSON object", required=False, default="{}", example="{}"))
    return found


def _field(name: str, part: dict[str, Any], required: bool, definitions: dict[str, Any]) -> Field:
    secret = part.get("writeOnly") is True
    default = to_json(part["default"]) if "default" in part and not secret else None
    inner, nullable = _without_null(part, definitions)
    control, kind, choices, example = _control(inner)
    if secret and control != "json":
        control = "password"
    return Field(
        name=name,
        control=control,
        type=kind,
        required=required,
        nullable=nullable,
        default=default,
        choices=choices,
        example=example,
    )


def _without_null(part: dict[str, Any], definitions: dict[str, Any]) -> tuple[dict[str, Any], bool]:
    """The schema without the alternative `null`, and whether it had one; a reference to a definition is followed."""
    options = part.get("anyOf")
    nullable = False
    if isinstance(options, list):
        others = [one for one in map(_object, cast("list[object]", options)) if one.get("type") != "null"]
        nullable = len(others) < len(cast("list[object]", options))
        if len(others) == 1:
            part = others[0]
        elif {one.get("type") for one in others} == {"number", "string"}:
            part = {"type": "string", "format": "decimal"}
    reference = part.get("$ref")
    if isinstance(reference, str):
        part = _object(definitions.get(reference.removeprefix("#/$defs/")))
    return part, nullable


def _control(part: dict[str, Any]) -> tuple[Control, str, tuple[str, ...], str]:
    """The control of a schema, the name of its type, its choices, and an example."""
    values = part.get("enum")
    if isinstance(values, list) and values:
        return "select", "choice", tuple(map(to_json, cast("list[object]", values))), ""
    match part.get("type"):
        case "boolean":
            return "select", "true or false", tuple(_BOOLEANS), ""
        case "integer":
            return "number", "whole number", (), ""
        case "number":
            return "number", "number", (), ""
        case "string":
            form = part.get("format")
            if form == "decimal":
                return "text", "decimal number", (), "12.50"
            if isinstance(form, str) and form in _TEXTS:
                control, kind, example = _TEXTS[form]
                return control, kind, (), example
            return "text", "text", (), ""
        case "array":
            return "json", "JSON array", (), "[]"
        case "object":
            return "json", "JSON object", (), _skeleton(part)
        case _:
            return "json", "JSON", (), '"text", 1, true, [] or {}'


def _skeleton(part: dict[str, Any]) -> str:
    """An object with the names and types of its properties."""
    properties = _object(part.get("properties"))
    inner = ", ".join(f"{to_json(name)}: {_object(one).get('type', '…')!s}" for name, one in properties.items())
    return f"{{{inner}}}"


def _decoded(text: str | None) -> object:
    try:
        return None if text is None else msgspec.json.decode(text)
    except (msgspec.MsgspecError, RecursionError):
        return None


def _object(value: object) -> dict[str, Any]:
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}


# -- from a form -----------------------------------------------------------------------------------------------------


def read_arguments(fields: Sequence[Field], form: Mapping[str, str]) -> GivenArguments:
    """The arguments of a form: those of its fields, or those of the value `WHOLE` if it is not empty."""
    whole = form.get(WHOLE, "").strip()
    if whole:
        return _read_whole(whole)
    read = GivenArguments()
    for one in fields:
        text = form.get(one.key, "")
        if not text.strip() and not (text and one.control in ("text", "password")):
            if not one.required:
                continue
            if not one.nullable and one.type != "text":
                read.problems.setdefault(one.name, []).append("missing")
                continue
            read.kwargs[one.name] = None if one.nullable else ""
            continue
        try:
            value = _read(one, text)
        except ValueError as error:
            read.problems.setdefault(one.name, []).append(str(error))
            continue
        if one.name != REST:
            read.kwargs[one.name] = value
        elif isinstance(value, dict):
            read.kwargs.update(cast("dict[str, Any]", value))
        else:
            read.problems.setdefault(one.name, []).append("expected a JSON object")
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


def _read(one: Field, text: str) -> Any:
    """The value of a text; raises ValueError with a sentence for people."""
    if one.control == "json":
        return _json(text)
    if one.type == "whole number":
        if not re.fullmatch(r"\s*[+-]?\d{1,4300}\s*", text, re.ASCII):
            raise ValueError(f"expected a whole number, got {text[:100]!r}")
        return int(text)
    if one.type == "number":
        try:
            number = float(text)
        except ValueError:
            number = math.nan
        if not math.isfinite(number):
            raise ValueError(f"expected a number, got {text[:100]!r}")
        return number
    if one.choices:
        if text not in one.choices:
            raise ValueError(f"expected one of {', '.join(one.choices)}, got {text[:100]!r}")
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
    names = {one.name for one in fields}
    found: dict[str, list[str]] = {}
    for problem in problems:
        name = re.split(r"[\[:]", problem, maxsplit=1)[0]
        known = name in names
        found.setdefault(name if known else "", []).append(problem.removeprefix(f"{name}: ") if known else problem)
    return found


def form_of(fields: Sequence[Field], args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, str]:
    """The form values that give these arguments again; without secrets, which nothing shows."""
    plain = [one for one in fields if one.name != REST]
    if len(args) > len(plain):
        return {WHOLE: to_json(list(args))} if not kwargs else {}
    given = {one.name: value for one, value in zip(plain, args, strict=False)} | dict(kwargs)
    form: dict[str, str] = {}
    for one in plain:
        if one.name in given and one.control != "password":
            form[one.key] = _text(one, given.pop(one.name))
        else:
            given.pop(one.name, None)
    if given:
        form[f"arg.{REST}"] = to_json(given)
    return form


def _text(one: Field, value: Any) -> str:
    if value is None and one.control != "json":
        return ""
    if one.control == "json" or one.choices or not isinstance(value, str):
        text = to_json(value)
        # JSON has no times, UUIDs and decimals: they are texts there, and the field takes the text
        is_text = one.control != "json" and not one.choices and text.startswith('"')
        return str(msgspec.json.decode(text)) if is_text else text
    return value
