"""What a node publishes about a kind: its parameters, and the options that concern the queue.

A node that lacks the code of the kind checks calls by it and applies the options.
"""

from __future__ import annotations

import hashlib
import inspect
import types
import typing
from collections.abc import Callable
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Annotated, Any, Union
from uuid import UUID

import msgspec

from .durations import MAX_SECONDS
from .errors import DecodeError
from .injected import Resource
from .job import Job
from .key_template import names_in
from .published import DIGEST_BYTES
from .secret import Secret, is_secret
from .signature import EMPTY, Parameter, Signature, annotation_text
from .spec import reader

MAX_BODY = 8 << 10
"""Most bytes of a descriptor without its schema. A kind with more has none: other nodes do not check its calls."""
SCALARS: dict[str, type[Any]] = {
    scalar.__name__: scalar for scalar in (int, float, bool, str, bytes, datetime, date, time, timedelta, UUID, Decimal)
}
"""The annotations that a descriptor can name. Values for others are checked only where the code is."""
_NAMES = {scalar: name for name, scalar in SCALARS.items()}
_RESOURCE = "resource"
_MAX_TYPE_TEXT = 100


class KeyText(str):
    """The text in a key of a default that only nodes with the code have."""

    __slots__ = ()


class DescribedParameter(msgspec.Struct, frozen=True, array_like=True):
    """One parameter of the callable of a kind."""

    name: str
    passing: Annotated[int, msgspec.Meta(ge=0, le=4)]
    """How it may be passed: the number of `inspect.Parameter.kind`."""
    required: bool
    type: str = ""
    """A name in SCALARS; "" for any other annotation or none."""
    optional: bool = False
    """Whether the value may be None."""
    secret: bool = False
    supplied: str = ""
    """What the node supplies, as in `Parameter.injected`; "" for an argument of the caller."""
    default: str | None = None
    """The text of the default in a key; only for parameters that the key template names."""


class DescribedRecurrence(msgspec.Struct, frozen=True, array_like=True):
    """When the schedule of a kind fires, as its definition says."""

    cron: str | None = None
    every_us: Annotated[int, msgspec.Meta(gt=0, le=MAX_SECONDS * 1_000_000)] | None = None
    timezone: str | None = None


class Descriptor(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The parameters and options of a kind."""

    kind: str = ""
    """The kind, also in the descriptor of an alias; "" from a release that did not tell it."""
    parameters: tuple[DescribedParameter, ...] = ()
    signature: str = ""
    """The parameters of the caller and the result, as text for people."""
    description: str = ""
    version: int = 0
    priority: int | None = None
    tags: tuple[str, ...] | None = None
    retention_us: int | None = None
    max_crashes: int | None = None
    key: str | None = None
    """The key template."""
    key_function: bool = False
    """Whether the key is made by a function, which only nodes with the code have."""
    max_retries: int | None = 0
    """Only shown, as `timeout` is: the node that runs an instance has both options."""
    timeout: float | None = None
    recurrence: DescribedRecurrence | None = None
    """Only shown: the fires follow the schedule in the store."""

    @property
    def options(self) -> dict[str, Any]:
        """The options that the definition sets, in their checked form."""
        described = {
            "priority": self.priority,
            "tags": self.tags,
            "retention": self.retention_us,
            "max_crashes": self.max_crashes,
            "key": self.key,
        }
        return {name: value for name, value in described.items() if value is not None}


_encode = msgspec.msgpack.Encoder().encode
_read = reader(Descriptor, "descriptor of a kind")


def descriptor_of(body: bytes) -> Descriptor | None:
    """Decode a descriptor; None for one that this release cannot read, so that no call fails by it."""
    try:
        return _read(body)
    except DecodeError:
        return None


# -- where the code is -------------------------------------------------------------------------------------------


def described(
    job: Job[..., Any, Any],
    signature: Signature,
    default_text: Callable[[str], str],
    hides: Callable[[str], bool],
) -> tuple[bytes, bytes] | None:
    """The digest and the body of a job's descriptor; None if the body is over MAX_BODY.

    `default_text` returns the text in a key of an argument that is left out, and `hides` whether one is a secret.
    """
    options = job.options
    key = options.get("key")
    named = names_in(key) if isinstance(key, str) else ()
    descriptor = Descriptor(
        kind=job.kind,
        parameters=tuple(
            _described(
                parameter,
                default_text(parameter.name) if parameter.name in named and not parameter.required else None,
                hides(parameter.name),
            )
            for parameter in signature.parameters
        ),
        signature=signature_text(signature),
        description=job.description[:200],
        version=job.version,
        priority=options.get("priority"),
        tags=options.get("tags"),
        retention_us=options.get("retention"),
        max_crashes=options.get("max_crashes"),
        key=key if isinstance(key, str) else None,
        key_function=callable(key),
        max_retries=job.policy.max_retries,
        timeout=job.policy.timeout,
        recurrence=_recurrence(job) if job.timing.recurs else None,
    )
    # the hash of the signature tells annotations apart that the descriptor does not name, and so their schemas
    body = _encode(descriptor)
    if len(body) > MAX_BODY:
        return None
    return hashlib.blake2b(body + signature.hash.encode(), digest_size=DIGEST_BYTES).digest(), body


def _recurrence(job: Job[..., Any, Any]) -> DescribedRecurrence:
    timing = job.timing
    return DescribedRecurrence(cron=job.options.get("cron"), every_us=timing.every_us, timezone=timing.timezone)


def _described(parameter: Parameter, default: str | None, secret: bool) -> DescribedParameter:
    name, optional = scalar_of(parameter.annotation)
    return DescribedParameter(
        name=parameter.name,
        passing=int(parameter.kind),
        required=parameter.required,
        type=name,
        optional=optional,
        secret=secret,
        supplied=parameter.injected or (_RESOURCE if parameter.resource is not None else ""),
        default=default,
    )


def scalar_of(annotation: Any) -> tuple[str, bool]:
    """The name in SCALARS that an annotation means, and whether None is allowed; "" for other annotations."""
    if typing.get_origin(annotation) is Annotated and is_secret(annotation):
        parts = typing.get_args(annotation)
        is_plain = all(part is Secret or isinstance(part, Secret) for part in parts[1:])
        return scalar_of(parts[0]) if is_plain else ("", False)
    if isinstance(annotation, type):
        return _NAMES.get(annotation, ""), False
    if typing.get_origin(annotation) in (Union, types.UnionType):
        parts = typing.get_args(annotation)
        others = [part for part in parts if part is not type(None)]
        if len(others) == 1 and len(parts) == 2:
            return scalar_of(others[0])[0], True
    return "", False


def signature_text(signature: Signature) -> str:
    """The parameters of the caller and the result, such as `(x: int, *, fast: bool = …)`."""
    stars: dict[Any, str] = {inspect.Parameter.VAR_POSITIONAL: "*", inspect.Parameter.VAR_KEYWORD: "**"}
    texts: list[str] = []
    starred = False
    for parameter in signature.parameters:
        if parameter.supplied:
            continue
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY and not starred:
            texts.append("*")
        starred = starred or parameter.kind in (inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.VAR_POSITIONAL)
        text = stars.get(parameter.kind, "") + parameter.name
        if parameter.annotation is not EMPTY:
            text += f": {_short(parameter.annotation)}"
        texts.append(text if parameter.required or parameter.kind in stars else f"{text} = …")
    returns = "" if signature.returns is EMPTY else f" -> {_short(signature.returns)}"
    return f"({', '.join(texts)}){returns}"


def _short(annotation: Any) -> str:
    text = annotation_text(annotation)
    return text if len(text) <= _MAX_TYPE_TEXT else f"{text[: _MAX_TYPE_TEXT - 1]}…"


# -- where the code is not ---------------------------------------------------------------------------------------


def signature_of(descriptor: Descriptor) -> Signature:
    """The signature that checks calls of a kind whose code is elsewhere."""
    return Signature(_elsewhere, [_parameter(parameter) for parameter in descriptor.parameters])


def _parameter(parameter: DescribedParameter) -> Parameter:
    annotation: Any = SCALARS.get(parameter.type, EMPTY)
    if parameter.optional and annotation is not EMPTY:
        annotation = Union[annotation, None]  # noqa: UP007  # `|` cannot combine values of type Any for type checkers
    if parameter.secret:
        annotation = Annotated[Any if annotation is EMPTY else annotation, Secret]
    supplied: Any = parameter.supplied or None
    return Parameter(
        name=parameter.name,
        kind=inspect._ParameterKind(parameter.passing),  # pyright: ignore[reportPrivateUsage]  # it has no public name
        annotation=annotation,
        default=EMPTY if parameter.default is None else KeyText(parameter.default),
        required=parameter.required,
        injected=None if supplied == _RESOURCE else supplied,
        resource=Resource(_elsewhere, "attempt") if supplied == _RESOURCE else None,
    )


def _elsewhere() -> None:
    """Stand for a callable that other nodes have."""
