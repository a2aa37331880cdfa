"""Key templates: which texts are templates, and the text of each argument."""

from collections.abc import Callable
from datetime import UTC, date, datetime, time
from decimal import Decimal
from enum import Enum
from typing import Annotated, Any
from uuid import UUID

import pytest

from peerjob import INJECTED, ArgumentError, Context, Job, OptionError, Secret
from peerjob.model.descriptor import MAX_BODY, descriptor_of, signature_of
from peerjob.model.key_template import names_in, rendered
from peerjob.node.body.binding import Binding
from peerjob.node.body.call_parameters import CallParameters


class Size(Enum):
    SMALL = "s"


def call(
    number: int,
    rate: float = 2,
    on: bool = True,
    *,
    name: str | None = None,
    day: date = date(2026, 1, 2),
    at: datetime | None = None,
    price: Decimal = Decimal("1.50"),
    size: Size = Size.SMALL,
    anything: Any = None,
) -> None: ...


def parameters(executor: Callable[..., Any], key: str) -> list[CallParameters]:
    """The parameters of a kind where its code is, and where only its descriptor is."""
    binding = Binding(Job("kind", executor, key=key))
    described = binding.descriptor
    assert described is not None
    descriptor = descriptor_of(described[1])
    assert descriptor is not None
    assert descriptor.key == key
    return [binding, CallParameters("kind", signature_of(descriptor))]


def test_names_and_plain_braces() -> None:
    assert names_in("user/{user}/{{x}}/{at}") == ("user", "at")
    assert names_in("plain") == ()
    assert rendered("{a}{{{b}}}", {"a": "1", "b": "2"}.__getitem__) == "1{2}"


@pytest.mark.parametrize("bad", ["{", "}", "{}", "{0}", "{user.name}", "{user[0]}", "{user!r}", "{user:>5}", "{a b}"])
def test_other_texts_with_braces_are_no_templates(bad: str) -> None:
    with pytest.raises(OptionError, match="stands for an argument"):
        Job("kind", key=bad)


@pytest.mark.parametrize("bad", ["{nobody}", "{context}", "{password}"])
def test_a_template_names_arguments_of_the_caller_that_are_no_secrets(bad: str) -> None:
    def login(user: str, password: Annotated[str, Secret], context: Context = INJECTED) -> None: ...

    with pytest.raises(OptionError, match=r"names of arguments of 'kind', no secret ones \(user, password, context\)"):
        Binding(Job("kind", login, key=bad))


@pytest.mark.parametrize(
    ("template", "args", "kwargs", "key"),
    [
        ("n/{number}", (7,), {}, "n/7"),
        ("n/{number}", ("7",), {}, "n/7"),
        ("n/{number}", (), {"number": 7.0}, "n/7"),
        ("{rate}", (1,), {}, "2.0"),
        ("{rate}", (1, "2"), {}, "2.0"),
        ("{on}", (1, 2, "no"), {}, "false"),
        ("{on}{on}", (1,), {}, "truetrue"),
        ("{name}", (1,), {}, "null"),
        ("{name}", (1,), {"name": "{x}"}, "{x}"),
        ("{day}", (1,), {}, "2026-01-02"),
        ("{day}", (1,), {"day": "2026-03-04"}, "2026-03-04"),
        ("{at}", (1,), {"at": "2026-03-04T05:06:07Z"}, "2026-03-04T05:06:07+00:00"),
        ("{at}", (1,), {"at": datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)}, "2026-03-04T05:06:07+00:00"),
        ("{price}", (1,), {}, "1.50"),
        ("{size}", (1,), {}, "s"),
        ("{size}", (1,), {"size": Size.SMALL}, "s"),
        ("{size}", (1,), {"size": "s"}, "s"),
        ("{anything}", (1,), {"anything": UUID(int=1)}, "00000000-0000-0000-0000-000000000001"),
        ("{anything}", (1,), {"anything": time(1, 2)}, "01:02:00"),
    ],
)
def test_the_key_is_the_same_with_the_code_and_without(
    template: str, args: tuple[Any, ...], kwargs: dict[str, Any], key: str
) -> None:
    assert [one.key(template, args, kwargs) for one in parameters(call, template)] == [key, key]


def test_an_argument_without_a_text_is_refused() -> None:
    for one in parameters(call, "{anything}"):
        with pytest.raises(ArgumentError, match="anything: the key is made of text, numbers"):
            one.key("{anything}", (1,), {"anything": [1]})


def test_further_keyword_arguments_can_be_in_a_key() -> None:
    def open_call(**more: Any) -> None: ...

    for one in parameters(open_call, "{tenant}"):
        assert one.key("{tenant}", (), {"tenant": "x"}) == "x"
        with pytest.raises(ArgumentError, match="tenant: missing, and the key needs it"):
            one.key("{tenant}", (), {})


def test_a_descriptor_over_the_limit_is_none() -> None:
    assert Binding(Job("kind", call, tags=["x" * 200] * 30)).descriptor is not None
    assert MAX_BODY == 8192
    assert Binding(Job("kind", call, tags=["x" * 200] * 50)).descriptor is None


def test_the_descriptor_differs_where_a_call_or_the_queue_does() -> None:
    def other(number: int, rate: float = 2) -> None: ...

    def digest(executor: Callable[..., Any], **options: Any) -> bytes:
        described = Binding(Job("kind", executor, **options)).descriptor
        assert described is not None
        return described[0]

    assert digest(call) == digest(call)
    assert len({digest(call), digest(other), digest(call, priority=1), digest(call, key="{number}")}) == 4
