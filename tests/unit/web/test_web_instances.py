"""The list of instances, one instance, and what can be done with them."""

import asyncio
import logging
import re
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Annotated
from uuid import UUID, uuid4

import pytest

from peerjob import Job, Node, Query, Role, Secret, State
from peerjob.model.clock import to_datetime
from peerjob.model.ids import IdSource
from peerjob.model.secret import MASK
from peerjob.web import steps, values
from peerjob.web.filters import ROWS, Filters
from support.dashboards import pages_of, submit
from support.waiting import until

log = logging.getLogger("bodies")


async def boom(text: str, password: Annotated[str, Secret] = "") -> None:
    log.warning("line: %s", text)
    raise ValueError(text)


async def hold() -> None:
    await asyncio.sleep(3600)


def add(a: int, b: int) -> int:
    return a + b


JOBS = [Job("boom", boom, max_retries=0), Job("hold", hold), Job("add", add, tags=["sums"])]
HOSTILE = "<img src=x onerror=alert(1)>\"'&\x1b[31m\u202eevil\u2066"


async def test_filters_are_a_query() -> None:
    async with Node("memory://", jobs=JOBS) as node, pages_of(node, Role.READER) as client:
        done, failed = await node.schedule("add", 1, 2), await node.schedule("boom", "no such file")
        await done.wait(30)
        await failed.wait(30)

        async def found(query: str) -> set[str]:
            answer = await client.get(f"/instances?{query}")
            assert answer.status_code == 200
            return {one for one in (done.id, failed.id) if f"/instances/{one}" in answer.text}

        assert await found("") == {done.id, failed.id}
        assert await found("kind=add") == await found("tag=sums") == await found("state=completed") == {done.id}
        assert (
            await found("state=error")
            == await found("error=SUCH+file")
            == await found(f"id={failed.id}")
            == {failed.id}
        )
        assert await found("error=other") == await found("after=2100-01-01T00:00") == set()
        assert await found("after=1h&before=2100-01-01T00:00Z") == {done.id, failed.id}


def test_each_filter_reaches_the_query() -> None:
    now, id, parent = datetime(2026, 1, 2, tzinfo=UTC), str(uuid4()), str(uuid4())
    given = Filters(kind="a", state="completed", tag="b", parent=parent, id=id, after="1h", before="1m", order="asc")
    assert given.query(now) == Query(
        kind="a",
        uuid=id,
        state="completed",
        tag="b",
        parent=parent,
        after=now - timedelta(hours=1),
        before=now - timedelta(minutes=1),
        limit=ROWS,
        order="asc",
    )
    assert Filters().query(now) == Query(limit=ROWS, order="desc")


@pytest.mark.parametrize("query", ["state=x", "id=x", "after=yesterday", "before=1h2", "kind=" + "k" * 300])
async def test_a_filter_that_is_none_is_named(query: str) -> None:
    async with Node("memory://") as node, pages_of(node, Role.READER) as client:
        answer = await client.get(f"/instances?{query}")
    assert answer.status_code == 400
    assert f"{query.partition('=')[0]}: expected" in answer.text


@pytest.mark.parametrize("cursor", ["x", "zzzzzzzz-zzzz-7", "\0", "\U0001f600", "x" * 5_000, "../x"])
async def test_a_forged_cursor_is_named(cursor: str) -> None:
    async with Node("memory://", jobs=JOBS, workers=0) as node, pages_of(node) as client:
        for _ in range(3):  # a store reads many instances in another way than few
            await node.schedule_many(node.job("hold").call() for _ in range(1_000))
            for order in ("", "asc"):
                answer = await client.get("/instances", params={"cursor": cursor, "order": order})
                assert answer.status_code == 400
                assert "cursor: expected" in answer.text
        fields = {"verb": "cancel", "scope": "all", "go": "1", "after": "2000-01-01T00:00", "cursor": cursor}
        assert (await submit(client, "/instances/act", **fields)).status_code == 400
        assert await node.count(Query(state=State.CANCELLED)) == 0


async def test_pages_follow_one_another() -> None:
    async with Node("memory://", jobs=JOBS, workers=0) as node, pages_of(node) as client:
        made = await node.schedule_many(node.job("hold").call() for _ in range(250))
        seen: list[str] = []
        link: str | None = "/instances?kind=hold"
        while link is not None:
            text = (await client.get(link)).text
            seen += re.findall(r'name="id" value="([^"]+)"', text)
            following = re.search(r'href="([^"]+)" rel="next"', text)
            link = None if following is None else following[1].replace("&amp;", "&")
    assert seen == [one.id for one in reversed(made)]


async def test_an_instance_shows_all_that_is_known_and_no_secret() -> None:
    async with Node("memory://", jobs=JOBS) as node, pages_of(node, Role.READER) as client:
        first = await node.schedule("boom", HOSTILE, password="hush-hush")
        await first.wait(30)
        second = await first.retry()
        await second.wait(30)
        text = (await client.get(f"/instances/{second.id}")).text
        downloads = [
            await client.get(f"/instances/{second.id}/{what}") for what in ("arguments", "result", "traceback", "log")
        ]
    assert "it ended with ValueError" in text
    assert '<li class="warn"' in text
    assert "Traceback (most recent call last)" in text
    assert f"/instances/{first.id}" in text
    assert '<svg class="timeline"' in text
    legend = re.search(r'<p class="legend">(.*?)</p>', text)
    assert legend is not None
    assert re.findall(r"</span> (\w+)", legend[1]) == ["waiting", "running", "failed"]
    assert 'method="post"' not in text, "a reader gets no form"
    assert "***" in text
    for shown in (text, *(one.text for one in downloads)):
        assert "hush-hush" not in shown
        assert not set("\x1b\u202e\u2066") & set(shown)
    assert "<img" not in text
    assert "\\u202eevil" in text
    assert all(one.headers["content-disposition"].startswith("attachment") for one in downloads)
    assert all(one.headers["content-type"].startswith("text/plain") for one in downloads)


@pytest.mark.parametrize(
    ("value", "shown", "expected"),
    [
        ("hush", MASK, MASK),
        ("hush", "other", "hush"),
        ({"a": "hush", "b": 1}, {"a": MASK}, {"a": MASK, "b": 1}),
        (["hush", 1, 2], [MASK, 1], [MASK, 1, 2]),
        (["hush"], [MASK, MASK], [MASK]),
        ([{"a": ["x", "hush"]}], [{"a": ["x", MASK]}], [{"a": ["x", MASK]}]),
        (["hush"], MASK, MASK),
        ({"a": 1}, [MASK], {"a": 1}),
        (["a"], {"a": MASK}, ["a"]),
    ],
)
def test_an_edited_value_is_masked_where_the_old_one_is(value: object, shown: object, expected: object) -> None:
    assert values.masked_like(value, shown) == expected


@pytest.mark.parametrize(("present", "expected"), [(1_000, (1_000, True)), (1_001, (1_000, False))])
async def test_a_count_of_all_that_match_stops_at_its_limit(
    monkeypatch: pytest.MonkeyPatch, present: int, expected: tuple[int, bool]
) -> None:
    monkeypatch.setattr("peerjob.web.steps.MAX_COUNTED", 1_000)
    job = Job("add", lambda: None, tags=["sums"])
    async with Node("memory://", jobs=job, workers=0) as node:
        await node.schedule_many(job.call() for _ in range(present))
        assert await steps.count(node, Query(tag="sums")) == expected
        assert await steps.count(node, Query(kind="add")) == (present, True)


async def test_a_long_value_is_cut_and_can_be_downloaded() -> None:
    async with Node("memory://", jobs=JOBS, workers=0) as node, pages_of(node) as client:
        made = await node.schedule("boom", "x" * (values.MAX_SHOWN + 1000))
        text = (await client.get(f"/instances/{made.id}")).text
        whole = (await client.get(f"/instances/{made.id}/arguments")).text
    assert values.MAX_SHOWN - 1000 < text.count("x") < values.MAX_SHOWN + 500
    assert "download all" in text
    assert "x" * (values.MAX_SHOWN + 1000) in whole


async def test_the_log_is_filtered_without_a_script(caplog: pytest.LogCaptureFixture) -> None:
    async def talk() -> None:
        for level in (logging.DEBUG, logging.INFO, logging.ERROR):
            log.log(level, "line %s of the body", logging.getLevelName(level))

    async with Node("memory://", jobs=Job("talk", talk)) as node, pages_of(node) as client:
        caplog.set_level(logging.DEBUG)
        made = await node.schedule("talk")
        await made.wait(30)
        errors = (await client.get(f"/instances/{made.id}?level=ERROR")).text
        found = (await client.get(f"/instances/{made.id}?text=info+OF")).text
    assert re.findall(r"line (\w+) of", errors) == ["ERROR"]
    assert re.findall(r"line (\w+) of", found) == ["INFO"]


async def test_an_unknown_instance_is_not_found() -> None:
    async with Node("memory://") as node, pages_of(node) as client:
        answer = await client.get("/instances/00000000-0000-7000-8000-000000000000")
        wrong = await client.get("/instances/x")
    assert (answer.status_code, wrong.status_code) == (404, 400)


async def test_one_instance_is_cancelled_retried_and_scheduled_again() -> None:
    async with Node("memory://", jobs=JOBS) as node, pages_of(node, Role.OPERATOR) as client:
        held, done = await node.schedule("hold"), await node.schedule("add", 1, 2)
        await done.wait(30)
        cancelled = await submit(client, "/instance/cancel", id=held.id)
        notices = [(await client.get(cancelled.headers["location"])).text for _ in range(2)]
        retried = await submit(client, "/instance/retry", id=done.id)
        again = await submit(client, "/instance/again", id=done.id, arguments='{"args": [5], "kwargs": {"b": 6}}')
        wrong = [
            await submit(client, "/instance/again", id=done.id, arguments=text)
            for text in ("", "[1]", '{"args": 1}', '{"args": [1, 2, 3]}', '{"args": ["***", 2]}', "[" * 100_000)
        ]
        assert (await held.refresh()).state is State.CANCELLED
        for answer, result in ((retried, 3), (again, 11)):
            assert answer.status_code == 303
            made = await node.lookup_instance(answer.headers["location"].rpartition("/")[2])
            assert await made.result(30) == result
        assert await node.count() == 4
        await node.audit_trail.flush()
        records = {(one.verb, one.count, one.result) for one in await node.audit() if one.principal == "ann"}
    assert ["Cancelled." in text for text in notices] == [True, False]
    assert [answer.status_code for answer in wrong] == [422] * len(wrong)
    assert records >= {("CancelInstance", 1, "ok"), ("RetryInstance", 1, "ok"), ("ScheduleJob", 1, "ok")}


@pytest.mark.parametrize(
    "given", ['{"args": ["***"]}', '{"kwargs": {"text": "***"}}', '{"kwargs": {"text": [{"x": "***"}]}}']
)
async def test_a_mask_is_no_argument(given: str) -> None:
    async with Node("memory://", jobs=JOBS) as node, pages_of(node, Role.OPERATOR) as client:
        done = await node.schedule("boom", "text", password="hunter2")
        answer = await submit(client, "/instance/again", id=done.id, arguments=given)
        assert answer.status_code == 422
        assert "the secret itself" in answer.text
        assert await node.count() == 1


async def test_a_delayed_instance_has_a_button_that_runs_it_now() -> None:
    async with Node("memory://", jobs=JOBS) as node, pages_of(node, Role.OPERATOR) as client:
        late, held = await node.schedule(node.job("add").with_options(after="1h"), 1, 2), await node.schedule("hold")
        buttons = ["Run now" in (await client.get(f"/instances/{one.id}")).text for one in (late, held)]
        moved = await submit(client, "/instance/run-now", id=late.id)
        notice = (await client.get(moved.headers["location"])).text
        assert await late.result(30) == 3
        await until(lambda: node.count(Query(uuid=held.id, state=State.PROCESSING)))
        refused = [await submit(client, "/instance/run-now", id=one.id) for one in (late, held)]
        after = (await client.get(f"/instances/{late.id}")).text
        await node.audit_trail.flush()
        records = {(one.criteria, one.count, one.result) for one in await node.audit() if one.verb == "RunNow"}
    assert (buttons, moved.status_code, "Run now" in after) == ([True, False], 303, False)
    assert "Due now." in notice
    assert [one.status_code for one in refused] == [409, 409]
    assert "is Completed; only one that waits can run now." in refused[0].text
    assert (f"uuid={late.id}", 1, "ok") in records


async def test_all_that_match_are_cancelled_in_steps() -> None:
    async with Node("memory://", jobs=JOBS, workers=0) as node, pages_of(node, Role.OPERATOR) as client:
        await node.schedule_many(node.job("hold").call() for _ in range(1_200))
        kept = await node.schedule("add", 1, 2)
        asked = await submit(client, "/instances/act", verb="cancel", scope="all", f_kind="hold")
        assert "Cancel 1,200 instances?" in asked.text
        fields = dict(re.findall(r'name="([^"]+)" value="([^"]*)"', asked.text))
        late = await node.schedule("hold")
        counts: list[int] = []
        while "Finished." not in asked.text:
            fields |= dict(re.findall(r'name="([^"]+)" value="([^"]*)"', asked.text))
            asked = await client.post("/instances/act", data=fields)
            counts.append(await node.count())
            assert len(counts) < 10
        assert "Cancelled: 1,200" in asked.text
        assert len(counts) >= 3
        assert (await late.refresh()).state is State.SCHEDULED, "what came after the question stays"
        assert (await kept.refresh()).state is State.SCHEDULED
        await node.audit_trail.flush()
        steps = [one.count or 0 for one in await node.audit() if one.verb == "CancelInstances"]
        # a step ends with a millisecond, so it can be smaller
        assert (sum(steps), max(steps) <= 500) == (1_200, True)


async def test_each_that_matches_is_retried_once() -> None:
    async with Node("memory://", jobs=JOBS) as node, pages_of(node, Role.OPERATOR) as client:
        made = await node.schedule_many(node.job("add").call(number, 1) for number in range(steps.STEP + 20))
        for one in made:
            await one.wait(60)
        asked = await submit(client, "/instances/act", verb="retry", scope="all", f_state="completed", f_kind="add")
        while "Finished." not in asked.text:
            fields = dict(re.findall(r'name="([^"]+)" value="([^"]*)"', asked.text))
            asked = await client.post("/instances/act", data=fields)
        olds = [str(one.retry_of) async for one in node.iter_instances() if one.retry_of is not None]
    assert sorted(olds) == sorted(one.id for one in made)


async def _made_at_once(node: Node, kind: str, groups: list[int]) -> list[str]:
    """Schedule groups of instances, each of one millisecond."""
    begin, made = node.clock.time_us() // 1000 - 60_000, list[str]()
    for place, size in enumerate(groups):
        for number in range(size):
            id = str(UUID(f"{begin + place:012x}7{number:03x}8000000000000000"))
            made.append((await node.schedule_as(id, node.job(kind).call())).id)
    return made


@pytest.mark.parametrize("verb", ["cancel", "retry"])
@pytest.mark.parametrize("groups", [[12], [3, 3, 3], [1, 12, 1], [4, 1, 9], [2, 2], [5]])
async def test_a_step_is_never_larger_than_it_says(
    verb: steps.Verb, groups: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(steps, "STEP", 5)

    async def once(made_by: Callable[[str], str]) -> str:
        return IdSource(node.clock).one()

    async with Node("memory://", jobs=JOBS, workers=0) as node:
        made = await _made_at_once(node, "hold", groups)
        if verb == "retry":
            await node.cancel_instances(Query(kind="hold"))
        last = (await node.lookup_instances(Query(order="desc", limit=1)))[0].created_at
        query = steps.matching(verb, Query(kind="hold", before=last + steps.MILLISECOND))
        assert query is not None
        counts: list[int] = []
        while True:
            result = await steps.step(node, verb, query, once)
            counts.append(result.count)
            if result.after is None:
                break
            query = replace(query, after=result.after, cursor=result.cursor)
        assert max(counts) <= 5
        assert sum(counts) == len(made)
        states = [(await node.lookup_instance(id)).state for id in made]
        olds = [str(one.retry_of) async for one in node.iter_instances() if one.retry_of is not None]
    assert set(states) == {State.CANCELLED}
    assert sorted(olds) == (sorted(made) if verb == "retry" else [])


async def test_selected_instances_are_asked_for_and_cancelled() -> None:
    async with Node("memory://", jobs=JOBS, workers=0) as node, pages_of(node, Role.OPERATOR) as client:
        made = [await node.schedule("hold") for _ in range(3)]
        ids = [made[0].id, made[2].id]
        asked = await submit(client, "/instances/act", verb="cancel", scope="selected", id=ids)
        assert "Cancel 2 instances?" in asked.text
        assert await node.count() == 3
        done = await submit(client, "/instances/act", verb="cancel", scope="selected", id=ids, go="1")
        none = await submit(client, "/instances/act", verb="cancel", scope="selected")
        assert [(await one.refresh()).state for one in made] == [State.CANCELLED, State.SCHEDULED, State.CANCELLED]
    assert (done.status_code, none.status_code) == (303, 303)


async def test_a_selected_instance_that_is_gone_keeps_no_other_one_from_its_retry() -> None:
    async with Node("memory://", jobs=JOBS) as node, pages_of(node, Role.OPERATOR) as client:
        done = [await node.schedule("add", 1, 2) for _ in range(2)]
        for one in done:
            await one.wait(30)
        gone = [done[0].id, str(uuid4())]
        await submit(client, "/instances/act", verb="retry", scope="selected", id=[*gone, done[1].id], go="1")
        olds = [str(one.retry_of) async for one in node.iter_instances() if one.retry_of is not None]
    assert sorted(olds) == sorted(one.id for one in done)


async def test_only_an_admin_removes_and_only_by_time() -> None:
    async with Node("memory://", jobs=JOBS) as node:
        await (await node.schedule("add", 1, 2)).wait(30)
        async with pages_of(node, Role.OPERATOR) as client:
            assert "Remove…" not in (await client.get("/instances")).text
            assert (await submit(client, "/instances/act", verb="clear", scope="all", go="1")).status_code == 403
        async with pages_of(node, Role.ADMIN) as client:
            assert "Remove…" in (await client.get("/instances")).text
            for given in ({"scope": "all", "f_kind": "add"}, {"scope": "selected", "id": str(uuid4())}):
                refused = await submit(client, "/instances/act", verb="clear", go="1", **given)
                assert refused.status_code == 400
                assert "removes final instances by their time of creation only" in refused.text
            assert await node.count() == 1
            assert (await submit(client, "/instances/act", verb="clear", scope="all", go="1")).status_code == 200
            assert await node.count() == 0


async def test_peerjobs_own_jobs_need_an_admin() -> None:
    async def own() -> None: ...

    async with Node("memory://", jobs=[Job("system.own", own), *JOBS]) as node, pages_of(node, Role.OPERATOR) as client:
        one = await node.schedule("system.own")
        await one.wait(30)
        refused = [
            await submit(client, "/instance/retry", id=one.id),
            await submit(client, "/instance/again", id=one.id, arguments='{"args": []}'),
            await submit(client, "/instances/act", verb="retry", scope="selected", id=one.id, go="1"),
            await submit(client, "/instances/act", verb="retry", scope="all", go="1"),
        ]
        assert [answer.status_code for answer in refused] == [403] * 4
        assert await node.count() == 1


async def test_the_search_leads_to_what_it_names() -> None:
    async with Node("memory://", jobs=JOBS) as node, pages_of(node, Role.READER) as client:
        made = await node.schedule("add", 1, 2)
        await made.wait(30)
        links = [
            (await client.get("/search", params={"q": q})).headers["location"] for q in (made.id, "add", "sums", "")
        ]
        nothing = await client.get("/search", params={"q": "ad"})
    assert links == [f"/instances/{made.id}", "/kinds/add", "/instances?tag=sums", "/instances"]
    assert nothing.status_code == 200
    assert 'href="/kinds/add"' in nothing.text


@pytest.mark.parametrize(
    ("hours", "waits", "final"), [(2.1, "in 2h05m", "in 2h05m"), (-2.1, "2h06m late", "2h06m ago")]
)
async def test_the_due_time_of_a_waiting_instance_is_worded_as_by_jobctl(hours: float, waits: str, final: str) -> None:
    async with Node("memory://", jobs=JOBS, workers=0) as node, pages_of(node) as client:
        at = to_datetime(node.clock.time_us()) + timedelta(hours=hours)
        one = await node.schedule(node.job("hold").with_options(at=at))
        page, rows = [(await client.get(path)).text for path in (f"/instances/{one.id}", "/instances")]
        await one.cancel()
        after = (await client.get(f"/instances/{one.id}")).text
    assert re.search(rf'<dd id="due"><time data-planned [^>]+>{waits}</time>', page)
    assert hours < 0 or re.search(f"due <time data-planned [^>]+>{waits}</time>", rows)
    assert re.search(rf'<dd id="due"><time datetime=[^>]+>{final}</time>', after)
