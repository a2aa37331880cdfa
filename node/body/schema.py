"""JSON schemas of the arguments of jobs, for forms and documents. They check nothing."""

from __future__ import annotations

import contextlib
import inspect
import warnings
from typing import Any

import msgspec

from peerjob.model.descriptor import scalar_of
from peerjob.model.secret import is_secret
from peerjob.model.signature import EMPTY, Parameter, Signature

MAX_SCHEMA = 16 << 10
"""Most bytes of a schema; a larger one is replaced by that of any object."""
_SCALAR_SCHEMAS: dict[str, dict[str, Any]] = {
    "int": {"type": "integer"},
    "float": {"type": "number"},
    "bool": {"type": "boolean"},
    "str": {"type": "string"},
    "bytes": {"type": "string", "format": "binary"},
    "datetime": {"type": "string", "format": "date-time"},
    "date": {"type": "string", "format": "date"},
    "time": {"type": "string", "format": "time"},
    "timedelta": {"type": "string", "format": "duration"},
    "UUID": {"type": "string", "format": "uuid"},
    "Decimal": {"anyOf": [{"type": "number"}, {"type": "string"}]},
}
_PLAIN = (str, int, float, bool, type(None))
_ANY_OBJECT = b'{"type":"object"}'


def schema_of(signature: Signature) -> bytes:
    """The schema of an object with all arguments by name, as JSON; a default of a secret is not in it."""
    fields = [
        parameter for parameter in signature.parameters if not parameter.supplied and parameter.kind not in _VARIADIC
    ]
    # the schema of a class has the defaults of its fields, so a class with a secret field has no schema here
    complex_ones = {
        field.name: field.annotation for field in fields if _is_complex(field) and not is_secret(field.annotation)
    }
    parts, definitions = _made(complex_ones) if complex_ones else ({}, {})
    schema: dict[str, Any] = {
        "type": "object",
        "properties": {field.name: _property(field, parts.get(field.name, {})) for field in fields},
        "required": [field.name for field in fields if field.required],
        "additionalProperties": signature.var_keyword is not None,
    }
    if definitions:
        schema["$defs"] = definitions
    try:
        data = msgspec.json.encode(schema)
    except (TypeError, ValueError, msgspec.MsgspecError):  # a schema by code of the user can contain any object
        return _ANY_OBJECT
    return data if len(data) <= MAX_SCHEMA else _ANY_OBJECT


_VARIADIC = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


def _scalar(parameter: Parameter) -> dict[str, Any] | None:
    name, optional = scalar_of(parameter.annotation)
    if not name:
        return None
    schema = _SCALAR_SCHEMAS[name]
    return {"anyOf": [schema, {"type": "null"}]} if optional else schema


def _is_complex(parameter: Parameter) -> bool:
    return parameter.annotation is not EMPTY and _scalar(parameter) is None


def _property(parameter: Parameter, part: dict[str, Any]) -> dict[str, Any]:
    schema = {**(_scalar(parameter) or part)}
    if is_secret(parameter.annotation):
        return schema | {"writeOnly": True}
    if parameter.default is not EMPTY and type(parameter.default) in _PLAIN:
        schema["default"] = parameter.default
    return schema


def _made(annotations: dict[str, Any]) -> tuple[dict[str, dict[str, Any]], dict[str, Any]]:
    """The schemas of annotations by name, and the definitions that they refer to; without those that have no schema."""
    import pydantic  # imported only for annotations that need it, because the import takes long

    parts: dict[str, dict[str, Any]] = {}
    definitions: dict[str, Any] = {}
    for name, annotation in annotations.items():
        # pydantic can raise anything and warn for an annotation, which can be any object with code of the user
        with contextlib.suppress(Exception), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            schema = pydantic.TypeAdapter(annotation).json_schema(ref_template=f"#/$defs/{name}.{{model}}")
            definitions |= {f"{name}.{key}": value for key, value in schema.pop("$defs", {}).items()}
            parts[name] = schema
    return parts, definitions
