"""Unions: classes that are stored alike are refused at registration, all others keep their class."""

import collections
import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, make_dataclass
from enum import Enum, IntEnum, StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, NewType, NotRequired, TypedDict

import attrs
import msgspec
import pydantic
import pytest
from typing_extensions import TypeAliasType

from peerjob import ArgumentError, Job, OptionError
from peerjob.handles.context import Context
from peerjob.node.body.binding import Binding
from support.typed_values import same


@dataclass
class Dog:
    name: str


@dataclass
class Cat:
    name: str


@dataclass
class Person:
    name: str
    age: int = 1


@dataclass
class Kennel:
    pets: list[Dog | Cat]


@attrs.define
class AttrsDog:
    name: str


class NamedDog(NamedTuple):
    name: str


class StructDog(msgspec.Struct):
    name: str


class ModelDog(pydantic.BaseModel):
    name: str


class ModelCat(pydantic.BaseModel):
    name: str


class ModelKennel(pydantic.BaseModel):
    pet: ModelDog | ModelCat


class LiteralCat(pydantic.BaseModel):
    kind: Literal["cat"] = "cat"


class LiteralDog(pydantic.BaseModel):
    kind: Literal["dog"] = "dog"


class DiscriminatedKennel(pydantic.BaseModel):
    pet: LiteralCat | LiteralDog = pydantic.Field(discriminator="kind")


class DogKeys(TypedDict):
    name: str


class CatKeys(TypedDict):
    name: str
    lives: NotRequired[int]


class TaggedDog(msgspec.Struct, tag=True):
    name: str


class TaggedCat(msgspec.Struct, tag=True):
    name: str


@dataclass
class OfInt:
    x: int


@dataclass
class OfText:
    x: str


@dataclass
class WithDog:
    pet: Dog


@dataclass
class WithPerson:
    pet: Person


@dataclass
class Chain:
    next: "Chain | Dog | None"


@dataclass
class Branches:
    """Each level has twice as many objects, so a search that visits a class twice does not end."""

    left: "Branches | None"
    right: "Branches | None"
    pet: Dog | Cat


@dataclass
class Tree:
    """The field of its own class has no `None` in its annotation: so a class is often written."""

    name: str
    parent: "Tree" = None  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]


@dataclass
class Bush:
    name: str
    parent: "Bush" = None  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]


@attrs.define
class AttrsTree:
    name: str
    parent: "AttrsTree" = None  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]


class ModelTree(pydantic.BaseModel):
    name: str
    parent: "ModelTree" = None  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]


class StructTree(msgspec.Struct):
    name: str
    parent: "StructTree" = None  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]


@dataclass
class Left:
    """With `Right`, a circle of two classes."""

    name: str
    parent: "Right" = None  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]


@dataclass
class Right:
    name: str
    parent: "Left" = None  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]


@dataclass
class NumberedTree:
    name: int
    parent: "NumberedTree" = None  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]


class Red(Enum):
    R = 1


class Green(Enum):
    G = 1


class Blue(Enum):
    B = "1"


class Number(IntEnum):
    ONE = 1


class Word(StrEnum):
    ONE = "1"


Alias = TypeAliasType("Alias", Dog | Cat)
Recursive = TypeAliasType("Recursive", "dict[str, Recursive] | Dog | Cat")  # pyright: ignore[reportInvalidTypeForm]
New = NewType("New", Dog)


def chosen(value: Any) -> str:
    return "cat"


TREES: list[Any] = [Tree, Bush, AttrsTree, ModelTree, StructTree, Left, Right]
ALIKE: list[Any] = [
    Dog | Cat,
    Dog | Cat | None,
    list[Dog | Cat],
    list[Dog] | list[Cat],
    dict[str, Dog] | dict[str, Cat],
    tuple[int, Dog] | tuple[int, Cat],
    Mapping[str, tuple[Dog | Cat, ...]],
    Dog | AttrsDog,
    Dog | NamedDog,
    Dog | StructDog,
    Dog | DogKeys,
    ModelDog | ModelCat,
    Kennel,
    list[ModelKennel],
    Branches,
    Annotated[Dog | Cat, "note"],
    Alias,
    New | Cat,
    Red | Green,
    Red | int,
    Blue | str,
    Red | Literal[1],
    set[Red | Green],
    *(first | other for first, other in itertools.combinations(TREES, 2)),
]


@pytest.mark.parametrize("annotation", ALIKE, ids=str)
def test_classes_that_are_stored_alike_are_refused_at_registration(annotation: Any) -> None:
    def takes(value: Any) -> None: ...
    def gives() -> Any: ...
    def takes_more(*values: Any, **named: Any) -> None: ...

    takes.__annotations__ = {"value": annotation}
    gives.__annotations__ = {"return": annotation}
    takes_more.__annotations__ = {"named": annotation}
    for body, name in ((takes, "value"), (gives, "result"), (takes_more, "named")):
        with pytest.raises(OptionError, match=r"classes that can be told apart.*: \w+ and [\w\[\]]+ have") as caught:
            Binding(Job("kind", body))
        assert caught.value.option == name


APART: list[tuple[Any, list[Any]]] = [
    (Person | Dog, [Dog("a"), Person("a")]),
    (Dog | Person | None, [Dog("a"), Person("a"), None]),
    (OfInt | OfText, [OfInt(1), OfText("1")]),
    (OfText | OfInt, [OfInt(1), OfText("1")]),
    (WithDog | WithPerson, [WithDog(Dog("a")), WithPerson(Person("a"))]),
    (TaggedDog | TaggedCat, [TaggedDog("a"), TaggedCat("a")]),
    (LiteralDog | LiteralCat, [LiteralDog(), LiteralCat()]),
    (Annotated[LiteralDog | LiteralCat, pydantic.Field(discriminator="kind")], [LiteralDog(), LiteralCat()]),
    (DiscriminatedKennel, [DiscriminatedKennel(pet=LiteralDog())]),
    (DogKeys | CatKeys, [{"name": "a"}, {"name": "a", "lives": 9}]),
    (dict[str, str] | Dog, [Dog("a"), {"a": "b"}, {}]),
    (dict[Any, Any] | NamedDog | None, [NamedDog("a"), {"a": 1}, None]),
    (list[Mapping[str, Any] | ModelDog], [[ModelDog(name="a"), {"a": 1}]]),
    (Dog | Mapping[str, Any], [Dog("a"), {"x": 1}]),
    (tuple[int, Dog] | tuple[str, Cat], [(1, Dog("a")), ("1", Cat("a"))]),
    (list[Dog] | Dog, [[Dog("a")], Dog("a")]),
    (list[Dog] | list[Person] | list[int], [[Dog("a")], [Person("a")], [1], []]),
    (dict[int, Dog] | dict[str, Cat], [{1: Dog("a")}, {"1": Cat("a")}]),
    (list[int] | tuple[int, ...] | set[int] | frozenset[int], [[1], (1,), {1}, frozenset({1})]),
    (list[int] | str | dict[str, int], ["[1]", '{"a": 1}', [1], {"a": 1}]),
    (Red | Blue, [Red.R, Blue.B]),
    (Red | str, [Red.R, "R"]),
    (Red | Literal["x"], [Red.R, "x"]),
    (Number | str, [Number.ONE, "ONE"]),
    (Red | Literal[Red.R], [Red.R]),
    (Chain, [Chain(None), Chain(Chain(Dog("a")))]),
    (Callable[[Dog | Cat], int] | None, [None]),
    (bytes | str, [b"x", "x"]),
    (int | float | bool, [1, 1.0, True]),
    (collections.OrderedDict[str, int] | list[int], [collections.OrderedDict(a=1), [1]]),
]


@pytest.mark.parametrize(("annotation", "values"), APART, ids=lambda one: str(one)[:40])
def test_members_with_different_forms_keep_their_class(annotation: Any, values: list[Any]) -> None:
    def takes(value: Any) -> Any: ...

    takes.__annotations__ = {"value": annotation}
    binding = Binding(Job("kind", takes))
    for value in values:
        (found,), _ = binding.arguments(binding.encode((value,), {}), Context(id="run"))
        assert same(found, value), value


@pytest.mark.parametrize("other", TREES, ids=lambda other: other.__name__)
def test_classes_with_a_field_of_themselves_are_told_apart_by_another_field(other: Any) -> None:
    def takes(value: Any) -> Any: ...

    takes.__annotations__ = {"value": NumberedTree | other}
    assert Binding(Job("kind", takes)).signature.positional[0].name == "value"


def test_long_chains_of_classes_with_two_fields_are_compared_once() -> None:
    chains: list[Any] = []
    for name in ("Left", "Right"):
        chain: Any = int
        for depth in range(40):  # without a memory of pairs, 2 ** 40 comparisons
            chain = make_dataclass(f"{name}{depth}", [("first", chain), ("second", chain)])
        chains.append(chain)

    def takes(value: Any) -> Any: ...

    takes.__annotations__ = {"value": chains[0] | chains[1]}
    with pytest.raises(OptionError, match="Left39 and Right39 have the same fields"):
        Binding(Job("kind", takes))


def test_a_validator_of_ones_own_chooses() -> None:
    def takes(value: Annotated[Dog | Cat, pydantic.BeforeValidator(lambda value: Cat(**value))]) -> None: ...

    binding = Binding(Job("kind", takes))
    (found,), _ = binding.arguments(binding.encode((Cat("a"),), {}), Context(id="run"))
    assert found == Cat("a")


def test_loose_values_are_converted_to_a_member() -> None:
    def takes(value: Person | list[int] | Red) -> None: ...

    binding = Binding(Job("kind", takes))
    for loose, exact in (
        ('{"name": "a"}', Person("a")),
        ({"name": "a", "age": "2"}, Person("a", 2)),
        ("[1, 2]", [1, 2]),
        ("R", Red.R),
    ):
        (found,), _ = binding.arguments(binding.encode((loose,), {}), Context(id="run"))
        assert same(found, exact)
    with pytest.raises(ArgumentError):
        binding.encode(({"nobody": 1},), {})


class Base(pydantic.BaseModel):
    a: int


class Derived(Base):
    b: int = 0


@dataclass
class Holder:
    item: Base
    other: Any = None


@pytest.mark.parametrize(
    ("annotation", "value", "problem"),
    [
        (Base, Derived(a=1, b=2), r"value: a Derived would arrive as a Base"),
        (list[Base], [Base(a=1), Derived(a=1)], r"value\[1\]: a Derived would arrive as a Base"),
        (Holder, Holder(Derived(a=1)), r"value\['item'\]: a Derived would arrive as a Base"),
        (Holder, {"item": Derived(a=1)}, r"value\['item'\]: a Derived would arrive as a Base"),
        (dict[str, Dog], {"x": Cat("a")}, r"value\['x'\]: a Cat would arrive as a Dog"),
        (Dog, Cat("a"), r"value: a Cat would arrive as a Dog"),
        (Red, Green.G, r"value: Green.G would arrive as Red.R"),
        (set[Red], {Green.G}, r"value: Green.G would arrive as a member of another class"),
        (dict[Red, int], {Green.G: 1}, r"value\[0\]: Green.G would arrive as Red.R"),
        (list[Base] | None, [Derived(a=1)], r"value\[0\]: a Derived would arrive as a Base"),
    ],
)
def test_what_would_arrive_in_another_class_is_refused(annotation: Any, value: Any, problem: str) -> None:
    def takes(value: Any) -> None: ...

    takes.__annotations__ = {"value": annotation}
    with pytest.raises(ArgumentError, match=problem):
        Binding(Job("kind", takes)).encode((value,), {})


@pytest.mark.parametrize(
    ("annotation", "value", "found"),
    [
        (Any, Derived(a=1), {"a": 1, "b": 0}),
        (dict[str, int], Derived(a=1), {"a": 1, "b": 0}),
        (DogKeys, Dog("a"), {"name": "a"}),
        (str, Word.ONE, "1"),
        (int, Number.ONE, 1),
        (int, Red.R, 1),
        (str, Path("x"), "x"),
        (tuple[int, ...], [1], (1,)),
        (Dog, {"name": "a"}, Dog("a")),
        (Dog, '{"name": "a"}', Dog("a")),
    ],
)
def test_plain_data_and_bases_are_no_loss(annotation: Any, value: Any, found: Any) -> None:
    def takes(value: Any) -> None: ...

    takes.__annotations__ = {"value": annotation}
    binding = Binding(Job("kind", takes))
    (arrived,), _ = binding.arguments(binding.encode((value,), {}), Context(id="run"))
    assert same(arrived, found)
