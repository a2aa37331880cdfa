"""Form fields from the JSON schema of a kind's arguments."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, cast

import msgspec

from peerjob.model.json_text import to_json

Control = Literal["text", "number", "select", "date", "time", "password", "json"]

REST = "*"
"""The name of the field with further arguments by name; no parameter has this name."""
WHOLE = "json"
"""The name of the form value with all arguments as JSON."""
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
    secret: bool = False
    """Whether its value is never shown again."""

    @property
    def key(self) -> str:
        """The name of the value in the form."""
        return f"arg.{self.name}"

    @property
    def options(self) -> list[tuple[str, str]]:
        """The choices of a select with their labels: the text of a string, else JSON."""
        return [
            (choice, str(msgspec.json.decode(choice)) if choice.startswith('"') else choice) for choice in self.choices
        ]

    @property
    def empty(self) -> str:
        """The meaning of an empty field."""
        if not self.required:
            return "the default" if self.default is None else self.default
        if self.nullable:
            return "null"
        return "an empty text" if self.type == "text" else ""


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
    fields = [_field(name, _object(part), name in names, definitions) for name, part in properties.items()]
    if schema.get("additionalProperties") is True or not isinstance(schema.get("properties"), dict):
        fields.append(Field(name=REST, control="json", type="JSON object", required=False, default="{}", example="{}"))
    return fields


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
        secret=secret,
    )


def _without_null(part: dict[str, Any], definitions: dict[str, Any]) -> tuple[dict[str, Any], bool]:
    """The schema without the alternative `null`, and whether it had one; a reference to a definition is followed."""
    options = part.get("anyOf")
    nullable = False
    if isinstance(options, list):
        others = [option for option in map(_object, cast("list[object]", options)) if option.get("type") != "null"]
        nullable = len(others) < len(cast("list[object]", options))
        if len(others) == 1:
            part = others[0]
        elif {other.get("type") for other in others} == {"number", "string"}:
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
            return "select", "true or false", ("true", "false"), ""
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
    inner = ", ".join(f"{to_json(name)}: {_object(member).get('type', '…')!s}" for name, member in properties.items())
    return f"{{{inner}}}"


def _decoded(text: str | None) -> object:
    try:
        return None if text is None else msgspec.json.decode(text)
    except (msgspec.MsgspecError, RecursionError):
        return None


def _object(value: object) -> dict[str, Any]:
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}
