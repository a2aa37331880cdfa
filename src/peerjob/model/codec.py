"""Encoding of arguments and results: MessagePack, with tags for types that MessagePack lacks.

- Numbers, text, bytes, lists and dicts are plain MessagePack, which any language can read.
- Tuples, sets, times, UUID, Decimal, complex and very large integers have a tag, so they keep their type.
- Enum members are stored by value, and objects with fields (dataclass, pydantic, attrs, msgspec, NamedTuple) as a dict.
  The annotation of the parameter restores them.
- Secrets have a tag around their value, so that views can mask them without the signature.
- A reference to the result of a member of a flow has a tag with the member's number.
"""

from __future__ import annotations

import dataclasses
import struct
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Address, IPv6Interface, IPv6Network
from pathlib import PurePath
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import msgspec
from msgspec.msgpack import Ext

from .bounds import (
    MAX_DEPTH,
    TRIVIAL,
    Bounds,
    BoundsError,
    check_decimal,
    check_hashes,
    check_integer,
)
from .errors import DecodeError, EncodeError
from .injected import INJECTED
from .leaves import read_decimal, read_integer, read_moment, read_ref, read_time, read_timedelta, short
from .outputs import Output, Ref, taken
from .printable import with_article
from .secret import MASK, Secret

Path = tuple[object, ...]

# stored values contain these tag numbers: do not change or reuse a number
_TUPLE, _SET, _FROZENSET, _MAPPING = 1, 2, 3, 4
_DATETIME, _DATE, _TIME, _TIMEDELTA = 5, 6, 7, 8
_UUID, _DECIMAL, _INT, _COMPLEX, _TEXT, _INJECTED = 9, 10, 11, 12, 13, 14
_SECRET = 15
_REF = 16

_bounds = Bounds(
    lists=frozenset({_TUPLE, _SET, _FROZENSET}),
    pairs=_MAPPING,
    wrapper=_SECRET,
    zoned=frozenset({_DATETIME, _TIME}),
    light=frozenset({_REF}),
)
PLAIN = frozenset({int, str, float, bool, type(None), bytes})
_HASHED = PLAIN | {datetime, date, time, timedelta, UUID, Decimal, complex}
"""Types whose values stay equal, with an equal hash, after encoding and decoding."""
_encode = msgspec.msgpack.Encoder().encode


def encode_value(value: Any) -> bytes:
    """Encode a value; raises EncodeError, which names the part that cannot be stored."""
    data = _encode_any(value)
    if len(data) <= TRIVIAL:
        return data
    try:
        _bounds.check(data)
    except BoundsError as error:
        raise EncodeError((), str(error)) from None
    return data


def encode_call(args: tuple[Any, ...], kwargs: dict[str, Any], *, plain: bool = False) -> bytes:
    """Encode the list `[args, kwargs]` as `encode_value` does, in fewer steps for plain values without names.

    `plain`: the caller knows that the arguments are such values, of types in PLAIN.
    """
    if plain or (not kwargs and PLAIN.issuperset(map(type, args))):
        try:
            data = _encode((args, kwargs))
        except (OverflowError, UnicodeEncodeError):
            pass  # a value needs a tag
        else:
            if len(data) <= TRIVIAL:
                return data
    return encode_value([list(args), kwargs])


def _encode_any(value: Any) -> bytes:
    if _is_plain(value, MAX_DEPTH):
        try:
            return _encode(value)
        except (OverflowError, UnicodeEncodeError):
            # an integer over 64 bits and text with a lone surrogate need a tag, which `_tagged` adds
            pass
    return _encode(_tagged(value, (), MAX_DEPTH))


def decode_value(data: bytes | memoryview) -> Any:
    """Decode a value, with secrets as plain values; raises DecodeError."""
    return _read(_decode, data)


def decode_shown(data: bytes | memoryview) -> Any:
    """Like `decode_value`, for views: "***" replaces each secret."""
    return _read(_decode_shown, data)


def decode_kept(data: bytes | memoryview) -> Any:
    """Like `decode_value`, for another encoding: secrets become `Secret`."""
    return _read(_decode_kept, data)


def has_secret(data: bytes) -> bool:
    """Whether an encoded value contains a secret; raises DecodeError."""
    # a tag is one byte, so data without this byte contains no secret
    if _SECRET not in data:
        return False
    buffers: list[memoryview] = []
    _read(_make_decoder(buffers.append), data)
    return bool(buffers)


def has_reference(data: bytes) -> bool:
    """Whether an encoded value contains a reference to a member of a flow; raises DecodeError."""
    if _REF not in data:
        return False
    refs: list[Ref] = []
    replace_references(data, refs.append)
    return bool(refs)


def replace_references(data: bytes, value_of: Callable[[Ref], Any]) -> Any:
    """Decode a value as `decode_kept` does, with `value_of(reference)` for each reference."""
    decode: Callable[[bytes | memoryview], Any] = _make_decoder(lambda secret: Secret(decode(secret)), value_of)
    return _read(decode, data)


# -- encoding ------------------------------------------------------------------------------------------------


def _is_plain(value: Any, depth: int) -> bool:
    """Whether MessagePack can store the value without any of the tags above."""
    kind = type(value)  # pyright: ignore[reportUnknownVariableType]
    if kind is list:
        if PLAIN.issuperset(map(type, value)):
            return depth > 0
        inner = value
    elif kind is dict:
        if not PLAIN.issuperset(map(type, value)):
            return False
        inner = value.values()
        if PLAIN.issuperset(map(type, inner)):
            return depth > 0
    else:
        return kind in PLAIN
    if depth == 0:
        return False
    for item in inner:  # noqa: SIM110  # all() over a generator takes twice the time for each stored value
        if not _is_plain(item, depth - 1):
            return False
    return True


def _tagged(value: Any, path: Path, depth: int) -> Any:
    kind = _class(value)
    if kind is str:
        return _text(value)
    if kind is int:
        return _integer(value, path)
    if kind in PLAIN:
        return value
    if depth == 0:
        raise EncodeError(path, f"nested deeper than {MAX_DEPTH} levels, or contains itself")
    if kind is list:
        return _items(value, path, depth)
    if kind is dict:
        return _mapping(value, path, depth)
    try:
        if (tag := _TAGGED.get(kind)) is not None:
            return tag(value, path, depth)
        return _reduced(value, path, depth)
    except EncodeError:
        raise
    # encoding runs the object's own code, which can raise any error
    except Exception as error:
        raise EncodeError(path, f"{_named(value)} cannot be stored: {type(error).__name__}") from error


def _reduced(value: Any, path: Path, depth: int) -> Any:
    """Convert a subclass or an object to the nearest plain value. Decoding restores the type from the annotation."""
    if isinstance(value, Enum):
        return _tagged(value.value, path, depth - 1)
    if not isinstance(value, type) and (fields := stored_fields(value)) is not None:
        return _tagged(fields, path, depth)
    for base, plain in _BASES:
        if isinstance(value, base):
            return _tagged(plain(value), path, depth - 1)
    if (reveal := getattr(value, "get_secret_value", None)) is not None and _is_pydantic(value):
        return _secret(reveal(), path, depth)
    if (index := getattr(_class(value), "__index__", None)) is not None:
        return _integer(index(value), path)
    if _is_pydantic(value):
        return str(value)
    raise EncodeError(path, f"{_named(value)} cannot be stored")


def stored_fields(value: Any) -> Any:
    """Return the stored form of an object with declared fields, or None for other objects."""
    kind = _class(value)
    if dataclasses.is_dataclass(kind):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(kind) if field.init}
    if hasattr(kind, "__pydantic_fields__"):
        if kind.__pydantic_root_model__:
            return value.root
        names = (*kind.__pydantic_fields__, *(value.__pydantic_extra__ or ()))
        return {name: getattr(value, name) for name in names}
    if hasattr(kind, "__attrs_attrs__"):
        return {attribute.alias: getattr(value, attribute.name) for attribute in kind.__attrs_attrs__ if attribute.init}
    if hasattr(kind, "__struct_config__"):
        config = kind.__struct_config__
        tag = {} if config.tag is None else {config.tag_field: config.tag}
        return tag | {name: getattr(value, name) for name in kind.__struct_fields__}
    fields: tuple[str, ...] | None = getattr(kind, "_fields", None)
    if fields is not None and issubclass(kind, tuple):
        return dict(zip(fields, value, strict=True))
    return None


def _items(values: Iterable[Any], path: Path, depth: int) -> list[Any]:
    return [_tagged(item, (*path, index), depth - 1) for index, item in enumerate(values)]


def _mapping(value: dict[Any, Any], path: Path, depth: int) -> Any:
    if all(type(key) is str for key in value):
        try:
            return {_utf8(key): _tagged(item, (*path, key), depth - 1) for key, item in value.items()}
        except UnicodeEncodeError:
            pass
    _bounded(check_hashes, value, path)
    pairs = [
        [_tagged(key, (*path, key), depth - 1), _tagged(item, (*path, key), depth - 1)] for key, item in value.items()
    ]
    _check_hashed(value, (key for key, _ in pairs), path, "key")
    return Ext(_MAPPING, _encode(pairs))


def _unordered(code: int) -> Callable[[Any, Path, int], Ext]:
    def tag(value: Any, path: Path, depth: int) -> Ext:
        _bounded(check_hashes, value, path)
        items = _items(value, path, depth)
        _check_hashed(value, items, path, "element of a set")
        return Ext(code, _encode(items))

    return tag


def _check_hashed(values: Iterable[Any], stored: Iterable[Any], path: Path, role: str) -> None:
    """Refuse set elements and map keys that have no hash, or that equal another one after decoding."""
    if _HASHED.issuperset(map(type, values)):
        return
    seen: set[Any] = set()
    for index, (value, tagged) in enumerate(zip(values, stored, strict=True)):
        item_path = (*path, value if role == "key" else index)
        try:
            decoded = _decode(_encode(tagged))
            is_new = decoded not in seen
            seen.add(decoded)
        except TypeError:
            stands = "a mapping of its fields" if stored_fields(value) is not None else "a value without a hash"
            raise EncodeError(
                item_path, f"{_named(value)} cannot be {with_article(role)}: it is stored as {stands}"
            ) from None
        if not is_new:
            raise EncodeError(item_path, f"{_named(value)} is stored like another {role}, so one of them would be lost")


def _output(value: Output | Ref, path: Path) -> Ext:
    try:
        ref = taken(value)
    except EncodeError as error:
        raise EncodeError(path, error.reason) from None
    return Ext(_REF, _encode(2 * ref.member + ref.ended))


def _leaf(code: int, as_text: Callable[[Any], str]) -> Callable[[Any, Path, int], Ext]:
    return lambda value, _path, _depth: Ext(code, as_text(value).encode())


def _secret(value: Any, path: Path, depth: int) -> Ext:
    return Ext(_SECRET, _encode(_tagged(value, path, depth - 1)))


def _text(value: str) -> str | Ext:
    try:
        return _utf8(value)
    except UnicodeEncodeError:
        return Ext(_TEXT, value.encode("utf-8", "surrogatepass"))


def _utf8(value: str) -> str:
    value.encode()
    return value


def _integer(value: int, path: Path) -> int | Ext:
    if -(2**63) <= value < 2**64:
        return value
    _bounded(check_integer, value, path)
    return Ext(_INT, value.to_bytes(value.bit_length() // 8 + 1, "big", signed=True))


def _decimal(value: Decimal, path: Path, _depth: int) -> Ext:
    _bounded(check_decimal, value, path)
    return Ext(_DECIMAL, str(value).encode())


def _bounded(check: Callable[[Any], None], value: Any, path: Path) -> None:
    try:
        check(value)
    except BoundsError as error:
        raise EncodeError(path, str(error)) from None


def _moment(code: int) -> Callable[[Any, Path, int], Ext]:
    """Return a function that encodes a moment as ISO 8601.

    A zone's name follows the moment, if there is one (RFC 9557).
    """

    def tag(value: datetime | time, path: Path, _depth: int) -> Ext:
        text, zone = value.isoformat(), value.tzinfo
        if isinstance(zone, ZoneInfo) and _is_known(zone.key):
            text = f"{text}[{zone.key}]"
        elif zone is not None and value.utcoffset() is None:
            raise EncodeError(path, f"{_named(value)} cannot be stored: its zone {zone} has no known name")
        return Ext(code, text.encode())

    return tag


def _is_known(zone: str | None) -> bool:
    """Whether a zone can be found by its name. A zone that was made from a file can have any name or none."""
    if zone is None:
        return False
    try:
        ZoneInfo(zone)
    except (ValueError, LookupError, OSError):
        return False
    return True


_TAGGED: dict[type[Any], Callable[[Any, Path, int], Ext]] = {
    tuple: lambda value, path, depth: Ext(_TUPLE, _encode(_items(value, path, depth))),
    set: _unordered(_SET),
    frozenset: _unordered(_FROZENSET),
    datetime: _moment(_DATETIME),
    date: _leaf(_DATE, date.isoformat),
    time: _moment(_TIME),
    timedelta: lambda value, _path, _depth: Ext(_TIMEDELTA, _encode((value.days, value.seconds, value.microseconds))),
    UUID: lambda value, _path, _depth: Ext(_UUID, value.bytes),
    Decimal: _decimal,
    complex: lambda value, _path, _depth: Ext(_COMPLEX, struct.pack(">dd", value.real, value.imag)),
    Secret: lambda value, path, depth: _secret(value.get_secret_value(), path, depth),
    Ref: lambda value, path, _depth: _output(value, path),
    Output: lambda value, path, _depth: _output(value, path),
    type(INJECTED): lambda _value, _path, _depth: Ext(_INJECTED, b""),
}

_BASES: tuple[tuple[Any, Callable[[Any], Any]], ...] = (
    (str, str.__str__),
    (int, int.__int__),
    (float, float.__float__),
    ((bytes, bytearray, memoryview), bytes),
    (datetime, lambda value: datetime.combine(value.date(), value.timetz())),
    (date, lambda value: date(value.year, value.month, value.day)),
    (timedelta, lambda value: timedelta(value.days, value.seconds, value.microseconds)),
    (UUID, lambda value: UUID(int=value.int)),
    (Decimal, Decimal),
    (tuple, tuple),
    (Mapping, dict),
    ((list, deque), list),
    (frozenset, frozenset),
    (set, set),
    ((PurePath, IPv4Address, IPv4Network, IPv6Address, IPv6Network, IPv4Interface, IPv6Interface), str),
)


def _is_pydantic(value: Any) -> bool:
    return type(value).__module__.partition(".")[0] in ("pydantic", "pydantic_core")


def _class(value: object) -> Any:
    return type(value)


def _named(value: Any) -> str:
    """The type of a value with an article: "an int"."""
    kind = _class(value)
    named = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    return with_article(named)


# -- decoding ------------------------------------------------------------------------------------------------


def _list(items: Any) -> list[Any]:
    if items.__class__ is not list:
        raise ValueError("a tag of a container without a list")
    return items  # pyright: ignore[reportUnknownVariableType]


def _spread(keys: list[Any]) -> list[Any]:
    """Refuse keys of which too many have the same hash, because lookups of such keys are slow."""
    check_hashes(keys)
    return keys


def _read_pairs(pairs: list[Any]) -> dict[Any, Any]:
    keys = _spread([key for key, _ in pairs])
    return dict(zip(keys, [value for _, value in pairs], strict=True))


_READERS: dict[int, Callable[[memoryview], Any]] = {
    _DATETIME: read_moment,
    _DATE: lambda data: date.fromisoformat(short(data)),
    _TIME: read_time,
    _TIMEDELTA: read_timedelta,
    _UUID: lambda data: UUID(bytes=bytes(data)),
    _DECIMAL: read_decimal,
    _INT: read_integer,
    _COMPLEX: lambda data: complex(*struct.unpack(">dd", data)),
    _TEXT: lambda data: str(data, "utf-8", "surrogatepass"),
    _INJECTED: lambda _data: INJECTED,
}


def _make_decoder(
    read_secret: Callable[[memoryview], Any], value_of: Callable[[Ref], Any] = lambda ref: ref
) -> Callable[[bytes | memoryview], Any]:
    """Make a decoder that passes each secret to `read_secret`, also the secrets inside containers.

    `value_of` gives the value that stands in the place of a reference.
    """

    def restore(code: int, data: memoryview) -> Any:
        read = readers.get(code)
        if read is None:
            raise ValueError(f"unknown tag {code}, written by a newer release")
        return read(data)

    decode = msgspec.msgpack.Decoder(ext_hook=restore).decode
    readers: dict[int, Callable[[memoryview], Any]] = {
        **_READERS,
        _TUPLE: lambda data: tuple(_list(decode(data))),
        _SET: lambda data: set(_spread(_list(decode(data)))),
        _FROZENSET: lambda data: frozenset(_spread(_list(decode(data)))),
        _MAPPING: lambda data: _read_pairs(_list(decode(data))),
        _SECRET: read_secret,
        _REF: lambda data: value_of(read_ref(data)),
    }
    return decode


# a lambda, since `_decode` has no value until this assignment is done; the lambda looks up `_decode` at each secret
_decode: Callable[[bytes | memoryview], Any] = _make_decoder(lambda data: _decode(data))  # noqa: PLW0108
_decode_shown = _make_decoder(lambda _data: MASK, repr)
_decode_kept = _make_decoder(lambda data: Secret(_decode(data)))


def _read(decode: Callable[[bytes | memoryview], Any], data: bytes | memoryview) -> Any:
    try:
        if len(data) > TRIVIAL:
            _bounds.check(data)
        return decode(data)
    # for damaged bytes, the libraries also raise errors that their documentation omits; decoding runs no user code
    except Exception as error:
        raise DecodeError(f"stored value cannot be read: {error}") from error
