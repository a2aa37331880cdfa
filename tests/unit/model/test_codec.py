"""The codec brings every value back as it went, and refuses the rest by name."""

import dataclasses
import math
from collections import OrderedDict, UserDict, deque
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import Enum, Flag, IntEnum, StrEnum
from ipaddress import ip_address, ip_network
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import Any, NamedTuple
from uuid import UUID
from zoneinfo import TZPATH, ZoneInfo

import attrs
import msgspec
import pydantic
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from peerjob.model.bounds import MAX_DEPTH
from peerjob.model.codec import decode_value, encode_call, encode_value
from peerjob.model.errors import DecodeError, EncodeError, PeerjobError
from peerjob.model.injected import INJECTED
from peerjob.model.json_text import to_json
from support.searches import examples

BERLIN = ZoneInfo("Europe/Berlin")

keys: st.SearchStrategy[Any] = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary()
    | st.decimals(allow_nan=False)
    | st.uuids()
    | st.dates()
    | st.times()
    | st.timedeltas()
    | st.datetimes()
    | st.datetimes(timezones=st.just(UTC) | st.timezones())
    | st.complex_numbers(allow_nan=False)
)
scalars = keys | st.text(st.characters(categories=["Cs", "L"]))


def containers(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    hashable = keys | st.tuples(keys, keys) | st.frozensets(keys, max_size=3)
    return (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(), inner, max_size=4)
        | st.dictionaries(hashable, inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.sets(hashable, max_size=4)
        | st.frozensets(hashable, max_size=4)
    )


values = st.recursive(scalars, containers, max_leaves=20)


@pytest.mark.search
@given(values)
@settings(max_examples=examples(100))
def test_every_value_comes_back_as_it_went(value: Any) -> None:
    found = decode_value(encode_value(value))
    assert found == value
    assert shape(found) == shape(value)


def shape(value: Any) -> Any:
    """Types all the way down, since 1 == True == 1.0 and equal times may have different zones."""
    kind: Any = value.__class__
    if kind is dict:
        return dict, [(shape(key), shape(item)) for key, item in value.items()]
    if kind in (list, tuple):
        return kind, [shape(item) for item in value]
    if kind in (set, frozenset):
        return kind, len(value)
    if kind is datetime:
        return datetime, value.utcoffset(), getattr(value.tzinfo, "key", None)
    return kind


@given(values)
def test_the_bytes_of_a_decoded_value_decode_to_the_same(value: Any) -> None:
    once = decode_value(encode_value(value))
    assert decode_value(encode_value(once)) == once


@given(st.binary(max_size=64))
def test_damaged_bytes_raise_a_decode_error_or_give_a_value(data: bytes) -> None:
    try:
        value = decode_value(data)
    except DecodeError:
        return
    again = decode_value(encode_value(value))
    assert "nan" in repr(value).lower() or again == value  # in this order: a signalling one cannot be compared


@given(values, st.data())
def test_cut_bytes_are_refused(value: Any, data: st.DataObject) -> None:
    encoded = encode_value(value)
    cut = data.draw(st.integers(0, len(encoded) - 1))
    with pytest.raises(DecodeError):
        decode_value(encoded[:cut])


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_floats_that_json_lacks_survive(number: float) -> None:
    (found,) = decode_value(encode_value([number]))
    assert found == number or (math.isnan(found) and math.isnan(number))


@pytest.mark.parametrize("power", [62, 63, 64, 65, 14_000])
@pytest.mark.parametrize("step", [-1, 0, 1])
@pytest.mark.parametrize("sign", [-1, 1])
def test_large_integers_come_back(power: int, step: int, sign: int) -> None:
    number = sign * 2**power + step
    assert decode_value(encode_value({"n": [number]})) == {"n": [number]}


def test_a_zone_keeps_its_name_and_the_fold() -> None:
    for fold in (0, 1):
        moment = datetime(2026, 10, 25, 2, 30, fold=fold, tzinfo=BERLIN)
        found = decode_value(encode_value(moment))
        assert (found.tzinfo, found.fold, found.utcoffset()) == (BERLIN, fold, moment.utcoffset())


def test_a_fixed_offset_down_to_the_microsecond() -> None:
    zone = timezone(timedelta(hours=1, seconds=1, microseconds=1))
    moment = datetime(2026, 1, 1, tzinfo=zone)
    assert decode_value(encode_value(moment)).utcoffset() == zone.utcoffset(None)


def test_a_time_with_a_named_zone() -> None:
    assert decode_value(encode_value(time(2, 30, tzinfo=BERLIN))) == time(2, 30, tzinfo=BERLIN)


def test_the_placeholder_stays_itself() -> None:
    assert decode_value(encode_value([INJECTED]))[0] is INJECTED


def test_a_zone_that_no_name_leads_to_goes_by_its_offset(berlin_of_a_file: ZoneInfo) -> None:
    moment = datetime(2026, 7, 1, 12, tzinfo=berlin_of_a_file)
    found = decode_value(encode_value(moment))
    assert (found, found.utcoffset()) == (moment, timedelta(hours=2))
    with pytest.raises(EncodeError, match=r"\['at'\].*zone"):
        encode_value({"at": time(12, tzinfo=berlin_of_a_file)})


@pytest.fixture(params=["No/Such_Zone", "../outside", None])
def berlin_of_a_file(request: pytest.FixtureRequest) -> ZoneInfo:
    files = [Path(folder, "Europe/Berlin") for folder in TZPATH]
    file = next((one for one in files if one.exists()), None)
    if file is None:
        pytest.skip("no zone files on this machine")
    with file.open("rb") as data:
        return ZoneInfo.from_file(data, key=request.param)


# -- things that only the annotation makes whole again


class Colour(Enum):
    RED = "red"


class Size(IntEnum):
    BIG = 3


class Name(StrEnum):
    ADA = "ada"


class Mode(Flag):
    READ = 1
    WRITE = 2


@dataclasses.dataclass
class Point:
    x: int
    y: Any
    cached: int = dataclasses.field(default=9, init=False)


class Model(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="allow")
    size: int = pydantic.Field(1, alias="Size")
    secret: pydantic.SecretStr = pydantic.SecretStr("s")
    url: pydantic.AnyUrl = pydantic.AnyUrl("http://x/")


class Numbers(pydantic.RootModel[list[int]]):
    pass


@attrs.define
class Account:
    name: str
    _key: int = 5


class Struct(msgspec.Struct, tag=True):
    a: int
    b: str = "x"


class Pair(NamedTuple):
    left: int
    right: Any


class Text(str):
    __slots__ = ()


class Whole(int):
    pass


class Moment(datetime):
    pass


class Index:
    def __index__(self) -> int:
        return 7


@pytest.mark.parametrize(
    ("value", "stored"),
    [
        (Colour.RED, "red"),
        (Size.BIG, 3),
        (Name.ADA, "ada"),
        (Mode.READ | Mode.WRITE, 3),
        (Point(1, (2,)), {"x": 1, "y": (2,)}),
        (
            Model.model_validate({"Size": 2, "more": 3}),
            {"size": 2, "secret": "s", "url": "http://x/", "more": 3},
        ),
        (Numbers([1, 2]), [1, 2]),
        (Account("ada"), {"name": "ada", "key": 5}),
        (Struct(1), {"type": "Struct", "a": 1, "b": "x"}),
        (Pair(1, {2}), {"left": 1, "right": {2}}),
        (Text("t"), "t"),
        (Whole(4), 4),
        (Moment(2026, 1, 1, 1, 2, 3, tzinfo=UTC), datetime(2026, 1, 1, 1, 2, 3, tzinfo=UTC)),
        (bytearray(b"x"), b"x"),
        (memoryview(b"x"), b"x"),
        (deque([1, 2]), [1, 2]),
        (OrderedDict[str, int](a=1), {"a": 1}),
        (UserDict({"a": 1}), {"a": 1}),
        (MappingProxyType({1: (2,)}), {1: (2,)}),
        (PurePosixPath("/a/b"), "/a/b"),
        (ip_address("::1"), "::1"),
        (ip_network("10.0.0.0/8"), "10.0.0.0/8"),
        (Index(), 7),
        ({Colour.RED: 1}, {"red": 1}),
    ],
)
def test_the_nearest_plain_value_is_stored(value: Any, stored: Any) -> None:
    found = decode_value(encode_value([value]))[0]
    assert found == stored
    assert type(found) is type(stored)


class Broken(UserDict[str, int]):
    def keys(self) -> Any:
        raise RuntimeError("no keys today")


@pytest.mark.parametrize(
    ("value", "path"),
    [
        (object(), ()),
        ([1, {"x": [object()]}], (1, "x", 0)),
        ({"f": test_the_placeholder_stays_itself}, ("f",)),
        ([Colour], (0,)),
        ([Point], (0,)),
        (Point(1, print), ("y",)),
        ({"a": (1, iter([]))}, ("a", 1)),
        ({"b": Broken()}, ("b",)),
        ({(1, 2): ValueError()}, ((1, 2),)),
    ],
)
def test_what_cannot_be_stored_is_named(value: Any, path: tuple[object, ...]) -> None:
    with pytest.raises(EncodeError) as caught:
        encode_value(value)
    assert caught.value.path == path
    assert isinstance(caught.value, PeerjobError)
    assert isinstance(caught.value, TypeError)
    assert "cannot be stored" in str(caught.value)


@dataclasses.dataclass(frozen=True)
class FrozenPoint:
    x: int


@attrs.frozen
class FrozenAccount:
    name: str


class FrozenModel(pydantic.BaseModel, frozen=True):
    size: int


class FrozenStruct(msgspec.Struct, frozen=True):
    a: int


class Steps(Enum):
    SOME = (1, [2])


class HashedDict(UserDict[str, int]):
    def __hash__(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        return len(self)


WITHOUT_HASH = [
    FrozenPoint(1),
    FrozenAccount("ada"),
    FrozenModel(size=1),
    FrozenStruct(1),
    Pair(1, 2),
    Steps.SOME,
    HashedDict({"a": 1}),
    (1, FrozenPoint(1)),
    frozenset({Pair(1, 2)}),
]


@pytest.mark.parametrize("value", WITHOUT_HASH)
def test_what_has_no_hash_when_it_is_read_is_no_element_and_no_key(value: Any) -> None:
    inside = (0,) if isinstance(value, frozenset) else ()
    for whole, path in (
        ({value}, (0, *inside)),
        ({"a": [frozenset({value})]}, ("a", 0, 0, *inside)),
        ({value: 1}, (value, *inside)),
        ([{"a": {1: 2, value: 1}}], (0, "a", value, *inside)),
    ):
        with pytest.raises(EncodeError, match=r"cannot be (an element of a set|a key)") as caught:
            encode_value(whole)
        assert caught.value.path == path


@pytest.mark.parametrize(
    "value", [{Colour.RED, "red"}, {Colour.RED: 1, "red": 2}, {PurePosixPath("a"), "a"}, {(Mode.READ,), (1,)}]
)
def test_nothing_is_lost_where_two_values_are_stored_alike(value: Any) -> None:
    with pytest.raises(EncodeError, match="one of them would be lost"):
        encode_value([value])


objects = st.sampled_from([Colour.RED, Size.BIG, Text("t"), PurePosixPath("/a"), Point(1, 2), "red", 3, *WITHOUT_HASH])
hashable_objects = objects.filter(lambda value: not isinstance(value, Point))


@given(
    st.recursive(
        scalars | objects,
        lambda inner: (
            containers(inner)
            | st.sets(keys | hashable_objects | st.tuples(hashable_objects), max_size=3)
            | st.dictionaries(keys | hashable_objects, inner, max_size=3)
        ),
        max_leaves=20,
    )
)
def test_what_is_encoded_can_be_read(value: Any) -> None:
    try:
        data = encode_value(value)
    except EncodeError as error:
        assert error.path  # noqa: PT017  # most examples are stored
        return
    assert shapeless(decode_value(data)) == shapeless(value)


def shapeless(value: Any) -> int:
    """How many values there are in containers: other tests check their classes."""
    if isinstance(value, Pair | FrozenPoint | FrozenAccount | FrozenModel | FrozenStruct | Point | Enum):
        return shapeless(decode_value(encode_value(value)))
    if isinstance(value, Mapping):
        pairs: Mapping[Any, Any] = value
        return sum(1 + shapeless(key) + shapeless(item) for key, item in pairs.items())
    if isinstance(value, list | tuple | set | frozenset | deque):
        items: Iterable[Any] = value
        return sum(1 + shapeless(item) for item in items)
    return 0


def nested(wrap: Callable[[Any], Any], depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = wrap(value)
    return value


def in_list(value: Any) -> Any:
    return [value]


def in_tuple(value: Any) -> Any:
    return (value,)


def in_dict(value: Any) -> Any:
    return {"key": value}


def in_tagged_dict(value: Any) -> Any:
    return {2**64: value}


@pytest.mark.parametrize("wrap", [in_list, in_tuple, in_dict, in_tagged_dict])
def test_depth_is_bounded(wrap: Callable[[Any], Any]) -> None:
    deepest = nested(wrap, MAX_DEPTH)
    assert decode_value(encode_value(deepest)) == deepest
    with pytest.raises(EncodeError, match="nested deeper than 100"):
        encode_value(wrap(deepest))


def test_a_path_that_cannot_be_shown_hides_nothing_else() -> None:
    with pytest.raises(EncodeError, match="cannot be stored"):
        encode_value({2**14_284: object()})


def test_a_value_that_contains_itself_is_refused() -> None:
    loop: list[Any] = []
    loop.append(loop)
    with pytest.raises(EncodeError, match="contains itself"):
        encode_value(loop)


@pytest.mark.parametrize("opening", [b"\x91", b"\x81\x01"], ids=["lists", "maps"])
def test_hostile_nesting_is_refused(opening: bytes) -> None:
    with pytest.raises(DecodeError):
        decode_value(opening * 200_000)


def test_hostile_nesting_of_tags_is_refused() -> None:
    data = b""
    for _ in range(5000):
        data = b"\xc9" + len(data).to_bytes(4, "big") + b"\x01" + data
    with pytest.raises(DecodeError):
        decode_value(data)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xc1",
        b"\x01\x02",
        b"\xdd\xff\xff\xff\xff",
        b"\xd4\x64\x00",  # an unknown tag
        b"\xd4\x09\x00",  # a UUID of one byte
        b"\xd4\x0ax",  # a Decimal that is none
        b"\xd4\x05x",  # a datetime that is none
        b"\xd4\x02\x01",  # a set of a number
        b"\xd5\x02\x91\x90",  # a set of a list
        b"\xc7\x0a\x0701:00[../]",  # a zone that is a path
        b"\xd5\x08\x91\xa0",  # a timedelta of text
    ],
)
def test_unreadable_bytes(data: bytes) -> None:
    with pytest.raises(DecodeError):
        decode_value(data)


def test_plain_values_are_plain_messagepack() -> None:
    value: dict[str, Any] = {"a": [1, -1, 1.5, None, True, "x", b"y"], "b": {}}
    assert msgspec.msgpack.decode(encode_value(value)) == value


def test_json_for_people() -> None:
    value = {
        1: (UUID(int=1), Decimal("1.50"), timedelta(seconds=5)),
        "when": [date(2026, 1, 2), datetime(2026, 1, 2, tzinfo=UTC)],
        (1, 2): {3},
        "odd": [math.nan, 2**70, b"\xff", "\ud800", 1j],
    }
    assert msgspec.json.decode(to_json(value)) == {
        "1": ["00000000-0000-0000-0000-000000000001", "1.50", "PT5S"],
        "when": ["2026-01-02", "2026-01-02T00:00:00Z"],
        "[1,2]": [3],
        "odd": ["nan", 2.0**70, "\\xff", "\\ud800", "1j"],
    }


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({(1, 2): 3}, {"[1,2]": 3}),
        ({"a": 1j}, {"a": "1j"}),
        ({frozenset({1}): None}, {"[1]": None}),
        ({1: "x"}, {"1": "x"}),
    ],
)
def test_json_for_people_of_a_mapping_with_odd_keys_or_values(value: Any, expected: Any) -> None:
    assert msgspec.json.decode(to_json(value)) == expected


def test_a_time_of_day_keeps_its_zone() -> None:
    found = decode_value(encode_value(time(9, 30, tzinfo=ZoneInfo("Europe/Berlin"))))
    assert (found.replace(tzinfo=None), found.tzinfo) == (time(9, 30), ZoneInfo("Europe/Berlin"))


@pytest.mark.parametrize(
    "args",
    [
        (),
        (1, "text", 2.5, True, None, b"bytes"),
        (2**64, "half \ud800"),
        ("x" * 5_000,),
        ([1, [2, {"a": (3,)}]], {1, 2}),
        (IntEnum("Level", "LOW").LOW,),  # type: ignore[attr-defined]  # made by a call
    ],
    ids=["none", "plain", "tagged", "long", "nested", "enum"],
)
@pytest.mark.parametrize("kwargs", [{}, {"name": 1}])
def test_a_call_is_encoded_as_the_list_of_its_arguments(args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    assert encode_call(args, kwargs) == encode_value([list(args), kwargs])


def test_a_call_with_a_value_that_cannot_be_stored_is_refused() -> None:
    with pytest.raises(EncodeError, match="object"):
        encode_call((1, object()), {})
