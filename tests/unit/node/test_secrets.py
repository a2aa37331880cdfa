"""Secret arguments: the job gets them, and all views mask them."""

import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, make_dataclass
from typing import Annotated, Any, NewType, TypedDict, cast

import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretBytes, SecretStr
from typing_extensions import TypeAliasType

from peerjob import ArgumentError, Client, Instance, Job, Node, Schedule, Secret, Server
from peerjob.model.codec import decode_kept, decode_shown, decode_value, encode_value, has_secret
from peerjob.model.errors import EncodeError
from peerjob.model.secret import is_secret
from peerjob.model.spec import Spec, decode_spec, encode, encode_arguments, redacted
from peerjob.node.body.binding import Binding, StoredArgumentError
from peerjob.proto.job.v1 import service_pb2 as pb
from peerjob.remote.wire.instances import instance_message
from peerjob.remote.wire.schedules import schedule_message
from support.rpc import raw_client, served

VALUE = "hunter2"
Password = NewType("Password", SecretStr)
Alias = TypeAliasType("Alias", Annotated[str, Secret])


class Account(pydantic.BaseModel):
    name: str
    password: SecretStr
    friends: "list[Account]" = []


@dataclass
class Login:
    name: str
    password: Annotated[str, Secret]
    next: "Login | None" = None


class Keys(TypedDict):
    key: Alias


class Tree:
    children: "list[Tree]"


def login(user: str, password: Annotated[str, Secret], pin: SecretStr | None = None, **more: str) -> str:
    found = pin.get_secret_value() if pin else None
    return f"{user} {password == VALUE} {type(password).__name__} {found == VALUE} {more}"


LOGIN = Job("login", login)


# -- what is declared -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "annotation",
    [
        Annotated[str, Secret], Annotated[str, "note", Secret], Annotated[str, Secret("note")],
        Account | None, list[Annotated[str, Secret]], Alias, SecretStr, SecretBytes,
        pydantic.Secret[int], Password,
        dict[str, SecretStr], Account, Login, Keys, list[Login] | int,
    ],
    ids=str,
)  # fmt: skip
def test_what_makes_a_secret(annotation: Any) -> None:
    assert is_secret(annotation)


@pytest.mark.parametrize(
    "annotation", [str, Annotated[str, "Secret"], list[int], Any, "Secret", None, Tree, Instance], ids=str
)
def test_what_makes_none(annotation: Any) -> None:
    assert not is_secret(annotation)


@pytest.mark.parametrize(("leaf", "secret"), [(SecretStr, True), (str, False)])
def test_each_class_is_looked_at_once(leaf: Any, secret: bool) -> None:
    chain: Any = make_dataclass("Leaf", [("number", int), ("text", leaf)])
    for depth in range(40):  # 2 ** 40 looks, if a class that two fields have was looked at twice
        chain = make_dataclass(f"Level{depth}", [("first", chain), ("second", list[chain])])
    assert is_secret(chain) == secret


@given(st.recursive(st.text() | st.integers() | st.binary(), lambda inner: st.lists(inner) | st.tuples(inner, inner)))
def test_a_secret_value_is_revealed_kept_or_left_out(value: Any) -> None:
    stored = encode_value([(Secret(value),), {"a": {Secret(1)}}, {1: Secret(value)}])

    assert decode_value(stored) == [(value,), {"a": {1}}, {1: value}]
    assert decode_shown(stored) == [("***",), {"a": {"***"}}, {1: "***"}]
    assert encode_value(decode_kept(stored)) == stored
    assert has_secret(stored)
    assert not has_secret(encode_value([value, 15, b"\x0f"]))
    assert repr(Secret(value)) == str(Secret(value)) == "***"


# -- errors -----------------------------------------------------------------------------------------------------------


def failing(value: Any) -> Any:
    raise ValueError(f"no {value}")


@pytest.mark.parametrize(
    ("annotation", "value"),
    [
        (Annotated[int, Secret], VALUE),
        (Annotated[str, Secret, pydantic.AfterValidator(failing)], VALUE),
        (SecretStr, [VALUE]),
        (Account, {"password": VALUE}),
        (Account, '{"password": "hunter2"'),
        (int, Secret(VALUE)),
        (int, SecretStr(VALUE)),
        (dict[str, int], {"a": SecretStr(VALUE)}),
        (Annotated[Any, Secret], {VALUE: object()}),
    ],
    ids=map(str, range(9)),
)
def test_an_error_does_not_tell_it(annotation: Any, value: Any) -> None:
    def executor(x: Any) -> None: ...

    executor.__annotations__ = {"x": annotation}
    binding = Binding(Job("kind", executor))
    with pytest.raises(ArgumentError) as caught:
        binding.encode((value,), {})
    assert VALUE not in repr(caught.value) + str(caught.value)
    assert caught.value.problems[0].startswith("x: ")


@pytest.mark.parametrize(
    ("annotation", "value"),
    [
        (Annotated[int, Secret], VALUE),
        (Annotated[str, Secret, pydantic.AfterValidator(failing)], VALUE),
        (int, Secret(VALUE)),
        (int, SecretStr(VALUE)),
        (dict[str, int], {"a": Secret(VALUE)}),
        (Account, {"password": SecretStr(VALUE), "more": 1}),
    ],
    ids=map(str, range(6)),
)
def test_neither_does_one_about_a_result(annotation: Any, value: Any) -> None:
    """Whether its type says that it is secret, or the value alone."""

    def executor() -> Any: ...

    executor.__annotations__ = {"return": annotation}
    binding = Binding(Job("kind", executor))
    with pytest.raises(EncodeError) as caught:
        binding.result.encode(value)
    assert VALUE not in repr(caught.value) + str(caught.value) + repr(caught.value.__cause__)


def test_neither_does_one_about_what_was_stored() -> None:
    declared, value = Binding(Job("kind", cast(Any, _count))), Binding(Job("kind", cast(Any, _plain_count)))
    for binding, stored in ((declared, VALUE), (value, Secret(VALUE))):
        with pytest.raises(StoredArgumentError) as caught:
            binding.converted(encode_arguments((stored,), {}))
        assert caught.value.problems == ("number: does not fit its annotation (got ***)",)


def _count(number: Annotated[int, Secret]) -> None: ...


def _plain_count(number: int) -> None: ...


def test_the_places_of_others_stay() -> None:
    def executor(a: str, context: Any, *rest: Annotated[str, Secret], b: str = "", **more: SecretStr) -> None: ...

    stored = Binding(Job("kind", executor)).encode(("?", 1, VALUE, "?"), {"b": "b", "c": VALUE})
    assert decode_shown(stored) == [["?", 1, "***", "***"], {"b": "b", "c": "***"}]
    assert decode_value(stored) == [["?", 1, VALUE, "?"], {"b": "b", "c": VALUE}]


def test_of_a_spec_that_cannot_be_read_the_arguments_are_left_out() -> None:
    damaged = encode(Spec(args=b"\xc1\x0f", version=3))
    assert decode_spec(redacted(damaged)) == Spec(args=b"", version=3)
    plain = encode(Spec(args=encode_arguments((15,), {})))
    assert redacted(plain) is plain


# -- views ------------------------------------------------------------------------------------------------------------


@pytest.fixture
async def site() -> AsyncIterator[tuple[Node, Server]]:
    async with served(LOGIN, workers=2) as both:
        yield both


def shown_nowhere(instance: Instance[Any]) -> None:
    """No view of an instance has the value, and each has what is left."""
    for encoded in (True, False):
        assert VALUE.encode() not in instance_message(instance.record, encoded=encoded).SerializeToString()
    assert VALUE not in repr(instance) + instance.to_json() + json.dumps(instance.to_dict(), default=str)
    assert "***" in instance.arguments


@pytest.mark.parametrize("by", ["node", "client"])
async def test_an_instance_masks_it_and_its_retry_has_it(site: tuple[Node, Server], by: str) -> None:
    node, server = site
    async with Client(server.target) as client:
        manager = node if by == "node" else client
        first = await manager.schedule(LOGIN, "ann", VALUE, pin=SecretStr(VALUE), city="x")
        assert await first.result(60) == "ann True str True {'city': 'x'}"
        again = await manager.retry_instance(first.id)
        assert await again.result(60) == await first.result()

        for one in (first, again):
            assert (one.args, one.kwargs) == (("ann", "***"), {"pin": "***", "city": "x"})
            shown_nowhere(one)
            shown_nowhere(await node.lookup_instance(one.id))
            seen = await client.lookup_instance(one.id)
            shown_nowhere(seen)
            assert VALUE.encode() not in seen.record.spec


@pytest.mark.parametrize("wrap", [Secret, SecretStr])
async def test_a_value_is_secret_if_the_signature_is_unknown(
    site: tuple[Node, Server], wrap: Callable[[str], Any]
) -> None:
    node, server = site
    async with Client(server.target) as client:
        for manager in (node, client):
            made = await manager.schedule("nobody's", wrap(VALUE), allow_unknown=True)
            assert made.args == ("***",)
            shown_nowhere(await node.lookup_instance(made.id))
            assert decode_value(decode_spec((await node.lookup_instance(made.id)).record.spec).args)[0] == [VALUE]


async def test_text_from_any_client_is_secret_by_the_signature(site: tuple[Node, Server]) -> None:
    node, server = site
    async with raw_client(server.target) as client:
        made = await client.call("ScheduleJob", pb.ScheduleJobRequest(kind="login", arguments=["ann", VALUE, VALUE]))
        shown = await client.call("GetInstance", pb.GetInstanceRequest(uuid=made.instance.uuid))
    assert VALUE.encode() not in made.SerializeToString() + shown.SerializeToString()
    assert await (await node.lookup_instance(made.instance.uuid)).result(60) == "ann True str True {}"


@pytest.mark.parametrize("by", ["node", "client"])
async def test_a_schedule_masks_it_and_its_instances_have_it(site: tuple[Node, Server], by: str) -> None:
    node, server = site
    async with Client(server.target) as client:
        manager = node if by == "node" else client
        made: Schedule = await manager.add_schedule(LOGIN.with_options(every="1h"), "ann", VALUE, SecretStr(VALUE))
        here, there = await node.lookup_schedule(made.name), await client.lookup_schedule(made.name)
        for one in (made, here, there):
            assert (one.args, one.kwargs) == (("ann", "***", "***"), {})
            assert VALUE not in one.to_json() + repr(one)
            assert VALUE.encode() not in schedule_message(one).SerializeToString()
        assert VALUE.encode() not in there.row.definition
        fired = await manager.trigger_schedule(made)
        assert fired is not None
        assert await fired.result(60) == "ann True str True {}"
        shown_nowhere(fired)
