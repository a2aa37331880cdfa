"""A form acts once, however often it is sent."""

import asyncio
import contextlib
import re
from collections.abc import AsyncGenerator
from html import unescape
from typing import Any

import httpx
import pytest

from peerjob import INJECTED, Context, FireOutcome, Instance, Job, Node, Query, Role, State, StoreUnavailableError
from peerjob.model.clock import Clock
from peerjob.model.ids import id_time_us
from peerjob.testing.clock import VirtualClock
from peerjob.web import dashboard
from peerjob.web.forms import KEPT_SECONDS, MAX_FORMS, SentForms, form_digest, instance_ids, new_form_id
from peerjob.web.security import FORM_ID, TOKEN_FIELD
from support.dashboards import allowing, browsing, pages_of
from support.factories import shared_url
from support.waiting import until


def add(a: int, b: int) -> int:
    return a + b


JOBS = [Job("add", add), Job("tick", lambda: None, every="1h", name="tick")]


async def form_in(client: httpx.AsyncClient, page: str, action: str, **given: str) -> tuple[str, dict[str, str]]:
    """The form of a page that posts to a path, with its hidden fields: where it is sent, and its fields."""
    return form_of((await client.get(page)).text, action, **given)


def form_of(text: str, action: str, **given: str) -> tuple[str, dict[str, str]]:
    (form,) = re.findall(rf'<form method="post"[^>]*action="{action}"(.*?)</form>', text, re.DOTALL) or re.findall(
        rf'<form class="stacked" method="post" action="{action}"(.*?)</form>', text, re.DOTALL
    )
    return action, dict(re.findall(r'type="hidden" name="([^"]+)" value="([^"]*)"', form)) | given


async def _final(node: Node) -> str:
    made = await node.schedule("add", 1, 2)
    await made.wait(30)
    return made.id


@pytest.mark.parametrize("at_once", [True, False])
async def test_a_retry_that_is_sent_twice_makes_one_instance(at_once: bool) -> None:
    async with Node("memory://", jobs=JOBS) as node, pages_of(node, Role.OPERATOR) as client:
        id = await _final(node)
        path, fields = await form_in(client, f"/instances/{id}", "/instance/retry")
        if at_once:
            answers = await asyncio.gather(*(client.post(path, data=fields) for _ in range(3)))
        else:
            answers = [await client.post(path, data=fields) for _ in range(3)]
        assert await node.count() == 2
        assert {one.status_code for one in answers} == {303}
        assert len({one.headers["location"] for one in answers}) == 1
        other, again = await form_in(client, f"/instances/{id}", "/instance/retry")
        await client.post(other, data=again)
        assert await node.count() == 3, "the page opened again has another form"
        await node.audit_trail.flush()
        assert sum(one.calls for one in await node.audit() if one.verb == "RetryInstance") == 2


async def test_a_schedule_form_makes_one_instance_in_several_processes() -> None:
    async with Node("memory://", jobs=JOBS) as node:
        first, second = (dashboard(node, authorize=allowing(Role.OPERATOR)) for _ in range(2))
        async with browsing(first) as client, browsing(second) as other:
            given = {"arg.a": "1", "arg.b": "2"}
            path, fields = await form_in(client, "/kinds/add", "/kinds/schedule", **given)
            other.cookies = client.cookies
            answers = await asyncio.gather(*(one.post(path, data=fields) for one in (client, other)))
            assert await node.count() == 1
            assert answers[0].headers["location"] == answers[1].headers["location"]
            changed = await client.post(path, data=fields | {"arg.b": "3"})
            assert changed.headers["location"] != answers[0].headers["location"], "other fields are another form"
            id = answers[0].headers["location"].rpartition("/")[2]
            page = f"/instance/again?id={id}"
            path, fields = await form_in(client, page, "/instance/again", arguments='{"args": [5, 6]}')
            for one in (client, other):
                assert (await one.post(path, data=fields)).status_code == 303
            assert await node.count() == 3


Clients = tuple[Node, httpx.AsyncClient, httpx.AsyncClient]


@contextlib.asynccontextmanager
async def two_processes(clock: Clock | None = None) -> AsyncGenerator[Clients]:
    """A node, and two dashboards that share nothing but the store and a session."""
    url = shared_url()
    async with Node(url, jobs=JOBS, clock=clock) as node, Node(url, jobs=JOBS, clock=clock, workers=0) as peer:
        first, second = (dashboard(one, authorize=allowing(Role.OPERATOR)) for one in (node, peer))
        async with browsing(first) as client, browsing(second) as other:
            await client.get("/")
            other.cookies = client.cookies
            yield node, client, other


@pytest.mark.parametrize("at_once", [True, False])
async def test_a_retry_and_a_trigger_act_once_in_several_processes(at_once: bool) -> None:
    async with two_processes() as (node, client, other):
        id = await _final(node)
        await node.schedules()
        for page, action in ((f"/instances/{id}", "/instance/retry"), ("/schedules/tick", "/schedules/trigger")):
            before = await node.count()
            path, fields = await form_in(client, page, action)
            if at_once:
                answers = await asyncio.gather(*(one.post(path, data=fields) for one in (client, other)))
            else:
                answers = [await one.post(path, data=fields) for one in (client, other)]
            assert {one.status_code for one in answers} == {303}
            assert len({one.headers["location"] for one in answers}) == 1
            assert await node.count() == before + 1
        assert [one.outcome for one in await node.fires("tick")].count(FireOutcome.TRIGGERED) == 1


async def test_a_form_that_comes_to_another_process_in_the_next_minute_acts_once(clock: VirtualClock) -> None:
    async with two_processes(clock) as (node, client, other):
        id = await _final(node)
        await node.schedules()
        ids = [await _final(node) for _ in range(2)]
        one, fields = await form_in(client, f"/instances/{id}", "/instance/retry")
        trigger, more = await form_in(client, "/schedules/tick", "/schedules/trigger")
        path, selected = await form_in(client, "/instances?kind=add", "/instances/act")
        asked = await client.post(path, data=selected | {"verb": "retry", "id": ids})
        bulk, chosen = form_of(asked.text, "/instances/act")
        forms: list[tuple[str, dict[str, Any]]] = [(one, fields), (trigger, more), (bulk, chosen | {"id": ids})]
        await clock.advance(30)
        places = [(await client.post(path, data=given)).headers["location"] for path, given in forms]
        await clock.advance(45)
        assert places == [(await other.post(path, data=given)).headers["location"] for path, given in forms]
        assert await node.count() == 3 + 1 + 1 + 2


async def test_a_step_acts_once_in_several_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("peerjob.web.steps.STEP", 3)
    async with two_processes() as (node, client, other):
        for _ in range(7):
            await _final(node)
        path, fields = await form_in(client, "/instances?kind=add", "/instances/act")
        asked = await client.post(path, data=fields | {"verb": "retry", "scope": "all"})
        path, fields = form_of(asked.text, "/instances/act")
        while True:
            answers = [await one.post(path, data=fields) for one in (client, other)]
            first, second = (re.sub(r'data-now="[^"]+"', "", answer.text) for answer in answers)
            assert first == second
            if "Finished." in first:
                break
            path, fields = form_of(answers[0].text, "/instances/act")
        assert await node.count() == 14


async def test_a_trigger_that_is_not_allowed_says_why() -> None:
    job = Job("hang", lambda: None, every="1h", name="hang", overlap="skip")
    async with Node("memory://", jobs=[job], workers=0) as node, pages_of(node, Role.OPERATOR) as client:
        await node.trigger_schedule("hang")
        path, fields = await form_in(client, "/schedules/hang", "/schedules/trigger")
        answer = await client.post(path, data=fields)
        (reason,) = {one.reason for one in await node.fires("hang") if one.reason}
        shown = await client.get(answer.headers["location"])
        assert f"No instance was made: {reason}." in unescape(shown.text)


async def test_a_trigger_acts_once() -> None:
    async with Node("memory://", jobs=JOBS) as node, pages_of(node, Role.OPERATOR) as client:
        await node.schedules()
        path, fields = await form_in(client, "/schedules/tick", "/schedules/trigger")
        for _ in range(2):
            await client.post(path, data=fields)
        outcomes = [one.outcome for one in await node.fires("tick")]
        assert outcomes.count(FireOutcome.TRIGGERED) == 1


async def test_a_step_that_is_sent_twice_acts_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("peerjob.web.steps.STEP", 3)
    async with Node("memory://", jobs=JOBS) as node, pages_of(node, Role.OPERATOR) as client:
        for _ in range(7):
            await _final(node)
        path, fields = await form_in(client, "/instances?kind=add", "/instances/act")
        asked = await client.post(path, data=fields | {"verb": "retry", "scope": "all"})
        path, fields = form_of(asked.text, "/instances/act")
        steps = 0
        while True:
            answers = await asyncio.gather(*(client.post(path, data=fields) for _ in range(2)))
            # the pages differ only in the time at which each was made
            first, second = (re.sub(r'data-now="[^"]+"', "", answer.text) for answer in answers)
            assert first == second
            steps += 1
            if "Finished." in answers[0].text:
                break
            path, fields = form_of(answers[0].text, "/instances/act")
        assert steps >= 3
        assert await node.count() == 14


async def test_a_form_that_runs_an_instance_now_acts_once_in_several_processes() -> None:
    async def doze(context: Context = INJECTED) -> None:
        raise context.snooze("1h")

    job = Job("doze", doze, after="1h")
    async with Node("memory://", jobs=job) as node:
        made = await node.schedule(job)
        first, second = (dashboard(node, authorize=allowing(Role.OPERATOR)) for _ in range(2))
        async with browsing(first) as client, browsing(second) as other:
            path, fields = await form_in(client, f"/instances/{made.id}", "/instance/run-now")
            other.cookies = client.cookies
            assert (await client.post(path, data=fields)).status_code == 303
            await until(lambda: _snoozed(made))
            before = made.record
            for one in (client, other, client):
                assert (await one.post(path, data=fields)).status_code == 303
            assert (await made.refresh()).record == before


async def _snoozed(one: Instance[Any]) -> bool:
    return len((await one.refresh()).record.history) == 4


async def test_a_form_whose_outcome_is_unknown_is_not_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    async with Node("memory://", jobs=JOBS) as node, pages_of(node, Role.OPERATOR) as client:
        id = await _final(node)
        path, fields = await form_in(client, f"/instances/{id}", "/instance/retry")
        real = node.retry_instance

        async def lost(uuid: Any, **given: Any) -> Any:
            await real(uuid, **given)
            raise StoreUnavailableError("memory://", "the answer was lost")

        with monkeypatch.context() as patch:
            patch.setattr(node, "retry_instance", lost)
            assert (await client.post(path, data=fields)).status_code == 503
        again = await client.post(path, data=fields)
        assert await node.count() == 2
    assert again.status_code == 409
    assert "it is not known whether it took effect" in again.text


async def test_a_form_that_was_cut_off_does_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("peerjob.web.steps.STEP", 2)
    async with Node("memory://", jobs=JOBS, workers=0) as node, pages_of(node) as client:
        for _ in range(4):
            await node.schedule("add", 1, 2)
            await node.schedule("tick")

        async def acted() -> tuple[int, int, int]:
            cancelled = [await node.count(Query(kind=kind, state=State.CANCELLED)) for kind in ("add", "tick")]
            return cancelled[0], cancelled[1], await node.count()

        async def cut_off(text: str, action: str) -> httpx.Response:
            """Send the fields that stand before a place of the page, for each place, and then all of them."""
            before, (_, fields) = await acted(), form_of(text, action)
            given = list(fields.items())
            for number in range(len(given)):
                await client.post(action, data=dict(given[:number]))
                assert await acted() == before, given[:number]
            return await client.post(action, data=fields)

        path, fields = await form_in(client, "/instances?kind=add", "/instances/act", scope="all", verb="cancel")
        step = await cut_off((await client.post(path, data=fields)).text, path)
        first = (await acted())[0]
        await cut_off(step.text, path)
        assert 0 < first < (await acted())[0]
        assert (await acted())[1:] == (0, 8)
        page = (await client.get("/kinds/add")).text
        form = page[page.index('action="/kinds/schedule"') :]
        assert form.index(f'name="{TOKEN_FIELD}"') > form.index('name="tags"')


async def test_a_form_that_did_nothing_can_be_sent_again() -> None:
    async with Node("memory://", jobs=JOBS, workers=0) as node, pages_of(node, Role.OPERATOR) as client:
        made = await node.schedule("add", 1, 2)
        await client.get("/")
        _, fields = await form_in(client, f"/instances/{made.id}", "/instance/cancel")
        early = await client.post("/instance/retry", data=fields)
        assert (early.status_code, "only a final one" in early.text) == (409, True)
        await made.cancel()
        assert (await client.post("/instance/retry", data=fields)).status_code == 303
        assert await node.count() == 2


async def test_forms_are_forgotten_after_a_while_and_above_a_number(clock: VirtualClock) -> None:
    forms, acted = SentForms[int](), list[str]()

    async def send(digest: str) -> int:
        async def act() -> int:
            acted.append(digest)
            return len(acted)

        return await forms.answer(digest, clock, act, keeps=lambda _: True, is_unknown=lambda _: False)

    assert [await send("a"), await send("a"), await send("b")] == [1, 1, 2]
    await clock.advance(KEPT_SECONDS)
    assert await send("a") == 3
    for number in range(MAX_FORMS):
        await send(str(number))
    assert await send("a") == 4 + MAX_FORMS


def test_an_id_of_a_form_gives_ids_of_about_now(clock: VirtualClock) -> None:
    form, begin = new_form_id(clock), clock.time_us()
    digest = form_digest("s", "ann", "/", {FORM_ID: [form]})
    now, later = instance_ids(form, digest, begin), instance_ids(form, digest, begin + 61_000_000)
    assert len(now) == 1
    assert later[1] == now[0]
    assert later[0] != now[0]
    assert instance_ids(form, digest, begin + 2 * 86_400_000_000) == []
    (since,) = instance_ids(form, digest, begin + 5_000_900, begin + 5_000_001)
    assert id_time_us(since) == begin + 5_001_000
    assert form_digest("s", "ann", "/", {FORM_ID: ["x"]}) == ""
    assert form_digest("s", "ann", "/", {FORM_ID: [form], "a": ["1"]}) != digest
