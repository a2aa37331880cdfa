"""Calls against signatures: conversion by annotation, injection, and every way to be wrong."""

import itertools
import json
import re
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import Enum, Flag, IntEnum
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
    Unpack,
    cast,
    get_args,
)
from uuid import UUID

import attrs
import msgspec
import pydantic
import pydantic.dataclasses
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typing_extensions import TypeAliasType

from peerjob.handles.blocking import BlockingVerbs
from peerjob.handles.blocking_context import BlockingContext
from peerjob.handles.blocking_handles import BlockingInstance
from peerjob.handles.context import Context
from peerjob.handles.instance import Instance
from peerjob.handles.manager import Manager
from peerjob.model.codec import decode_value, encode_value
from peerjob.model.errors import ArgumentError, DecodeError, OptionError
from peerjob.model.injected import INJECTED, PLACEHOLDER, Depends, Injection
from peerjob.model.job import Job, job
from peerjob.model.worker import Worker
from peerjob.node.body.binding import Binding, StoredArgumentError


def bound(executor: Any, **options: Any) -> Binding:
    return Binding(Job("kind", executor, **options))


def through(executor: Callable[..., Any], *args: Any, **kwargs: Any) -> tuple[list[Any], dict[str, Any]]:
    """The arguments of a call, as they reach the body."""
    binding = bound(executor)
    return binding.arguments(binding.encode(args, kwargs), Context(id="run"))


def taking(annotation: Any) -> Callable[..., Any]:
    def executor(x: Any) -> None: ...

    executor.__annotations__ = {"x": annotation}
    return executor


def converted(annotation: Any, value: Any) -> Any:
    """A value after its trip through the store to a parameter of this type."""
    ((found,), kwargs) = through(taking(annotation), value)
    assert not kwargs
    return found


def problems(executor: Callable[..., Any], *args: Any, **kwargs: Any) -> list[str]:
    """What is wrong with a call; the same before it is stored and, stored without a check, before it runs."""
    binding = bound(executor)
    with pytest.raises(ArgumentError) as caught:
        binding.encode(args, kwargs)
    assert caught.value.kind == "kind"
    return list(caught.value.problems)


# -- the types that arguments may have


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


class Size(Enum):
    SMALL = 1
    BIG = 2


class Number(IntEnum):
    ONE = 1


class Mode(Flag):
    READ = 1
    WRITE = 2


@dataclass
class Point:
    x: int
    y: int = 0
    wait: timedelta = timedelta(0)


@dataclass(frozen=True, kw_only=True)
class Route:
    points: list[Point]
    next: "Route | None" = None
    colour: Colour = Colour.RED
    length: int = field(default=0, init=False)


@dataclass
class Checked:
    x: int

    def __post_init__(self) -> None:
        if self.x < 0:
            raise RuntimeError("x is negative")


class Model(pydantic.BaseModel):
    size: Annotated[int, pydantic.Field(gt=0)] = pydantic.Field(alias="Size")
    inner: "Model | None" = None


class Numbers(pydantic.RootModel[list[int]]):
    pass


@pydantic.dataclasses.dataclass
class Validated:
    x: Annotated[int, pydantic.Field(le=3)]


class Movie(TypedDict):
    title: str
    year: NotRequired[int]
    wait: NotRequired[timedelta]


@attrs.define
class Account:
    name: str
    _balance: Decimal = Decimal(0)
    points: list[Point] = attrs.field(factory=list)


class Struct(msgspec.Struct, rename="camel"):
    full_name: str
    when: date | None = None


class Cat(msgspec.Struct, tag=True):
    lives: int


class Dog(msgspec.Struct, tag=True):
    lives: int


class Pair(NamedTuple):
    left: int
    right: timedelta = timedelta(0)


UserId = NewType("UserId", int)
Pause = TypeAliasType("Pause", timedelta)
Tree = TypeAliasType("Tree", "dict[str, Tree] | int")
T = TypeVar("T")


class Opaque:
    pass


CONVERSIONS: list[tuple[Any, Any, Any]] = [
    (int, "42", 42),
    (int, 42.0, 42),
    (int, True, 1),
    (float, "1.5", 1.5),
    (float, 1, 1.0),
    (bool, "true", True),
    (bool, "no", False),
    (str, "?", "?"),
    (str, "", ""),
    (bytes, "grüß", "grüß".encode()),
    (bytes, b"\xff", b"\xff"),
    (Decimal, "1.50", Decimal("1.50")),
    (Decimal, 3, Decimal(3)),
    (UUID, "00000000-0000-0000-0000-000000000001", UUID(int=1)),
    (UUID, UUID(int=2), UUID(int=2)),
    (complex, "1+2j", 1 + 2j),
    (Path, "/tmp/x", Path("/tmp/x")),
    (None, None, None),
    # durations
    (timedelta, "5s", timedelta(seconds=5)),
    (timedelta, "1h30m", timedelta(minutes=90)),
    (timedelta, "PT1H30M", timedelta(minutes=90)),
    (timedelta, "2.5", timedelta(seconds=2.5)),
    (timedelta, 90, timedelta(seconds=90)),
    (timedelta, 0.25, timedelta(milliseconds=250)),
    (timedelta, timedelta(days=1), timedelta(days=1)),
    (timedelta | None, "5s", timedelta(seconds=5)),
    (list[timedelta], ["5s", 1], [timedelta(seconds=5), timedelta(seconds=1)]),
    (Annotated[timedelta, pydantic.Field(gt=timedelta(0))], "5s", timedelta(seconds=5)),
    (Pause, "5s", timedelta(seconds=5)),
    # times
    (datetime, "2026-01-02T03:04:05Z", datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)),
    (datetime, "2026-01-02T03:04:05", datetime(2026, 1, 2, 3, 4, 5)),  # noqa: DTZ001
    (datetime, "2026-01-02T03:04:05+01:00", datetime(2026, 1, 2, 3, 4, 5, tzinfo=timezone(timedelta(hours=1)))),
    (date, "2026-01-02", date(2026, 1, 2)),
    (time, "03:04", time(3, 4)),
    # enums, by value and by name
    (Colour, "red", Colour.RED),
    (Colour, "RED", Colour.RED),
    (Colour, Colour.BLUE, Colour.BLUE),
    (Size, 2, Size.BIG),
    (Size, "2", Size.BIG),
    (Size, "BIG", Size.BIG),
    (Number, "1", Number.ONE),
    (Number, "ONE", Number.ONE),
    (Mode, 3, Mode.READ | Mode.WRITE),
    (Mode, Mode.READ | Mode.WRITE, Mode.READ | Mode.WRITE),
    (list[Colour], ["red", "BLUE"], [Colour.RED, Colour.BLUE]),
    (dict[Colour, int], {"red": "1"}, {Colour.RED: 1}),
    (Literal["a", "b"], "a", "a"),
    # optionals and unions
    (Optional[int], None, None),  # noqa: UP045
    (Optional[int], "42", 42),  # noqa: UP045
    (int | str, "42", "42"),
    (int | list[int], "[1]", [1]),
    (Union[Point, Movie], {"title": "x"}, {"title": "x"}),  # noqa: UP007
    (Union[Movie, Point], {"x": "1"}, Point(1)),  # noqa: UP007
    (Cat | Dog, Dog(3), Dog(3)),
    (Cat | Dog, Cat(9), Cat(9)),
    (dict[str, int] | list[int], '{"a": 1}', {"a": 1}),
    (str | list[int], "[1]", "[1]"),
    # containers, and JSON text of them
    (list, '[1, "a"]', [1, "a"]),
    (list[int], "[1, 2]", [1, 2]),
    (list[int], ["1", 2], [1, 2]),
    (list[int], (1, 2), [1, 2]),
    (tuple[int, str], '[1, "a"]', (1, "a")),
    (tuple[int, ...], ["1", "2"], (1, 2)),
    (set[int], "[1, 1]", {1}),
    (frozenset[int], [1, 2], frozenset({1, 2})),
    (deque[int], [1], deque([1])),
    (Sequence[int], "[1]", [1]),
    (Sequence[int], (1, "2"), (1, 2)),
    (Iterable[int], ["1"], [1]),
    (Iterable[int], {1}, {1}),
    (Iterable[int], (1,), (1,)),
    (dict[str, int], ' {"a": "1"}', {"a": 1}),
    (dict[int, timedelta], {"1": "5s"}, {1: timedelta(seconds=5)}),
    (Mapping[str, list[int]], {"a": "[1]"}, {"a": [1]}),
    (OrderedDict[str, int], {"a": 1}, OrderedDict(a=1)),
    (list[list[Point]], '[[{"x": 1}]]', [[Point(1)]]),
    # classes with fields, from themselves, a mapping and JSON text
    (Point, Point(1, 2, timedelta(1)), Point(1, 2, timedelta(1))),
    (Point, {"x": "1", "wait": "5s"}, Point(1, 0, timedelta(seconds=5))),
    (Point, '{"x": 1, "y": 2}', Point(1, 2)),
    (Route, Route(points=[Point(1)], next=Route(points=[])), Route(points=[Point(1)], next=Route(points=[]))),
    (Route, {"points": [{"x": 1}], "colour": "BLUE"}, Route(points=[Point(1)], colour=Colour.BLUE)),
    (Model, Model(Size=1, inner=Model(Size=2)), Model(Size=1, inner=Model(Size=2))),
    (Model, {"Size": "1"}, Model(Size=1)),
    (Model, '{"Size": 1, "inner": {"Size": 2}}', Model(Size=1, inner=Model(Size=2))),
    (list[Model], [Model(Size=1), {"Size": 2}], [Model(Size=1), Model(Size=2)]),
    (Numbers, Numbers([1, 2]), Numbers([1, 2])),
    (Numbers, "[1]", Numbers([1])),
    (Validated, Validated(3), Validated(3)),
    (Validated, '{"x": "2"}', Validated(2)),
    (Movie, {"title": "x", "year": "1999", "wait": "5s"}, {"title": "x", "year": 1999, "wait": timedelta(seconds=5)}),
    (Movie, '{"title": "x"}', {"title": "x"}),
    (Account, Account("ada", Decimal(5), [Point(1)]), Account("ada", Decimal(5), [Point(1)])),
    (Account, {"name": "ada", "balance": "5"}, Account("ada", Decimal(5))),
    (Account, {"name": "ada", "_balance": "5"}, Account("ada", Decimal(5))),
    (Account, '{"name": "ada", "points": [{"x": 1}]}', Account("ada", points=[Point(1)])),
    (Struct, Struct("ada", date(2026, 1, 1)), Struct("ada", date(2026, 1, 1))),
    (Struct, '{"fullName": "ada", "when": "2026-01-01"}', Struct("ada", date(2026, 1, 1))),
    (Pair, Pair(1, timedelta(2)), Pair(1, timedelta(2))),
    (Pair, {"left": "1", "right": "5s"}, Pair(1, timedelta(seconds=5))),
    (Pair, '[1, "5s"]', Pair(1, timedelta(seconds=5))),
    (Pair, [1], Pair(1)),
    # the rest
    (UserId, "5", 5),
    (Tree, {"a": {"b": 1}}, {"a": {"b": 1}}),
    (Any, {"x": (1, {2})}, {"x": (1, {2})}),
    (object, (1,), (1,)),
    (T, "5", "5"),
]


@pytest.mark.parametrize(("annotation", "value", "expected"), CONVERSIONS, ids=itertools.count())
def test_conversion(annotation: Any, value: Any, expected: Any) -> None:
    found = converted(annotation, value)
    assert found == expected
    assert type(found) is type(expected)


@pytest.mark.parametrize(("annotation", "value", "expected"), CONVERSIONS, ids=itertools.count())
def test_what_is_stored_is_what_was_given(annotation: Any, value: Any, expected: Any) -> None:
    stored = decode_value(bound(taking(annotation)).encode((value,), {}))
    assert stored == [[decode_value(encode_value(value))], {}]


MISFITS: list[tuple[Any, Any, str]] = [
    (int, "x", r"x: .*integer.* \(got 'x'\)"),
    (int, 42.5, r"x: .*fractional part \(got 42.5\)"),
    (int, None, "x: .*integer"),
    (str, 42, "x: .*string"),
    (bool, "maybe", "x: .*boolean"),
    (timedelta, "00:05", r"x: not a duration: '00:05'"),
    (timedelta, "soon", "x: not a duration"),
    (timedelta, True, "x: expected a duration"),
    (timedelta, "1e400", "x: a duration out of range"),
    (timedelta, float("inf"), "x: a duration out of range"),
    (timedelta, float("nan"), "x: "),
    (Annotated[timedelta, pydantic.Field(gt=timedelta(0))], "-5s", "x: .*greater than"),
    (Annotated[int, pydantic.Field(gt=0)], "-1", "x: .*greater than 0"),
    (datetime, "yesterday", "x: .*datetime"),
    (UUID, "1", "x: .*UUID"),
    (Decimal, "x", "x: .*decimal"),
    (Colour, "green", "x: .*'red' or 'blue'"),
    (Literal["a"], "b", "x: .*'a'"),
    (list[int], "[1, 2", "x: not valid JSON"),
    (list[int], "1, 2", "x: .*list"),
    (list[int], '["a", 1, "b"]', r"x\[0\]: .*\nx\[2\]: "),
    (list[int], '{"a": 1}', "x: .*list"),
    (Iterable[int], ["a"], "x.*: .*integer"),
    (dict[str, int], '{"a": "b"}', r"x\['a'\]: .*integer"),
    (dict[str, int], "[1]", "x: .*dict"),
    (tuple[int, int], [1], "x.*: "),
    (Point, {"y": "b"}, r"x\['x'\]: Field required.*\nx\['y'\]: "),
    (Point, {"x": 1, "z": 2}, r"x\['z'\]: Extra inputs"),
    (Point, "[1]", "x: expected a Point, as a mapping of its fields or JSON text of one"),
    (Point, 5, "x: expected a Point"),
    (list[Route], [{"points": [{"x": "a"}]}], r"x\[0\]\['points'\]\[0\]\['x'\]: .*integer"),
    (Checked, {"x": -1}, "x: RuntimeError: x is negative"),
    (Model, {"Size": 0}, r"x\['Size'\]: .*greater than 0"),
    (Model, '{"Size": 1', "x: not valid JSON"),
    (Movie, {"year": 1}, r"x\['title'\]: Field required"),
    (Account, {"balance": "x"}, r"x\['name'\]: Field required.*\nx\['balance'\]: "),
    (Struct, {"fullName": 1}, r"x\['full_name'\]: "),
    (Pair, [1, 2, 3], "x: Pair has 2 fields, not 3"),
    (Cat, Dog(1), "x: expected the tag 'Cat'"),
    (Opaque, "x", "x: .*instance of"),
    (int, object(), "x: an object cannot be stored"),
    (Any, {"a": [object()]}, r"x\['a'\]\[0\]: an object cannot be stored"),
    (Point, Point(1, y=object()), r"x\['y'\]: an object cannot be stored"),  # type: ignore[arg-type]
    (int, INJECTED, "x: a placeholder, where an argument is needed"),
    (Any, INJECTED, "x: a placeholder, where an argument is needed"),
]


@pytest.mark.parametrize(("annotation", "value", "problem"), MISFITS, ids=itertools.count())
def test_what_does_not_convert(annotation: Any, value: Any, problem: str) -> None:
    assert re.match(problem, "\n".join(problems(taking(annotation), value)), re.DOTALL)


@pytest.mark.parametrize(("annotation", "value"), [(int, "x"), (Point, {"y": 1}), (int, INJECTED)])
def test_a_wrong_call_that_was_stored_unchecked_never_runs(annotation: Any, value: Any) -> None:
    with pytest.raises(StoredArgumentError):
        bound(taking(annotation)).arguments(encode_value([[value], {}]), Context())


def test_a_part_of_a_subclass_is_refused_rather_than_cut_off() -> None:
    @dataclass
    class Deep(Point):
        z: int = 0

    assert problems(taking(Point), Deep(1, z=3)) == ["x['z']: Extra inputs are not permitted (got 3)"]


def test_annotations_that_mean_nothing_take_anything() -> None:
    for annotation in ("a note", 5, [int], "Undefined[int]"):
        assert converted(annotation, "42") == "42"


def test_fields_that_cannot_be_resolved_take_anything() -> None:
    @dataclass
    class Odd:
        known: int
        unknown: "Undefined"  # type: ignore[name-defined]  # noqa: F821  # pyright: ignore[reportUndefinedVariable]

    found = converted(Odd, {"known": "1", "unknown": "2"})
    assert (found.known, found.unknown) == (1, "2")


@pytest.mark.parametrize("define", [dataclass, attrs.define], ids=["dataclass", "attrs"])
def test_a_field_that_is_declared_again_has_the_later_type_if_another_cannot_be_resolved(define: Any) -> None:
    @define
    class Base:
        number: int
        same: int

    @define
    class Derived(Base):
        number: str  # type: ignore[assignment]  # pyright: ignore[reportIncompatibleVariableOverride]
        unknown: "Undefined"  # type: ignore[name-defined]  # noqa: F821  # pyright: ignore[reportUndefinedVariable]

    found = converted(Derived, {"number": "1", "same": "2", "unknown": "3"})
    assert (found.number, found.same, found.unknown) == ("1", 2, "3")


class Box(pydantic.BaseModel, Generic[T]):
    item: T


def test_a_generic_model() -> None:
    assert converted(Box[int], {"item": "1"}) == Box[int](item=1)


def test_validators_of_the_user_may_raise_anything() -> None:
    def explode(value: Any) -> Any:
        raise KeyError(value)

    assert problems(taking(Annotated[int, pydantic.BeforeValidator(explode)]), 1) == ["x: KeyError: 1"]


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.lists(json_values) | st.dictionaries(st.text(), json_values))
def test_json_text_is_what_it_stands_for(value: Any) -> None:
    annotation: Any = list[Any] if isinstance(value, list) else dict[str, Any]
    assert converted(annotation, json.dumps(value)) == converted(annotation, value) == value


@given(st.integers(), st.text(), st.lists(st.integers()), st.timedeltas(), st.binary())
def test_exact_values_are_passed_as_they_are(a: int, b: str, c: list[int], d: timedelta, e: bytes) -> None:
    def executor(a: int, b: str, c: list[int], *, d: timedelta, e: bytes) -> None: ...

    assert through(executor, a, b, c, d=d, e=e) == ([a, b, c], {"d": d, "e": e})


# -- how many, and by which name


def shape(a: int, b: str = "b", /, c: float = 1.0, *rest: int, d: bool = False, **more: timedelta) -> None: ...


def plain(a: int, b: int = 2, *, c: int = 3) -> None: ...


def untyped(a, b=2): ...  # type: ignore[no-untyped-def]  # its calls are counted only


@pytest.mark.parametrize(
    ("args", "kwargs", "expected"),
    [
        ((1,), {}, ([1], {})),
        (("1", "x", "2", "3"), {"d": "yes"}, ([1, "x", 2.0, 3], {"d": True})),
        ((1,), {"c": 2, "wait": "5s"}, ([1], {"c": 2.0, "wait": timedelta(seconds=5)})),
        ((1,), {"b": "5s"}, ([1], {"b": timedelta(seconds=5)})),  # b itself is positional only
    ],
)
def test_places(args: tuple[Any, ...], kwargs: dict[str, Any], expected: Any) -> None:
    assert through(shape, *args, **kwargs) == expected


@pytest.mark.parametrize(
    ("executor", "args", "kwargs", "expected"),
    [
        (plain, (), {}, ["a: missing"]),
        (plain, (1, 2, 3), {}, ["takes at most 2 positional arguments, 3 given"]),
        (untyped, (), {}, ["a: missing"]),
        (untyped, (1, 2, 3), {}, ["takes at most 2 positional arguments, 3 given"]),
        (plain, (1,), {"d": 1}, ["has no parameter 'd'"]),
        (plain, (1,), {"a": 1}, ["a: given by position and by name"]),
        (shape, ("1", "b", 1.0, "x", 2, "y"), {}, [r"rest\[0\]: .*", r"rest\[2\]: .*"]),
        (shape, (), {"a": 1}, ["a: missing"]),
        (shape, (1,), {"pause": "soon"}, ["pause: not a duration.*"]),
    ],
)
def test_wrong_calls(executor: Any, args: tuple[Any, ...], kwargs: dict[str, Any], expected: list[str]) -> None:
    found = problems(executor, *args, **kwargs)
    assert len(found) == len(expected)
    for problem, pattern in zip(found, expected, strict=True):
        assert re.fullmatch(pattern, problem)


def test_every_problem_is_listed() -> None:
    def executor(a: int, b: timedelta, c: Point, d: Any, e: int, *, f: int) -> None: ...

    found = problems(executor, "x", "soon", {"y": "z"}, object(), nope=1)
    assert [problem.split(":")[0] for problem in found] == [
        "has no parameter 'nope'",
        "e",
        "f",
        "a",
        "b",
        "c['x']",
        "c['y']",
        "d",
    ]


class Keys(TypedDict):
    size: int
    name: NotRequired[str]


def test_keywords_of_a_typed_dict() -> None:
    def executor(**keys: Unpack[Keys]) -> None: ...

    assert through(executor, size="1") == ([], {"size": 1})
    assert problems(executor, nme="x") == ["has no parameter 'nme'", "size: missing"]


def test_a_callable_without_a_signature_takes_anything() -> None:
    assert through(dict, [(1, 2)], a=1) == ([[(1, 2)]], {"a": 1})


def test_a_method_and_a_callable_object() -> None:
    class Service:
        def method(self, x: int) -> None: ...

        def __call__(self, y: timedelta) -> None: ...

    assert through(Service().method, "1") == ([1], {})
    assert through(Service(), "5s") == ([timedelta(seconds=5)], {})


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xc1",
        encode_value(5),
        encode_value([1]),
        encode_value([1, 2]),
        encode_value([[], {}, 1]),
        encode_value("ab"),
    ],
)
def test_bytes_that_are_no_arguments(data: bytes) -> None:
    with pytest.raises(DecodeError):
        bound(plain).arguments(data, Context())


def test_arguments_nested_too_deep() -> None:
    value: Any = []
    for _ in range(99):
        value = [value]
    assert problems(lambda x: x, value)[0].startswith("nested deeper than 100")


# -- injection


class Hooks:
    def durable_run(self, context: Any, verb: str) -> Any:
        raise AssertionError(verb)

    def time_us(self) -> int:
        return 1_000_000

    def report_progress(self, context: Context, fraction: float, message: str) -> None: ...

    async def check_owner(self, context: Context) -> bool:
        return True

    async def throttle(self, context: Context, limit: str, delay_us: int) -> None: ...

    def make_instance(self, context: Context) -> Instance[Any]:
        return AN_INSTANCE

    def make_worker(self, context: Context) -> Worker:
        return Worker(number=3, node="n")

    def log_line(self, context: Context, level: int, message: str, fields: dict[str, object] | None) -> bool:
        return True


AN_INSTANCE: Instance[Any] = cast(Any, object())
A_MANAGER: Any = object()
RUN = Context(id="run", backend=Hooks(), manager=A_MANAGER)


def first(ctx: Context, x: int) -> Any:
    return ctx, x


def middle(x: int, ctx: Context, y: int = 0) -> Any:
    return x, ctx, y


def last(x: int, ctx: Context = INJECTED) -> Any:
    return x, ctx


def keyword(x: int, *, ctx: Context) -> Any:
    return x, ctx


def positional_only(x: int, y: int = 0, ctx: Context = INJECTED, /) -> Any:
    return x, y, ctx


def text(ctx: Context, name: str, *rest: str) -> Any:
    return ctx, name, *rest


@pytest.mark.parametrize("mark", [PLACEHOLDER, "?"])
@pytest.mark.parametrize(
    ("executor", "args", "kwargs", "expected"),
    [
        (first, (5,), {}, (RUN, 5)),
        (first, ("mark", 5), {}, (RUN, 5)),
        (first, ("mark",), {"x": 5}, (RUN, 5)),
        (first, (5,), {"ctx": "mark"}, (RUN, 5)),
        (first, (), {"x": 5}, (RUN, 5)),
        (middle, (1, 2), {}, (1, RUN, 2)),
        (middle, (1, "mark", 2), {}, (1, RUN, 2)),
        (middle, (1,), {}, (1, RUN, 0)),
        (middle, (1,), {"y": 2}, (1, RUN, 2)),
        (last, ("5",), {}, (5, RUN)),
        (last, (5, "mark"), {}, (5, RUN)),
        (keyword, (5,), {}, (5, RUN)),
        (keyword, (5,), {"ctx": "mark"}, (5, RUN)),
        (positional_only, (1,), {}, (1, 0, RUN)),
        (positional_only, (1, 2, "mark"), {}, (1, 2, RUN)),
        (text, ("mark", "x", "?"), {}, (RUN, "x", "?")),
        (text, ("x", "?"), {}, (RUN, "x", "?")),
    ],
)
def test_an_injected_parameter_wherever_it_stands(
    executor: Any, args: tuple[Any, ...], kwargs: dict[str, Any], expected: Any, mark: Any
) -> None:
    args = tuple(mark if one == "mark" else one for one in args)
    kwargs = {name: mark if one == "mark" else one for name, one in kwargs.items()}
    binding = bound(executor)
    # the second was stored by a node that does not know the job, and so could not sort it out
    for data in (binding.encode(args, kwargs), encode_value([list(args), kwargs])):
        found, named = binding.arguments(data, RUN)
        assert executor(*found, **named) == expected


@pytest.mark.parametrize("name", ["?", "x"])
def test_a_question_mark_stays_text_where_text_is_wanted(name: str) -> None:
    def executor(name: str, ctx: Context, *, note: str = "") -> None: ...

    for one, args in ((executor, (name,)), (text, (name,)), (text, (PLACEHOLDER, name)), (text, ("?", name))):
        binding = bound(one)
        found, kwargs = binding.arguments(binding.encode(args, {}), RUN)
        assert name in found
        assert RUN in [*found, *kwargs.values()]
    binding = bound(executor)
    assert binding.arguments(binding.encode(("a",), {"note": name}), RUN) == (["a"], {"note": name, "ctx": RUN})


def test_everything_that_can_be_injected() -> None:
    def executor(
        ctx: Context, node: Manager, one: Instance[int] | None, worker: Worker, x: int, none: Manager | None = None
    ) -> None: ...

    binding = bound(executor)
    args, kwargs = binding.arguments(binding.encode((5,), {}), RUN)
    assert args == [RUN, A_MANAGER, AN_INSTANCE, Worker(number=3, node="n"), 5]
    assert kwargs == {"none": A_MANAGER}


def test_a_run_that_has_none_gives_none() -> None:
    def executor(node: Manager, one: Instance[int], worker: Worker) -> None: ...

    binding = bound(executor)
    found = binding.arguments(binding.encode((), {}), Context())
    assert found == ([], {"node": None, "one": None, "worker": None})


async def test_blocking_twins() -> None:
    def executor(node: BlockingVerbs, one: BlockingInstance[int]) -> None: ...

    binding = bound(executor)
    args, kwargs = binding.arguments(binding.encode((), {}), RUN)
    assert args == []
    assert kwargs["node"].manager is A_MANAGER
    assert kwargs["one"].instance is AN_INSTANCE


def test_a_caller_cannot_pass_injected_values() -> None:
    assert problems(last, 5, Context()) == ["ctx: supplied by the node; leave it out"]
    assert problems(last, 5, ctx=Context()) == ["ctx: supplied by the node; leave it out"]
    assert problems(last, 5, 6) == ["takes at most 1 positional argument, 2 given"]


def test_a_resource_is_left_open_for_its_value() -> None:
    def executor(x: int, db: str = Depends(lambda: "db")) -> None: ...

    binding = bound(executor)
    data = binding.encode(("1",), {})
    assert list(binding.resources) == ["db"]
    assert binding.arguments(data, RUN, {"db": "the db"}) == ([1], {"db": "the db"})
    assert problems(executor, 1, db="mine") == ["db: supplied by the node; leave it out"]


# -- what a job can be


def test_signature_hash() -> None:
    assert bound(last).signature_hash == bound(first).signature_hash
    assert bound(last).signature_hash != bound(middle).signature_hash


async def later(x: int) -> int:
    return x


def sync(x: int) -> int:
    return x


@pytest.mark.parametrize(
    ("executor", "run_in", "mode"),
    [
        (later, "auto", "async"),
        (later, "async", "async"),
        (later, "process", "process"),
        (sync, "auto", "thread"),
        (sync, "thread", "thread"),
        (sync, "async", "async"),
        (sync, "process", "process"),
    ],
)
def test_modes(executor: Any, run_in: Any, mode: str) -> None:
    assert bound(executor, run_in=run_in).mode(run_in) == mode


def generator() -> Any:
    yield 1


async def async_generator() -> Any:
    yield 1


def uses_instance(one: Instance[int]) -> None: ...
def uses_resource(db: str = Depends(lambda: "db")) -> None: ...
def uses_context(ctx: Context, worker: Worker) -> None: ...


def marked(x: int = INJECTED) -> None: ...


REFUSED: list[tuple[Any, str, str]] = [
    (generator, "auto", "executor: expected a function that returns"),
    (async_generator, "auto", "executor: expected a function that returns"),
    (later, "thread", "run_in: expected 'async' or 'process'"),
    (lambda: 1, "process", "run_in: .*cannot be imported by name"),
    (uses_instance, "process", "one: expected Context alone"),
    (uses_resource, "process", "db: expected Context alone"),
    (marked, "auto", "x: expected Context, Instance"),
]


@pytest.mark.parametrize(("executor", "run_in", "problem"), REFUSED)
def test_what_can_never_run_is_refused(executor: Any, run_in: Any, problem: str) -> None:
    with pytest.raises(OptionError, match=problem):
        bound(executor, run_in=run_in)


def test_a_context_in_a_process_is_fine() -> None:
    assert bound(uses_context, run_in="process").mode("process") == "process"


SUPPLIED: dict[str, Any] = {
    "context": Context,
    "manager": Manager,
    "instance": Instance[int],
    "worker": Worker,
    "blocking manager": BlockingVerbs,
    "blocking instance": BlockingInstance[int],
    "blocking context": BlockingContext,
}
"""All that a node supplies by annotation."""


@pytest.mark.parametrize("optional", [False, True])
@pytest.mark.parametrize(("run_in", "is_async"), [("auto", False), ("async", False), ("auto", True)])
@pytest.mark.parametrize("injected", get_args(Injection))
def test_an_async_function_gets_no_twin_that_blocks(
    injected: Injection, run_in: str, is_async: bool, optional: bool
) -> None:
    def asks(it: Any) -> None: ...
    async def asks_later(it: Any) -> None: ...

    executor = asks_later if is_async else asks
    executor.__annotations__ = {"it": SUPPLIED[injected] | None if optional else SUPPLIED[injected]}
    if is_async and injected.startswith("blocking"):
        with pytest.raises(OptionError, match=r"it: .*must not block"):
            bound(executor, run_in=run_in)
    else:
        assert [parameter.injected for parameter in bound(executor, run_in=run_in).signature.supplied] == [injected]


def asks_for_context(it: Context) -> None: ...
def asks_for_manager(it: Manager) -> None: ...
def asks_for_instance(it: Instance[int]) -> None: ...
def asks_for_worker(it: Worker) -> None: ...
def asks_for_blocking_manager(it: BlockingVerbs) -> None: ...
def asks_for_blocking_instance(it: BlockingInstance[int]) -> None: ...
def asks_for_blocking_context(it: BlockingContext) -> None: ...


@pytest.mark.parametrize("injected", get_args(Injection))
def test_a_process_gets_only_what_needs_no_node(injected: Injection) -> None:
    executor = globals()[f"asks_for_{injected.replace(' ', '_')}"]
    if injected in ("context", "worker"):
        assert bound(executor, run_in="process").mode("process") == "process"
    else:
        with pytest.raises(OptionError, match="it: expected Context alone"):
            bound(executor, run_in="process")


def test_a_handle_cannot_run() -> None:
    with pytest.raises(OptionError, match="a callable, to run job 'elsewhere' here"):
        Binding(Job("elsewhere"))


def test_a_decorated_job_can_run_in_a_process() -> None:
    assert bound(decorated.executor, run_in="process").import_path.endswith("test_binding:decorated")


@job(kind="decorated")
def decorated(x: int) -> int:
    return x
