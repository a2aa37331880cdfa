"""A flow says what is wrong with a member when it is added, and stores each member with what it needs."""

import operator
from collections.abc import Callable
from typing import Any

import pytest

from peerjob import ArgumentError, Ended, ErrorInfo, Flow, Job, OptionError, Secret, State, job
from peerjob.model import flow as limits
from peerjob.model.codec import decode_shown, decode_value, encode_value, has_reference, replace_references
from peerjob.model.durable import FLOW_KIND, MAX_MEMBERS
from peerjob.model.errors import DecodeError, EncodeError
from peerjob.model.flow import MemberTaker
from peerjob.model.graph import (
    CallOptions,
    Graph,
    StoredMember,
    decode_graph,
    decode_members,
    encode_graph,
    encode_members,
    encode_overrides,
    member_id,
    needs_of,
)
from peerjob.model.job import Call
from peerjob.model.outputs import Ref, taker

FLOW_ID = "0192f2a4-0000-7000-8000-000000000000"


@job(kind="fetch")
def fetch(url: str) -> bytes:
    return url.encode()


@job(kind="parse")
def parse(page: bytes, part: int = 0) -> int:
    return len(page) + part


@job(kind="merge")
def merge(parts: list[int]) -> int:
    return sum(parts)


@job(kind="report")
def report(end: Ended[int]) -> str:
    return str(end.state)


def needs(flow: Flow, number: int) -> dict[int, str]:
    member = flow.members[number]
    with MemberTaker(member) as taking:
        encode_value([list(member.call.args), member.call.kwargs])
    return dict(taking.needs)


def test_outputs_in_the_arguments_are_what_a_member_needs() -> None:
    flow = Flow("import")
    page = flow.add(fetch.call("x"))
    parts = [flow.add(parse.call(page.output, part=n)) for n in range(3)]
    total = flow.add(merge.call([part.output for part in parts]), after=[page], when="ended")
    flow.add(report.call(total.ended), optional=True)
    both = Call[Any](Job("any"), ({"a": (page.output, page.ended)}, Secret(total.output)), {})
    flow.add(both)
    assert [member.name for member in flow] == [
        "fetch/0", "parse/1", "parse/2", "parse/3", "merge/4", "report/5", "any/6",
    ]  # fmt: skip
    assert needs(flow, 0) == {}
    assert needs(flow, 2) == {0: "completed"}
    assert needs(flow, 4) == {0: "ended", 1: "completed", 2: "completed", 3: "completed"}
    assert needs(flow, 5) == {4: "ended"}
    assert needs(flow, 6) == {0: "completed", 4: "completed"}
    assert len(flow) == 7
    assert flow.members[5].optional


def test_the_stricter_need_of_two_counts() -> None:
    flow = Flow("import")
    page = flow.add(fetch.call("x"))
    anything: Job[..., Any, Any] = Job("any")
    flow.add(anything.call([page.ended, page.output]))
    flow.add(anything.call([page.output, page.ended]))
    flow.add(anything.call(page.output), after=[page], when="ended")
    flow.add(anything.call(page.ended), after=[page])
    flow.add(anything.call(page.ended), after=[page], when="ended")
    assert [needs(flow, number)[0] for number in range(1, 6)] == [*["completed"] * 4, "ended"]


USES: dict[str, Callable[[Any], Any]] = {
    "bool": bool,
    "len": len,
    "iter": iter,
    "str": str,
    "int": int,
    "float": float,
    "hash": hash,
    "format": format,
    "index": operator.index,
    "add": lambda output: output + 1,
    "added": lambda output: 1 + output,
    "equal": lambda output: output == 1,
    "less": lambda output: output < 1,
    "item": lambda output: output[0],
    "attribute": lambda output: output.size,
    "text": lambda output: f"{output}",
    "call": lambda output: output(),
    "contains": lambda output: 1 in output,
}


@pytest.mark.parametrize("use", USES)
def test_an_output_that_is_used_as_a_value_says_what_it_stands_for(use: str) -> None:
    page = Flow("import").add(fetch.call("x"))
    with pytest.raises(TypeError, match="member 'fetch/0' of flow 'import'> has no value yet"):
        USES[use](page.output)


def test_an_output_shows_its_member() -> None:
    page = Flow("import").add(fetch.call("x"))
    assert repr(page.output) == "<output of member 'fetch/0' of flow 'import'>"
    assert repr(page.ended) == "<end of member 'fetch/0' of flow 'import'>"


def test_an_output_outside_of_its_flow_is_refused() -> None:
    page = Flow("import").add(fetch.call("x"))
    with pytest.raises(EncodeError, match=r"value\[0\]: <output of member .* is known only in"):
        encode_value([page.output])
    with pytest.raises(EncodeError, match="known only in a flow"):
        encode_value(Ref(0))
    other = Flow("other")
    with pytest.raises(ArgumentError, match=r"member 'parse/0' of flow 'other': argument.* which is another flow"):
        other.add(parse.call(page.output))
    with pytest.raises(OptionError, match="after: expected members of flow 'other', for member 'fetch/0' of flow 'oth"):
        other.add(fetch.call("x"), after=[page])
    assert len(other) == 0


BAD: list[tuple[Any, dict[str, Any], str]] = [
    (fetch.with_options(key="k").call("x"), {}, "key: expected none for member 'fetch/1' of flow 'import'"),
    (fetch.with_options(after="1d").call("x"), {}, "after: expected none for member 'fetch/1' of flow 'import'"),
    (fetch.with_options(at="2030-01-01T00:00:00Z").call("x"), {}, "at: expected none for member"),
    (fetch.call("x"), {"when": "final"}, "when: expected 'completed' or 'ended', got 'final'"),
    (fetch.call("x"), {"after": "page"}, "after: expected a list"),
    (fetch.call("x"), {"optional": 1}, "optional: expected True or False"),
    (fetch, {}, "call: expected a Call"),
    (Call[Any](fetch, (object(),), {}), {}, "'fetch/1' of flow 'import': argument.0.: an object cannot be stored"),
]


@pytest.mark.parametrize(("call", "options", "text"), BAD, ids=range(len(BAD)))
def test_a_bad_member_is_refused_by_name(call: Any, options: dict[str, Any], text: str) -> None:
    flow = Flow("import")
    flow.add(fetch.call("x"))
    with pytest.raises((OptionError, ArgumentError), match=text):
        flow.add(call, **options)
    assert len(flow) == 1


def test_a_name_is_a_short_text() -> None:
    for name in ("", "x" * 201, "a\x00"):
        with pytest.raises(OptionError, match="name: expected text of 1 to 200 characters"):
            Flow(name)


def test_limits_name_the_flow_and_both_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MAX_MEMBERS", 4)
    monkeypatch.setattr(limits, "MAX_EDGES", 3)
    monkeypatch.setattr(limits, "MAX_MEMBER_NEEDS", 2)
    flow = Flow("import")
    first, second, third = (flow.add(fetch.call("x")) for _ in range(3))
    with pytest.raises(OptionError, match="member 'fetch/3' of flow 'import': expected at most 2, got '3 needed"):
        flow.add(fetch.call("x"), after=[first, second, third])
    flow.add(fetch.call("x"), after=[first, second])
    with pytest.raises(OptionError, match=r"flow 'import': expected at most 4; use .*, got '5 members'"):
        flow.add(fetch.call("x"))
    monkeypatch.setattr(limits, "MAX_MEMBERS", 5)
    with pytest.raises(OptionError, match="flow 'import': expected at most 3 of all members, got '4 needs'"):
        flow.add(fetch.call("x"), after=[first, second])


def test_the_kind_of_flows_is_reserved() -> None:
    for define in (lambda: Job(FLOW_KIND), lambda: job(kind=FLOW_KIND)(lambda: None)):
        with pytest.raises(OptionError, match="kind: expected another kind: this one runs flows"):
            define()


def test_references_are_read_at_any_depth_and_shown_as_text() -> None:
    flow = Flow("import")
    page, other = flow.add(fetch.call("x")), flow.add(fetch.call("y"))
    with MemberTaker(flow.add(fetch.call("z"))):
        data = encode_value([page.output, {"a": (other.ended, {1: page.output})}, Secret(page.output)])
    assert decode_value(data)[0] == Ref(0)
    assert decode_shown(data)[0] == "<output of member 0>"
    assert decode_shown(data)[1]["a"][0] == "<end of member 1>"
    assert has_reference(data)
    assert not has_reference(encode_value([16, {16: 16}]))
    replaced = replace_references(data, lambda ref: (ref.member, ref.ended))
    assert replaced[:2] == [(0, False), {"a": ((1, True), {1: (0, False)})}]
    assert replaced[2].get_secret_value() == (0, False)


def test_a_call_takes_ten_thousand_outputs() -> None:
    class Takes:
        def take(self, output: Any) -> Ref:
            return Ref(output.member)

    token = taker.set(Takes())
    data = encode_value([Ref(number) for number in range(10_000)])
    taker.reset(token)
    assert len(data) < 70_000
    assert decode_value(data)[9_999] == Ref(9_999)


def test_a_stored_graph_comes_back_and_a_damaged_one_is_refused() -> None:
    options = CallOptions("k", 5, ("t",), None, 3, "", 0, encode_overrides({"timeout": 5}), 0)
    members = (StoredMember(0, (), False), StoredMember(0, (0, 1), True))
    graph = decode_graph(encode_graph(Graph((options,), members)))
    assert graph.members == members
    assert graph.name(1) == "k/1"
    assert graph.kinds() == {"k"}
    assert graph.last_members() == [1]
    assert [(need.id, need.when) for need in needs_of(members[1], FLOW_ID, ())] == [
        (member_id(FLOW_ID, 0), "completed"),
        (member_id(FLOW_ID, 0), "ended"),
    ]
    assert needs_of(members[1], FLOW_ID, {0}) == ()
    for damaged in (
        Graph((options,), (StoredMember(0, (0,), False),)),
        Graph((options,), (StoredMember(1, (), False),)),
        Graph((), (StoredMember(0, (), False),)),
    ):
        with pytest.raises(DecodeError, match="stored flow cannot be read"):
            decode_graph(encode_graph(damaged))
    assert decode_members(encode_members([b"a", b"b"]), graph) == [b"a", b"b"]
    with pytest.raises(DecodeError, match="2 members, 1 arguments"):
        decode_members(encode_members([b"a"]), graph)


def test_an_end_tells_whether_the_member_completed() -> None:
    assert Ended(State.COMPLETED, 3).completed
    failed = Ended[int](State.TERMINATED, error=ErrorInfo(type="ValueError", message="bad"))
    assert not failed.completed
    assert failed.result is None


def test_the_largest_graph_is_read() -> None:
    options = CallOptions("k", 5, (), None, 3, "", 0, encode_overrides({}), 0)
    members = [StoredMember(0, (), False) for _ in range(MAX_MEMBERS)]
    members[-1] = StoredMember(0, tuple(range(0, 2 * MAX_MEMBERS - 2, 2)), False)
    graph = Graph((options,), tuple(members))
    assert decode_graph(encode_graph(graph)) == graph
    with pytest.raises(DecodeError, match="stored flow cannot be read"):
        decode_graph(encode_graph(Graph((options,), (*members, members[0]))))
