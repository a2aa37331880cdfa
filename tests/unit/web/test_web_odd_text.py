"""Text with characters that cannot be printed, such as a no-break space: forms give it back as it was."""

import html
import re
from datetime import timedelta

import pytest
from starlette.requests import Request

from peerjob import Job, Node, Principal, Rights, Role, State
from peerjob.web import dashboard
from peerjob.web.filters import MAX_FILTER
from support.dashboards import browsing, pages_of, submit


def note(text: str, count: int = 1) -> str:
    return text * count


NOTE = Job("note", note)
NAME = "nightly\xa0digest\u202e\x9b\U000e0067"


def value_of(page: str, name: str) -> str:
    """The value of the first field of this name, as a browser reads it."""
    found = re.search(f'name="{re.escape(name)}"[^>]*?(?: value="([^"]*)"|>([^<]*)</textarea>)', page)
    assert found, page
    return html.unescape(found[1] if found[1] is not None else found[2])


@pytest.mark.parametrize(
    "text", ["10\xa0000", "\x7f", "caf\xad\x9b", "\U0001f468\u200d\U0001f469", "\U000e0067", "\u202e"]
)
async def test_arguments_are_scheduled_again_as_they_were(text: str) -> None:
    async with Node("memory://", jobs=NOTE) as node, pages_of(node) as client:
        first = await node.schedule(NOTE, text)
        page = (await client.get("/instance/again", params={"id": first.id})).text
        refused = await submit(client, "/instance/again", id=first.id, arguments=f'{{"args": ["{text}", 1, 2]}}')
        assert refused.status_code == 422
        for given in (value_of(page, "arguments"), value_of(refused.text, "arguments").replace(", 1, 2", "")):
            answer = await submit(client, "/instance/again", id=first.id, arguments=given)
            assert answer.status_code == 303, answer.text
            made = await node.lookup_instance(answer.headers["location"].rsplit("/", 1)[1])
            assert made.args == (text,)


async def test_a_form_with_a_problem_keeps_the_text_of_its_other_fields() -> None:
    async with Node("memory://", jobs=NOTE) as node, pages_of(node) as client:
        given = {"arg.text": "10\xa0000 \U0001f468\u200d\U0001f469", "arg.count": "x"}
        answer = await submit(client, "/kinds/schedule", kind="note", **given)
    assert answer.status_code == 422
    assert value_of(answer.text, "arg.text") == given["arg.text"]


async def test_a_schedule_of_any_name_can_be_paused() -> None:
    async with Node("memory://", jobs=NOTE) as node, pages_of(node) as client:
        await node.add_schedule(NOTE.with_options(every="1h", name=NAME), "x")
        page = await client.get(f"/schedules/{NAME}")
        answer = await submit(client, "/schedules/pause", name=value_of(page.text, "name"), note="moves")
        assert answer.status_code == 303, answer.text
        assert (await node.lookup_schedule(NAME)).paused


async def test_an_action_on_all_that_match_keeps_its_tag() -> None:
    async with Node("memory://", jobs=NOTE) as node, pages_of(node) as client:
        one = await node.schedule(NOTE.with_options(after="1h", tags=(NAME,)), "x")
        page = (await client.get("/instances", params={"tag": NAME})).text
        asked = await submit(client, "/instances/act", verb="cancel", scope="all", f_tag=value_of(page, "f_tag"))
        fields = {name: value_of(asked.text, name) for name in ("verb", "scope", "until", "total", "f_tag")}
        await submit(client, "/instances/act", go="1", **fields)
        assert (await node.lookup_instance(one.id)).state is State.CANCELLED


@pytest.mark.parametrize("depth", [400, 900])
async def test_deep_arguments_are_refused_with_a_sentence(depth: int) -> None:
    async with Node("memory://", jobs=NOTE) as node, pages_of(node) as client:
        first = await node.schedule(NOTE, "x")
        deep = f'{{"args": [{"[" * depth}{"]" * depth}]}}'
        answer = await submit(client, "/instance/again", id=first.id, arguments=deep)
    assert answer.status_code == 422


async def test_a_long_filter_is_refused() -> None:
    async with Node("memory://", jobs=NOTE) as node, pages_of(node) as client:
        one = await node.schedule(NOTE.with_options(after="1h"), "x")
        given = {"verb": "cancel", "scope": "selected", "id": one.id}
        for name in ("error", "order", "after"):
            answer = await submit(client, "/instances/act", **given, **{f"f_{name}": "x" * (MAX_FILTER + 1)})
            assert (answer.status_code, "at most 1,000 characters" in answer.text) == (400, True)


async def test_the_overview_warns_of_twenty_kinds_without_a_node() -> None:
    async with Node("memory://", jobs=NOTE, allow_unknown=True) as node, pages_of(node) as client:
        await node.schedule_many([Job(f"lost.{number:02}").call() for number in range(30)])
        page = (await client.get("/")).text
    assert page.count("No live node runs") == 21
    assert "No live node runs 10 further kinds: 10 wait." in page


async def test_a_limited_search_finds_a_tag_behind_many_instances_of_other_kinds() -> None:
    async def allow(request: Request) -> Principal:
        return Principal(name="ann", rights=Rights(role=Role.READER, kinds=("note",)))

    async with Node("memory://", jobs=NOTE, allow_unknown=True) as node:
        await node.schedule_many([Job("other").with_options(tags=("t",)).call() for _ in range(50)])
        await node.schedule(NOTE.with_options(tags=("t",), after=timedelta(hours=1)), "x")
        async with browsing(dashboard(node, authorize=allow)) as client:
            answer = await client.get("/search", params={"q": "t"})
    assert (answer.status_code, answer.headers.get("location")) == (303, "/instances?tag=t")
