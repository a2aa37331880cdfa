"""Callables of every shape: what they take, what the node supplies, and calls in place."""

import functools
import threading
from collections.abc import Callable
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated, Any, NotRequired, Optional, Required, TypedDict, Union, Unpack

import pytest

from peerjob.handles.blocking import BlockingVerbs
from peerjob.handles.blocking_handles import BlockingInstance
from peerjob.handles.context import Context
from peerjob.handles.instance import Instance
from peerjob.handles.manager import Manager
from peerjob.model.errors import NodeStateError
from peerjob.model.injected import INJECTED, PLACEHOLDER, Depends, current_run
from peerjob.model.job import Job
from peerjob.model.record import Record
from peerjob.model.signature import EMPTY, analyse, annotation_text
from peerjob.model.state import State
from peerjob.model.worker import Worker

if TYPE_CHECKING:
    from decimal import Decimal as OnlyForCheckers

    from peerjob.handles.context import Context as CheckedContext


Ctx = Context


def taken(executor: Callable[..., Any]) -> list[str]:
    return [one.name for one in analyse(executor).parameters if not one.supplied]


def supplied(executor: Any) -> dict[str, tuple[str | None, bool]]:
    return {one.name: (one.injected, one.optional) for one in analyse(executor).supplied}


def annotations(executor: Any) -> dict[str, Any]:
    return {one.name: one.annotation for one in analyse(executor).parameters}


# -- shapes


def function(x: int, y: str = "y", *rest: float, flag: bool = False, **more: int) -> None: ...


class Service:
    def method(self, x: int, ctx: Context) -> int:
        return x

    @classmethod
    def of(cls, x: int) -> int:
        return x

    @staticmethod
    def plain(x: int) -> int:
        return x

    async def later(self, x: int) -> int:
        return x


class Multiplier:
    def __init__(self, factor: int) -> None:
        self.factor = factor

    def __call__(self, x: int, *, ctx: Context = INJECTED) -> int:
        return x * self.factor


class AsyncCallable:
    __hash__ = None  # type: ignore[assignment]

    def __eq__(self, other: object) -> bool:
        return self is other

    async def __call__(self, x: int) -> int:
        return x


@functools.wraps(function)
def wrapper(*args: Any, **kwargs: Any) -> None:
    return function(*args, **kwargs)


SHAPES: list[tuple[Any, list[str], bool]] = [
    (function, ["x", "y", "rest", "flag", "more"], False),
    (wrapper, ["x", "y", "rest", "flag", "more"], False),
    (lambda a, b=1: a + b, ["a", "b"], False),  # pyright: ignore[reportUnknownLambdaType]
    (Service().method, ["x"], False),
    (Service.of, ["x"], False),
    (Service.plain, ["x"], False),
    (Service().later, ["x"], True),
    (functools.partial(Service().later), ["x"], True),
    (functools.partial(function, 1), ["y", "rest", "flag", "more"], False),
    (functools.partial(function, y="z"), ["x", "y", "flag", "more"], False),
    (Multiplier(2), ["x"], False),
    (AsyncCallable(), ["x"], True),
    (functools.partial(AsyncCallable()), ["x"], True),
    (Multiplier, ["factor"], False),
    (functools.lru_cache(function), ["x", "y", "rest", "flag", "more"], False),
    (dict, ["args", "kwargs"], False),
    (max, ["args", "kwargs"], False),
    (len, ["obj"], False),
    (Job("job", AsyncCallable()), ["x"], True),
]


@pytest.mark.parametrize(("executor", "names", "is_async"), SHAPES)
def test_shapes(executor: Callable[..., Any], names: list[str], is_async: bool) -> None:
    assert taken(executor) == names
    assert analyse(executor).is_async is is_async
    assert not analyse(executor).is_generator
    assert not analyse(executor).is_async_generator


def test_generators_are_known() -> None:
    def plain() -> Any:
        yield 1

    async def later() -> Any:
        yield 1

    class Called:
        def __call__(self) -> Any:
            yield 1

    assert all(analyse(one).is_generator for one in (plain, Called(), functools.partial(plain)))
    assert analyse(later).is_async_generator


def test_what_is_required() -> None:
    required = {one.name for one in analyse(function).parameters if one.required}
    assert required == {"x"}


# -- injection by annotation


def test_every_injectable_wherever_it_stands() -> None:
    def executor(
        ctx: Context,
        /,
        x: int,
        manager: Manager,
        *rest: int,
        worker: Worker,
        one: Instance[int],
        bare: Instance,
        twin: BlockingVerbs,
        twins: BlockingInstance[int],
    ) -> None: ...

    assert supplied(executor) == {
        "ctx": ("context", False),
        "manager": ("manager", False),
        "worker": ("worker", False),
        "one": ("instance", False),
        "bare": ("instance", False),
        "twin": ("blocking manager", False),
        "twins": ("blocking instance", False),
    }


def test_a_subclass_of_manager_is_the_node() -> None:
    class Node(Manager):
        pass

    def executor(node: Node) -> None: ...

    assert supplied(executor) == {"node": ("manager", False)}


def test_unions_and_aliases() -> None:
    def executor(
        a: Context | None,
        b: Optional[Instance[int]],  # noqa: UP045
        c: Union[Manager, BlockingVerbs],  # noqa: UP007
        d: Annotated[Context, "marked"],
        e: Ctx,
        f: Context | int,
        g: None,
        h: type[Context],
    ) -> None: ...

    assert supplied(executor) == {
        "a": ("context", True),
        "b": ("instance", True),
        "c": ("manager", False),
        "d": ("context", False),
        "e": ("context", False),
    }


def test_annotations_as_text() -> None:
    local = timedelta

    def executor(
        x: "int",
        ctx: "Context",
        one: "Instance[int] | None",
        kept: "local",  # type: ignore[valid-type]  # pyright: ignore[reportUnknownParameterType, reportInvalidTypeForm]
        parts: "list[timedelta]",
    ) -> object:
        return local

    assert supplied(executor) == {"ctx": ("context", False), "one": ("instance", True)}
    assert annotations(executor)["x"] is int
    assert annotations(executor)["kept"] is timedelta
    assert annotations(executor)["parts"] == list[timedelta]


def test_what_exists_for_checkers_alone_is_untyped_unless_marked_injected() -> None:
    def executor(
        x: "OnlyForCheckers",
        y: "list[OnlyForCheckers]",
        z: int,
        unmarked: "CheckedContext | None",
        ctx: "CheckedContext" = INJECTED,
    ) -> None: ...

    assert annotations(executor) == {"x": EMPTY, "y": EMPTY, "z": int, "unmarked": EMPTY, "ctx": EMPTY}
    assert supplied(executor) == {}

    def marked(
        ctx: "Context" = INJECTED,
        one: "Optional[peerjob.Instance[int]]" = INJECTED,  # type: ignore[name-defined]  # noqa: F821, UP045  # pyright: ignore[reportUndefinedVariable, reportUnknownParameterType]
    ) -> None: ...

    assert supplied(marked) == {"ctx": ("context", False), "one": ("instance", True)}


def test_a_resource_is_supplied() -> None:
    def executor(x: int, db: str = Depends(lambda: "db")) -> None: ...

    assert taken(executor) == ["x"]


class Keys(TypedDict, total=False):
    size: Required[int]
    name: NotRequired[str]


def test_keywords_of_a_typed_dict() -> None:
    def executor(**keys: Unpack[Keys]) -> None: ...

    assert {one.name: (one.annotation, one.required) for one in analyse(executor).parameters} == {
        "size": (int, True),
        "name": (str, False),
    }


# -- the hash


def test_the_hash_tells_what_callers_must_pass() -> None:
    def base(x: int, y: "str" = "a") -> None: ...
    def same(x: "int", ctx: Context, y: str = "b", db: int = Depends(int)) -> None: ...
    def renamed(x: int, z: str = "a") -> None: ...
    def retyped(x: float, y: str = "a") -> None: ...
    def needed(x: int, y: str) -> None: ...
    def keyword(x: int, *, y: str = "a") -> None: ...

    assert analyse(same).hash == analyse(base).hash
    others = [analyse(one).hash for one in (renamed, retyped, needed, keyword)]
    assert len({analyse(base).hash, *others}) == 5


def test_the_hash_is_the_same_in_every_process() -> None:
    def executor(x: Annotated[int, lambda: 1], y: dict[str, list[int] | None], z: Callable[[int], str]) -> None: ...

    assert "at 0x" in repr(annotations(executor)["x"])
    assert annotation_text(annotations(executor)["y"]) == "dict[str, Union[list[int], NoneType]]"
    assert annotation_text(annotations(executor)["z"]) == "collections.abc.Callable[[int], str]"
    assert "at 0x" not in annotation_text(annotations(executor)["x"])
    # not Python's own hash, which differs from process to process
    assert analyse(function).hash == "fd9e602c630885aa"


# -- calls in place


def in_place(executor: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    return Job("kind", executor)(*args, **kwargs)


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
        return Instance(None, record(context.id))

    def make_worker(self, context: Context) -> Worker:
        return Worker(number=3, node="n")

    def log_line(self, context: Context, level: int, message: str, fields: dict[str, object] | None) -> bool:
        return True


def record(id: str) -> Record:
    return Record(
        id=id,
        kind="kind",
        state=State.PROCESSING,
        spec=b"",
        priority=0,
        due_us=0,
        attempts=1,
        crashes=0,
        losses=0,
        fence=1,
        owner="",
        history=(),
    )


def everything(
    ctx: Context, x: int, one: Instance[int] | None = INJECTED, *, worker: Worker = INJECTED
) -> tuple[Any, ...]:
    return ctx, x, one, worker


def one_instance(x: int, one: Instance[int]) -> tuple[Any, ...]:
    return one.state, one.args, one.kwargs, one.log


def one_record(one: Instance[int]) -> Record:
    return one.record


def test_outside_a_job_they_are_detached() -> None:
    ctx, x, one, worker = in_place(everything, PLACEHOLDER, 5)
    assert isinstance(ctx, Context)
    assert (ctx.detached, ctx.cancelled, x, worker.number, one) == (True, False, 5, 0, None)
    state, args, kwargs, log = in_place(one_instance, 5, one="?")
    assert (state, args, kwargs) == (State.PROCESSING, (5,), {"one": "?"})
    log.info("goes nowhere and does no harm")


def test_outside_a_job_an_instance_is_in_a_first_attempt_that_no_claim_has_begun() -> None:
    record = in_place(one_record)
    assert (record.attempts, record.crashes, record.losses, record.fence, record.priority) == (1, 0, 0, 0, 0)
    assert (record.kind, record.owner, record.history) == ("", "", ())


@pytest.mark.parametrize(
    ("args", "kwargs"),
    [
        ((5,), {}),
        ((PLACEHOLDER, 5), {}),
        (("?", 5), {}),
        ((), {"x": 5}),
        ((), {"ctx": "?", "x": 5}),
        (("?",), {"x": 5}),
    ],
)
def test_inside_a_job_they_are_the_runs_own(args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    run = Context(id="i", backend=Hooks())
    token = current_run.set(run)
    try:
        ctx, x, one, worker = in_place(everything, *args, **kwargs)
    finally:
        current_run.reset(token)
    assert ctx is run
    assert (x, one.id) == (5, "i")
    assert worker == Worker(number=3, node="n")


def test_what_the_caller_passes_wins() -> None:
    mine = Context(id="mine")
    call = functools.partial(in_place, everything)
    assert call(mine, 5)[0] is mine
    assert call(5, ctx=mine)[0] is mine
    assert call("a double of a context", 5)[0] == "a double of a context"
    worker = Worker(number=7, node="n")
    assert call("?", 5, worker=worker)[3] is worker


def test_a_question_mark_is_text_where_text_is_wanted() -> None:
    def executor(ctx: Context, name: str, rest: str = "") -> tuple[str, str]:
        return name, rest

    call = functools.partial(in_place, executor)
    assert call("?") == ("?", "")
    assert call("?", "?") == ("?", "")
    assert call("?", "?", "?") == ("?", "?")


def test_places_that_cannot_be_named() -> None:
    def executor(x: int, y: int = 2, ctx: Context = INJECTED, /, z: int = 3) -> tuple[Any, ...]:
        return x, y, ctx.detached, z

    call = functools.partial(in_place, executor)
    assert call(1) == (1, 2, True, 3)
    assert call(1, 5) == (1, 5, True, 3)
    assert call(1, 5, 6) == (1, 5, True, 6)
    assert call(1, 5, z=7) == (1, 5, True, 7)


def _with_context(value: Any, one: Context = INJECTED) -> list[Any]:
    return [value, one]


def _with_instance(value: Any, one: Instance[Any] = INJECTED) -> list[Any]:
    return [value, one]


def _with_worker(value: Any, one: Worker = INJECTED) -> list[Any]:
    return [value, one]


@pytest.mark.parametrize("value", [object(), threading.Lock(), iter(()), print, {"deep": [object()]}], ids=type)
@pytest.mark.parametrize("body", [_with_context, _with_instance, _with_worker])
def test_an_ordinary_call_takes_what_cannot_be_stored(body: Any, value: Any) -> None:
    made: Any = Job("kind", body)
    given, detached = made(value)
    assert given is value
    assert isinstance(detached, (Context, Instance, Worker))


def test_there_is_no_detached_node_or_resource() -> None:
    def needs(node: Manager) -> None: ...
    def may(node: Manager | None) -> str:
        return "none" if node is None else "some"

    def uses(db: str = Depends(lambda: "db")) -> str:
        return db

    with pytest.raises(NodeStateError, match="node: no node runs this direct call"):
        in_place(needs)
    assert in_place(may) == "none"
    with pytest.raises(NodeStateError, match="db: only a node makes Depends"):
        in_place(uses)
    assert in_place(uses, db="mine") == "mine"


def test_a_wrong_call_in_place_fails_as_the_function_does() -> None:
    with pytest.raises(TypeError, match="positional argument"):
        in_place(everything, 1, 2, 3, 4, 5)
    with pytest.raises(TypeError, match="missing 1 required"):
        in_place(everything)


def test_a_plain_function_is_called_as_it_is() -> None:
    call = functools.partial(in_place, lambda *args, **kwargs: (args, kwargs))
    assert call("?", PLACEHOLDER, k=1) == (("?", PLACEHOLDER), {"k": 1})


async def test_an_async_function_is_awaited_by_its_caller() -> None:
    async def executor(x: int, ctx: Context = INJECTED) -> int:
        return x + ctx.detached

    assert await Job("a", executor)(41) == 42
