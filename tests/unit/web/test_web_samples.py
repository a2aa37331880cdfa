"""What all pages and live views of a process share: the samples, the lists, the feeds, and the number of views."""

import asyncio
import json
import re
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import httpx
import pytest
from starlette.requests import Request
from starlette.types import Message

from peerjob import INJECTED, Instance, Job, Node, Principal, Rights, Role, StoreUnavailableError
from peerjob.model.clock import to_datetime
from peerjob.model.record import NodeInfo, NodeView
from peerjob.node.observe.observer import Observer
from peerjob.testing.clock import VirtualClock
from peerjob.web import dashboard, feeds, live, viewers
from peerjob.web.pages.overview import kind_rows
from peerjob.web.rendering import Renderer
from peerjob.web.samples import GONE_US, INTERVAL, MAX_OLDEST, Sample, Samples, gone_nodes
from support.dashboards import allowing, browsing, pages_of
from support.waiting import until


class Verbs(Observer):
    """Counts the calls of the store by verb."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def store_called(self, verb: str, seconds: float) -> None:
        self.calls.append(verb)


async def _take(samples: AsyncGenerator[Sample], count: int) -> list[Sample]:
    return [await anext(samples) for _ in range(count)]


async def test_many_readers_cost_as_much_as_one(clock: VirtualClock) -> None:
    verbs = Verbs()
    async with Node("memory://", jobs=Job("echo", str), workers=0, clock=clock) as node:
        node.observe(verbs)
        samples = Samples(node)
        readers = [samples.follow() for _ in range(50)]
        taking = [asyncio.create_task(_take(one, 10)) for one in readers]
        await clock.advance(INTERVAL * 12)
        found = [await one for one in taking]
        for one in readers:
            await one.aclose()
    assert all([sample.version for sample in one] == list(range(1, 11)) for one in found)
    assert verbs.calls.count("health") <= 13


async def test_without_readers_nothing_is_read(clock: VirtualClock) -> None:
    verbs = Verbs()
    async with Node("memory://", clock=clock) as node:
        samples = Samples(node)
        async with aclosing(samples.follow()) as reader:
            await anext(reader)
        node.observe(verbs)
        await clock.advance(60)
    assert "health" not in verbs.calls


async def test_an_absence_keeps_the_values_and_their_time(clock: VirtualClock, monkeypatch: pytest.MonkeyPatch) -> None:
    async with Node("memory://", jobs=Job("echo", str), workers=0, clock=clock) as node:
        await node.schedule("echo", 1)
        samples = Samples(node)
        before = await samples.current()

        async def away() -> None:
            raise StoreUnavailableError("memory://", "it is away")

        with monkeypatch.context() as patch:
            patch.setattr(node, "stats", away)
            await clock.advance(30)
            during = await samples.current()
        await clock.advance(30)
        after = await samples.current()
    assert (before.absence, after.absence) == ("", "")
    assert "it is away" in during.absence
    assert during.stats == before.stats
    assert during.at_us == before.at_us < after.at_us


def test_a_node_that_left_is_shown_for_a_while() -> None:
    one, other = (NodeView(info=NodeInfo(name=name, incarnation=name)) for name in ("a", "b"))
    both = Sample(nodes=(one, other))
    missed = gone_nodes(both, (one,), 1_000)
    assert missed == ((other, 1_000),)
    later = Sample(nodes=(one,), gone=missed)
    assert gone_nodes(later, (one,), 2_000) == missed
    assert gone_nodes(later, (one, other), 2_000) == ()
    assert gone_nodes(later, (one,), 1_000 + GONE_US) == ()


async def test_a_feed_is_shared_and_keeps_the_last_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    async def work() -> None: ...

    async with Node("memory://", jobs=Job("work", work), workers=0) as node:
        made = await node.schedule("work")
        shared = feeds.Feeds(node)
        async with shared.open(made.id) as one, shared.open(made.id) as other:
            assert one is other
            while one.instance is None:
                await one.news(5)
            await made.cancel()
            while not one.ended:
                await one.news(5)
            assert one.instance.state.is_final
        async with shared.open(made.id) as again:
            assert again is not one


async def _has_lines(node: Node, id: str, count: int) -> bool:
    return sum([len(page.lines) async for page in node.log_pages(id)]) == count


async def _view(client: httpx.AsyncClient, id: str, last: str) -> str:
    """The text of a live view."""
    async with asyncio.timeout(60):
        answer = await client.get(f"/live/instances/{id}")
    assert last in answer.text
    return answer.text


async def test_views_of_an_instance_share_its_rendered_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    async def chat(lines: int, instance: Instance[None] = INJECTED) -> None:
        for number in range(lines):
            instance.log.info("line %s of the log", number)
        await asyncio.Event().wait()

    rendered: list[str] = []
    text = Renderer.text

    def counted(self: Renderer, template: str, **values: Any) -> str:
        rendered.append(template)
        return text(self, template, **values)

    monkeypatch.setattr(feeds, "MAX_LINES", 200)
    monkeypatch.setattr(feeds, "CHUNK", 20)
    async with Node("memory://", jobs=Job("chat", chat)) as node, pages_of(node) as client:
        one = await node.schedule("chat", 500)
        await until(lambda: _has_lines(node, one.id, 500))
        monkeypatch.setattr(Renderer, "text", counted)
        reading = [asyncio.create_task(_view(client, one.id, "line 499 of the log")) for _ in range(30)]
        await until(lambda: rendered.count("instance_actions.html") >= 30)
        assert await one.cancel()
        texts = await asyncio.gather(*reading)
    chunks = feeds.MAX_LINES // feeds.CHUNK
    assert chunks <= rendered.count("log_lines.html") <= 500 // feeds.CHUNK + 1
    assert rendered.count("instance_history.html") <= 10
    for one_text in texts:
        numbers = [int(found) for found in re.findall(r"line (\d+) of the log", one_text)]
        assert numbers == list(range(numbers[0], 500)), "no line is missing or twice"
        assert feeds.MAX_LINES <= len(numbers) <= 500


async def test_other_requests_come_between_the_turns_of_views() -> None:
    views, done = viewers.Viewers(), list[int]()

    async def work(number: int) -> None:
        await views.wait_for_others()
        done.append(number)

    working = [asyncio.create_task(work(number)) for number in range(50)]
    for _ in range(20):  # a page that needs twenty steps
        await asyncio.sleep(0)
    assert len(done) <= 20
    await asyncio.gather(*working)
    assert done == list(range(50))


async def test_views_above_the_limit_get_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(viewers, "MAX_VIEWERS", 0)
    async with Node("memory://") as node, pages_of(node) as client:
        answer = await client.get("/live/overview")
        page = await client.get("/instances")
    assert answer.status_code == 503
    assert "live views are open already" in answer.text
    assert "data-live" not in page.text


async def test_a_live_view_sends_what_has_changed(clock: VirtualClock) -> None:
    async with Node("memory://", jobs=Job("echo", str), workers=0, clock=clock) as node, pages_of(node) as client:
        reading = asyncio.create_task(client.get("/live/overview"))
        await clock.advance(INTERVAL * 3)
        await node.schedule("echo", 1)
        await clock.advance(120)
        text = (await reading).text
    data = [line.removeprefix("data: ") for line in text.splitlines() if line.startswith("data: ")]
    events = [json.loads(one) for one in data]
    assert {"tiles", "kinds", "nodes", "activity", "banner"} <= events[0].keys()
    queued = [one["tiles"].count('>1</span> <span class="label">Queued') for one in events if "tiles" in one]
    assert (queued[0], set(queued[1:])) == (0, {1})
    assert "activity" not in events[1]


async def test_a_defect_ends_no_live_view(
    clock: VirtualClock, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with Node("memory://", jobs=Job("echo", str), workers=0, clock=clock) as node:
        samples = Samples(node)

        async def broken() -> None:
            raise RuntimeError("a defect")

        async with aclosing(samples.follow()) as reader:
            with monkeypatch.context() as patch:
                patch.setattr(node, "stats", broken)
                taking = asyncio.create_task(_take(reader, 3))
                await clock.advance(INTERVAL * 4)
                assert all("RuntimeError" in one.absence for one in await taking)
            taking = asyncio.create_task(_take(reader, 2))
            await clock.advance(INTERVAL * 4)
            assert [one.absence for one in await taking][-1] == ""
    logged = [one for one in caplog.records if one.exc_info]
    assert len(logged) == 1, "the same defect is logged once"


async def test_the_limit_of_live_views_holds_in_a_burst(monkeypatch: pytest.MonkeyPatch, clock: VirtualClock) -> None:
    monkeypatch.setattr(viewers, "MAX_VIEWERS", 4)
    monkeypatch.setattr(viewers, "RESERVED_VIEWERS", 1)
    async with Node("memory://", workers=0, clock=clock) as node:
        app = dashboard(node, authorize=allowing(Role.READER))
        async with browsing(app) as client:
            reading = [asyncio.create_task(client.get("/live/overview")) for _ in range(20)]
            await clock.advance(200)
            found = [(await one).status_code for one in reading]
            assert (found.count(200), found.count(503)) == (3, 17)
            again = asyncio.create_task(client.get("/live/overview"))
            await clock.advance(200)
            assert (await again).status_code == 200, "a view that has ended counts no more"


async def test_one_reader_leaves_live_views_to_others_and_all_leave_some_to_admins(
    monkeypatch: pytest.MonkeyPatch, clock: VirtualClock
) -> None:
    monkeypatch.setattr(viewers, "MAX_VIEWERS", 6)
    monkeypatch.setattr(viewers, "MAX_VIEWERS_CALLER", 2)
    monkeypatch.setattr(viewers, "RESERVED_VIEWERS", 2)

    async def by_name(request: Request) -> Principal:
        role, name = request.headers["x-user"].split()
        return Principal(name=name, rights=Rights(role=Role[role]), credential=name)

    async with (
        Node("memory://", workers=0, clock=clock) as node,
        browsing(dashboard(node, authorize=by_name)) as client,
    ):

        async def views(user: str) -> int:
            """How many of three views open for a user."""
            headers = {"x-user": user}
            open_ = [asyncio.create_task(client.get("/live/overview", headers=headers)) for _ in range(3)]
            reading.extend(open_)
            await clock.advance(5)
            return sum(not one.done() for one in open_)

        reading: list[asyncio.Task[httpx.Response]] = []
        found = [await views(user) for user in ("READER ann", "READER bob", "READER eve", "ADMIN ada")]
        await clock.advance(200)
        assert found == [2, 2, 0, 2]
        assert {one.status_code for one in await asyncio.gather(*reading)} == {200, 503}


async def test_a_reader_that_takes_no_bytes_gives_its_place_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(viewers, "MAX_VIEWERS", 1)
    monkeypatch.setattr(viewers, "RESERVED_VIEWERS", 0)
    monkeypatch.setattr(live, "LONGEST", 0.2)
    monkeypatch.setattr(live, "HEARTBEAT", 0.1)
    full = asyncio.Event()

    async def receive() -> Message:
        await asyncio.Event().wait()
        raise AssertionError

    async def send(message: Message) -> None:
        if message["type"] == "http.response.body":
            full.set()
            await asyncio.Event().wait()  # the buffers are full

    async with Node("memory://", workers=0) as node:
        app = dashboard(node, authorize=allowing(Role.READER))
        scope = {"type": "http", "method": "GET", "path": "/live/overview", "query_string": b"", "headers": []}
        stuck = asyncio.create_task(app({**scope, "server": ("127.0.0.1", 80), "scheme": "http"}, receive, send))
        await full.wait()
        async with browsing(app) as client:
            assert (await client.get("/live/overview")).status_code == 503
            async with asyncio.timeout(5):
                await stuck
            monkeypatch.setattr(live, "HEARTBEAT", 15.0)
            assert (await client.get("/live/overview")).status_code == 200


async def test_kinds_with_delayed_instances_only_have_no_oldest_wait(clock: VirtualClock) -> None:
    jobs = [Job(kind, str) for kind in ("busy", "later", "seen", "mixed")]
    async with Node("memory://", jobs=jobs, workers=0, clock=clock) as node:
        await node.schedule_many(Job("seen", str).with_options(after="1h").call(n) for n in range(2))
        await node.schedule_many(Job("busy", str).call(n) for n in range(MAX_OLDEST))
        await clock.advance(60)
        await node.schedule_many(Job("later", str).with_options(after="1h").call(n) for n in range(3))
        await node.schedule(Job("mixed", str).with_options(after="1h"), 1)
        await node.schedule("mixed", 1)
        await clock.advance(30)
        sample = await Samples(node).current()
        rows = {row.kind: row.oldest for row in kind_rows(sample, to_datetime(sample.at_us))}
    assert rows == {"busy": "90s", "later": "–", "seen": "–", "mixed": "30s"}
