"""The table of types: for each, a value, a job that takes and returns it, and what must arrive."""

from collections import Counter, OrderedDict, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import Enum, Flag, IntEnum, StrEnum
from ipaddress import IPv4Address, IPv6Network
from pathlib import Path
from typing import (
    Annotated,
    Any,
    Generic,
    Literal,
    NamedTuple,
    NewType,
    NotRequired,
    Optional,
    TypedDict,
    TypeVar,
    Union,
    cast,
)
from uuid import UUID
from zoneinfo import ZoneInfo

import attrs
import msgspec
import pydantic
from typing_extensions import TypeAliasType

from peerjob import Job

T = TypeVar("T")


@dataclass
class Point:
    x: int
    y: float = 0.5


@dataclass(frozen=True)
class FrozenPoint:
    x: int


@dataclass(kw_only=True, slots=True)
class Order:
    lines: list[Point]
    seen: dict[str, "Pair"]
    inner: Optional["Order"] = None
    made: datetime = datetime(2026, 1, 1, tzinfo=UTC)


@dataclass
class Box(Generic[T]):
    content: T


class Pair(NamedTuple):
    left: int
    right: "Colour"


class Colour(Enum):
    RED = 1
    BLUE = "b"


class Shade(Enum):
    DARK = "d"


class Size(IntEnum):
    BIG = 3


class Name(StrEnum):
    ADA = "ada"


class Mode(Flag):
    READ = 1
    WRITE = 2


class Coordinates(Enum):
    ORIGIN = (0, 0)


@attrs.define
class Account:
    name: str
    _key: Decimal = Decimal(5)


class Model(pydantic.BaseModel):
    size: int = pydantic.Field(1, alias="Size")
    points: list[Point] = []
    when: timedelta = timedelta(0)


class Special(Model):
    extra: int = 0


class Page(pydantic.BaseModel, Generic[T]):
    items: list[T]


class Numbers(pydantic.RootModel[list[int]]):
    pass


class Struct(msgspec.Struct, tag=True):
    a: int
    b: tuple[Point, ...] = ()


class OtherStruct(msgspec.Struct, tag=True):
    a: int
    b: tuple[Point, ...] = ()


class Keys(TypedDict):
    point: Point
    note: NotRequired[str]


@dataclass
class Cat:
    name: str
    kind: Literal["cat"] = "cat"


@dataclass
class Dog:
    name: str
    kind: Literal["dog"] = "dog"


@dataclass
class Person:
    name: str
    kind: str = "person"
    age: int = 1


class Email(str):
    __slots__ = ()


class Bag(list[int]):
    pass


UserId = NewType("UserId", int)
Points = TypeAliasType("Points", list[Point])
Tree = TypeAliasType("Tree", "dict[str, Tree] | Point")  # pyright: ignore[reportInvalidTypeForm]

BERLIN = ZoneInfo("Europe/Berlin")
NOON = datetime(2026, 7, 1, 12, 30, 1, 5)  # noqa: DTZ001  # naive


SAME = object()


@dataclass(frozen=True)
class Row:
    """`arrives` is what must arrive, where that is another value than the one that was given."""

    name: str
    annotation: Any
    value: Any
    arrives: Any = SAME

    @property
    def expected(self) -> Any:
        return self.value if self.arrives is SAME else self.arrives


ROWS = [
    Row("dataclass", Point, Point(1, 2.5)),
    Row("dataclass_frozen", FrozenPoint, FrozenPoint(1)),
    Row(
        "dataclass_nested",
        Order,
        Order(lines=[Point(1)], seen={"p": Pair(1, Colour.RED)}, inner=Order(lines=[], seen={})),
    ),
    Row("dataclass_generic", Box[Point], Box(Point(1))),
    Row("dataclass_of_any", Box[Any], Box([1, "x"])),
    Row("named_tuple", Pair, Pair(1, Colour.BLUE)),
    Row("enum", Colour, Colour.RED),
    Row("enum_of_tuples", Coordinates, Coordinates.ORIGIN),
    Row("flag", Mode, Mode.READ | Mode.WRITE),
    Row("int_enum", Size, Size.BIG),
    Row("str_enum", Name, Name.ADA),
    Row("attrs", Account, Account("ada", Decimal("1.50"))),
    Row("pydantic", Model, Model(Size=2, points=[Point(1)], when=timedelta(seconds=90))),
    Row("pydantic_subclass", Special, Special(Size=2, extra=3)),
    Row("pydantic_generic", Page[Point], Page[Point](items=[Point(1)])),
    Row("pydantic_root", Numbers, Numbers([1, 2])),
    Row("msgspec", Struct, Struct(1, (Point(1),))),
    Row("typed_dict", Keys, {"point": Point(1)}),
    Row("typed_dict_whole", Keys, {"point": Point(1), "note": "n"}),
    Row("set_of_enum", set[Colour], {Colour.RED, Colour.BLUE}),
    Row("frozenset_of_str_enum", frozenset[Name], frozenset({Name.ADA})),
    Row("dict_by_enum", dict[Colour, Point], {Colour.RED: Point(1), Colour.BLUE: Point(2)}),
    Row("dict_by_date", dict[date, list[Pair]], {date(2026, 1, 1): [Pair(1, Colour.RED)]}),
    Row("dict_by_tuple", dict[tuple[int, str], int], {(1, "a"): 2}),
    Row("decimal", Decimal, Decimal("1.500")),
    Row("uuid", UUID, UUID(int=7)),
    Row("naive", datetime, NOON),
    Row("aware", datetime, NOON.replace(tzinfo=UTC)),
    Row("aware_by_offset", datetime, NOON.replace(tzinfo=timezone(timedelta(hours=5, minutes=30)))),
    Row("aware_by_zone", datetime | None, NOON.replace(tzinfo=BERLIN)),
    Row("date", date, date(2026, 2, 28)),
    Row("date_or_datetime", datetime | date, date(2026, 2, 28)),
    Row("time", time, time(1, 2, 3)),
    Row("timedelta", timedelta, timedelta(days=1, microseconds=3)),
    Row("bytes", bytes, b"\x00\xff"),
    Row("bytearray", bytearray, bytearray(b"x")),
    Row("path", Path, Path("/tmp/x")),
    Row("address", IPv4Address, IPv4Address("127.0.0.1")),
    Row("network", IPv6Network | None, IPv6Network("2001:db8::/32")),
    Row("complex", complex, 1 + 2j),
    Row("bool", bool, True),
    Row("float", float, 1e300),
    Row("big_int", int, 2**200),
    Row("big_ints", list[int], [-(2**64), 2**64, 0]),
    Row("text", str, "\u2713 \ud800"),
    Row("nested", list[dict[str, tuple[Point, ...]]], [{"a": (Point(1), Point(2)), "b": ()}, {}]),
    Row("tuple", tuple[int, Point, Colour], (1, Point(2), Colour.BLUE)),
    Row("deque", deque[Point], deque([Point(1)])),
    Row("ordered_dict", OrderedDict[str, Point], OrderedDict(b=Point(1), a=Point(2))),
    Row("counter", Counter[str], Counter("aab")),
    Row("sequence", Sequence[Point], (Point(1),)),
    Row("mapping", Mapping[str, Colour], {"a": Colour.RED}),
    Row("optional", Point | None, Point(1)),
    Row("optional_none", Optional[Point], None),  # noqa: UP045  # both spellings
    Row("none_in_list", list[Point | None], [None, Point(1)]),
    Row("union_by_literal", Union[Cat, Dog], Dog("rex")),  # noqa: UP007  # both spellings
    Row("union_by_fields", Person | Dog, Dog("rex")),
    Row("union_in_list", list[Cat | Person | int], [Person("p"), Cat("c"), 5]),
    Row("union_by_tag", Struct | OtherStruct, OtherStruct(1)),
    Row("union_of_enums", Size | Shade | None, Shade.DARK),
    Row("union_of_int_enum", Size | int, Size.BIG),
    Row("union_with_text", list[int] | str, "[1]"),
    Row("union_of_containers", list[int] | tuple[int, ...] | set[int], (1, 2)),
    Row("union_of_lists", list[Cat] | list[Person], [Person("p")]),
    Row("union_of_models", Model | Special, Special(Size=1, extra=1)),
    Row("union_with_dict", Point | dict[str, int], {"a": 1}),
    Row("annotated", Annotated[Point, "note"], Point(1)),
    Row("annotated_bounds", Annotated[int, pydantic.Field(gt=0)], 5),
    Row("literal", Literal["a", 1], "a"),
    Row("literal_of_enum", Literal[Colour.RED], Colour.RED),
    Row("new_type", UserId, UserId(5)),
    Row("alias", Points, [Point(1)]),
    Row("recursive_alias", Tree, {"a": {"b": Point(1)}}),
    Row("subclass_of_str", Email, Email("a@b")),
    Row("subclass_of_list", Bag, Bag([1, 2])),
    Row("empty_list", list[Point], []),
    Row("empty_dict", dict[str, Point], {}),
    Row("empty_tuple", tuple[()], ()),
    Row("empty_set", set[Colour], set[Colour]()),
    Row("any", Any, {"a": [1, (2, {3}), NOON]}),
    # plain data, where no annotation says more, and bases, where it names these
    Row(
        "any_of_objects",
        Any,
        [Point(1), Colour.BLUE, Pair(1, Colour.RED)],
        [{"x": 1, "y": 0.5}, "b", {"left": 1, "right": 1}],
    ),
    Row("str_for_subclass", str, Email("a@b"), "a@b"),
    Row("int_for_int_enum", int, Size.BIG, 3),
    Row("int_or_int_enum", int | Size, Size.BIG, 3),
    Row("dict_for_counter", dict[str, int], Counter("aab"), {"a": 2, "b": 1}),
    Row("list_for_subclass", list[int], Bag([1]), [1]),
    Row("path_or_text", Path | str, Path("x"), "x"),
]

REFUSED = [
    Row("set_of_dataclass", set[FrozenPoint], {FrozenPoint(1)}),
    Row("set_of_named_tuple", set[Pair], {Pair(1, Colour.RED)}),
    Row("frozenset_of_any", Any, frozenset({FrozenPoint(1)})),
    Row("dict_by_dataclass", dict[FrozenPoint, int], {FrozenPoint(1): 1}),
    Row("subclass_for_base", Model, Special(Size=1, extra=1)),
    Row("subclass_in_list", list[Model], [Special(Size=1, extra=1)]),
    Row("other_class", Point, FrozenPoint(1)),
    Row("object", Any, object()),
]
"""Of no type that can be read back; the element that is named stands in WHERE."""
WHERE = {
    "set_of_dataclass": "[0]",
    "set_of_named_tuple": "[0]",
    "frozenset_of_any": "[0]",
    "dict_by_dataclass": "[FrozenPoint(x=1)]",
    "subclass_in_list": "[0]",
}


def same(value: Any, other: Any) -> bool:
    """Whether two values are equal, and of the same classes all the way down."""
    if type(value) is not type(other) or value != other:
        return False
    if isinstance(value, Mapping):
        left, right = cast(Any, value), other
        return (
            list(left) == list(right) and all(map(same, left, right)) and all(map(same, left.values(), right.values()))
        )
    if isinstance(value, list | tuple | deque):
        return all(map(same, cast(list[Any], value), cast(list[Any], other)))
    if isinstance(value, datetime | time):
        return str(value.tzinfo) == str(other.tzinfo)
    fields = getattr(value, "__dict__", None) or {
        name: getattr(value, name) for name in getattr(type(value), "__slots__", ()) if hasattr(value, name)
    }
    if isinstance(value, Enum) or not fields:
        return True
    return all(same(item, getattr(other, name)) for name, item in fields.items() if not name.startswith("__"))


def _echo(row: Row) -> Any:
    """A body that takes the value and returns it, and fails if something else arrives; importable by name."""

    def body(value: Any) -> Any:
        if not same(value, row.expected):
            raise TypeError(f"{value!r}, a {type(value).__name__}, arrived for {row.expected!r}")
        return row.value

    body.__annotations__ = {"value": row.annotation, "return": row.annotation}
    return _named(body, f"echo_{row.name}")


def _give(row: Row) -> Any:
    def body() -> Any:
        return row.value

    body.__annotations__ = {"return": row.annotation}
    return _named(body, f"give_{row.name}")


def _named(body: Any, name: str) -> Any:
    body.__name__ = body.__qualname__ = name
    globals()[name] = body
    return body


ECHOES = {row.name: Job(f"echo.{row.name}", _echo(row)) for row in ROWS}
GIVERS = {row.name: Job(f"give.{row.name}", _give(row)) for row in REFUSED}
TAKERS = {row.name: Job(f"take.{row.name}", _echo(row)) for row in REFUSED}
JOBS = [*ECHOES.values(), *GIVERS.values(), *TAKERS.values()]
IN_PROCESS = [one.with_options(run_in="process") for one in JOBS]
