"""Limits from outside a node: the verbs of a client, jobctl, the dashboard, metrics and the scaler."""

import asyncio
import io
from collections.abc import AsyncIterator
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner

from peerjob import (
    Client,
    Job,
    KeyLimit,
    KeyLimitView,
    Limit,
    LimitView,
    Manager,
    Metrics,
    Node,
    OptionError,
    Server,
    UnknownKindError,
)
from peerjob.cli.ctl.limits import KEYS, LIMITS
from peerjob.cli.ctl.output import Format, Printer, TableView
from peerjob.cli.jobctl import app
from peerjob.handles.observing import observe
from peerjob.handles.reasons import why_instance
from peerjob.model.clock import to_datetime
from peerjob.model.stored_limit import LimitPage
from peerjob.remote.scaler.demand import DemandReader
from peerjob.remote.scaler.metadata import Trigger, read_trigger
from support.dashboards import pages_of, submit
from support.rpc import served
from support.waiting import until


async def hold(tenant: str = "x") -> None:
    await asyncio.Event().wait()


FEW = Limit("few", concurrency=2, rate="1000/s", burst=1000)
JOBS = (
    Job("one", hold, limits=[FEW]),
    Job("two", hold, limits=[FEW, KeyLimit("tenant/{tenant}")]),
    Job("free", hold),
)


@pytest.fixture
async def site() -> AsyncIterator[tuple[Node, Server]]:
    async with served(*JOBS, workers=8) as both:
        yield both


@pytest.fixture
def node(site: tuple[Node, Server]) -> Node:
    return site[0]


@pytest.fixture
async def client(site: tuple[Node, Server]) -> AsyncIterator[Client]:
    async with Client(site[1].target) as found:
        yield found


async def limits_of(manager: Manager) -> list[LimitView]:
    return [view async for view in manager.limits()]


async def test_a_client_shows_what_the_node_shows(node: Node, client: Client) -> None:
    for _ in range(3):
        await client.schedule("one")
    for tenant in ("a", "a", "b"):
        await client.schedule("two", tenant)

    async def full() -> bool:
        return (await limits_of(node))[0].running == 2

    await until(full)
    await client.pause_kind("free", "a note")
    views = await limits_of(client)
    assert views == await limits_of(node)
    assert [(view.name, view.kinds) for view in views] == [("few", ("one", "two")), ("", ("free",)), ("", ("two",))]
    assert (views[0].concurrency, views[0].rate, views[0].remaining, views[0].waiting) == (2, "1000/s", 0, 3)
    assert (views[1].paused, views[1].note) == (True, "a note")
    keys = [view async for view in client.key_limits("two")]
    assert keys == [view async for view in node.key_limits("two")]
    assert sorted((view.key, view.admitted, view.waiting) for view in keys) == [("tenant/a", 1, 1), ("tenant/b", 1, 0)]
    assert [view.key async for view in client.key_limits("two", waiting_only=True)] == ["tenant/a"]
    assert [view.key async for view in client.key_limits("two", prefix="tenant/b")] == ["tenant/b"]

    await client.resume_kind("free")
    assert [view.name for view in await limits_of(node)] == ["few", ""]


async def test_a_client_sets_limits_and_gets_the_errors_of_the_node(node: Node, client: Client) -> None:
    await client.set_limit("few", concurrency=7, note="more")
    await client.set_key_limit("two", concurrency=3)
    by_name = {view.name or view.kinds[0]: view for view in await limits_of(node)}
    assert (by_name["few"].concurrency, by_name["few"].rate, by_name["few"].source) == (7, "1000/s", "setting")
    assert (by_name["two"].concurrency, by_name["two"].source) == (3, "setting")
    await client.set_limit("few")
    await client.set_key_limit("two")
    assert {view.source for view in await limits_of(node)} == {"code"}
    for call in (
        client.set_limit("none", concurrency=1),
        client.set_limit("few", concurrency=0),
        client.set_limit("few", rate="often"),
        client.set_key_limit("one", concurrency=1),
        client.set_key_limit("two", concurrency=0),
    ):
        with pytest.raises(OptionError):
            await call
    with pytest.raises(UnknownKindError):
        await client.pause_kind("unknown")


async def test_why_names_the_limit_and_its_holders_also_through_a_client(node: Node, client: Client) -> None:
    running = [await client.schedule("one") for _ in range(2)]
    await until(lambda: sum(worker.kind == "one" for worker in node.workers()) == 2)
    waiting = await client.schedule("one")
    (why,) = why_instance(await observe(client, waiting, to_datetime(node.clock.time_us())))
    assert why.startswith("limit 'few' is full: 2 of 2 run (")
    assert all(f"{one.id} on {node.name}" in why for one in running)
    assert why_instance(await observe(node, waiting, to_datetime(node.clock.time_us()))) == [why]


def shown(rows: list[Any], view: TableView[Any], *, width: int) -> tuple[str, str]:
    printer = Printer(Format.TABLE)
    out = io.StringIO()
    printer.console = Console(file=out, width=width, highlight=False, soft_wrap=False)
    printer.many(rows, view)
    return out.getvalue(), ""


def test_the_tables_of_jobctl_fit_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    kinds = tuple(f"some.kind.with.a.long.name.{number}" for number in range(50))
    rows = [
        LimitView(name="payments", kinds=kinds, concurrency=10, period_us=600_000, running=10, remaining=0, waiting=7),
        LimitView(kinds=("charge",), concurrency=2, running=8, source="setting"),
        LimitView(kinds=("old",), paused=True, note="migration"),
        LimitView(name="api", kinds=("call",), period_us=10_000, burst=10, remaining=0, opens_us=1),
    ]
    text, _ = shown(rows, LIMITS, width=80)
    assert max(map(len, text.splitlines())) <= 80
    assert [line.split()[0] for line in text.splitlines()] == ["LIMIT", "payments", "(charge)", "(old)", "api"]
    for word in ("full", "2/key", "paused", "closed", "100/min", "100/s"):
        assert word in text
    keys = [KeyLimitView(key="tenant/" + "x" * 20, concurrency=2, admitted=2, waiting=49_112), KeyLimitView(key="")]
    text, _ = shown(keys, KEYS, width=80)
    assert "(without a key)" in text
    assert max(map(len, text.splitlines())) <= 80
    shown([], LIMITS, width=80)
    shown([], KEYS, width=80)
    assert capsys.readouterr().err == (
        "jobctl: no limit: no kind has one, and none is paused\n"
        "jobctl: no key: no unfinished instance of this kind is due\n"
    )


async def test_the_dashboard_shows_limits_and_pauses_kinds(node: Node) -> None:
    async with pages_of(node) as browser:
        for tenant in ("a", "a"):
            await node.schedule("two", tenant)
        page = (await browser.get("/limits")).text
        assert "few" in page
        assert "each key of two" in page
        assert "tenant/a" in (await browser.get("/limits", params={"kind": "two"})).text
        assert "tenant/a" not in (await browser.get("/limits", params={"kind": "two", "q": "b"})).text
        assert (await submit(browser, "/limits/pause", kind="free", note="a note")).status_code == 303
        page = (await browser.get("/limits")).text
        assert "paused" in page
        assert "a note" in page
        assert "kind free</a>" in page
        assert "each key of free" not in page
        assert (await submit(browser, "/limits/pause", kind="unknown")).status_code == 404
        await submit(browser, "/limits/resume", kind="free")
        assert "a note" not in (await browser.get("/limits")).text
        await node.audit_trail.flush()
        assert {(one.verb, one.criteria) for one in await node.audit()} >= {
            ("PauseKind", "kind=free"),
            ("ResumeKind", "kind=free"),
        }


async def test_the_dashboard_sets_numbers(node: Node) -> None:
    async with pages_of(node) as browser:
        page = (await browser.get("/limits")).text
        assert page.count("<option") == 2
        shared = {"name": "few", "concurrency": "7", "rate": "5/min", "burst": "2", "note": "more"}
        assert (await submit(browser, "/limits/set", **shared)).status_code == 303
        assert (await submit(browser, "/limits/set-keys", kind="two", concurrency="3", burst="9")).status_code == 303
        few, two = await limits_of(node)
        assert (few.concurrency, few.rate, few.burst, few.note, few.source) == (7, "5/min", 2, "more", "setting")
        assert (two.concurrency, two.source) == (3, "setting")
        await submit(browser, "/limits/set", name="few", concurrency="", rate=" ")
        await submit(browser, "/limits/set-keys", kind="two", concurrency="")
        assert {view.source for view in await limits_of(node)} == {"code"}
        for fields in (
            {"concurrency": "-1"},
            {"burst": "x"},
            {"rate": "often"},
            {"concurrency": "0"},
            {"name": "none"},
        ):
            refused = await submit(browser, "/limits/set", **{"name": "few", "concurrency": "1", **fields})
            assert refused.status_code == 400, fields
        assert (await submit(browser, "/limits/set-keys", kind="one", concurrency="1")).status_code == 400
        await node.audit_trail.flush()
        assert {(one.verb, one.criteria) for one in await node.audit()} >= {
            ("SetLimit", "name=few concurrency=7 rate=5/min burst=2"),
            ("SetKeyLimit", "kind=two concurrency=3"),
        }


async def test_the_dashboard_means_the_limit_that_it_shows(node: Node) -> None:
    """Names that differ in the blanks around them are different names."""
    node.register(Job(" two", hold, limits=[Limit(" few", concurrency=2), KeyLimit("{tenant}")]))
    async with pages_of(node) as browser:
        await until(lambda: _has(node, " few"))
        await node.schedule(" two", "other")
        assert "other" in (await browser.get("/limits", params={"kind": " two"})).text
        await submit(browser, "/limits/set", name=" few", concurrency="7")
        await submit(browser, "/limits/set-keys", kind=" two", concurrency="3")
        await submit(browser, "/limits/pause", kind=" two")
        changed = {
            view.name or view.kinds[0] for view in await limits_of(node) if view.source == "setting" or view.paused
        }
        assert changed == {" few", " two"}
        await submit(browser, "/limits/resume", kind=" two")
        assert not any(view.paused for view in await limits_of(node))


async def _has(node: Node, limit: str) -> bool:
    return limit in {view.name for view in await limits_of(node)}


async def test_jobctl_sets_numbers(site: tuple[Node, Server]) -> None:
    node, server = site

    async def jobctl(*words: str) -> str:
        result = await asyncio.to_thread(CliRunner().invoke, app, [*words, "--address", server.target])
        if result.exception is not None:
            raise result.exception
        return result.output

    numbers = ("--concurrency", "7", "--rate", "5/min", "--burst", "2", "--note", "more")
    assert await jobctl("limits", "set", "few", *numbers) == "jobctl: limit few has the numbers of this setting\n"
    assert "each key of two" in await jobctl("limits", "set", "--kind", "two", "--concurrency", "3")
    few, two = await limits_of(node)
    assert (few.concurrency, few.rate, few.burst, few.note, two.concurrency) == (7, "5/min", 2, "more", 3)
    assert "5/min" in await jobctl("limits")
    assert await jobctl("limits", "set", "few", "--clear") == "jobctl: limit few has the numbers of the code\n"
    await jobctl("limits", "set", "-k", "two", "--clear")
    assert {view.source for view in await limits_of(node)} == {"code"}
    for wrong in (
        (), ("few",), ("few", "-k", "two", "--clear"), ("few", "--clear", "--rate", "5/s"),
        ("-k", "two", "--concurrency", "2", "--burst", "3"), ("none", "--concurrency", "1"),
    ):  # fmt: skip
        with pytest.raises(OptionError):
            await jobctl("limits", "set", *wrong)
    assert {view.source for view in await limits_of(node)} == {"code"}


async def test_metrics_have_shared_limits_only(node: Node) -> None:
    for tenant in ("a", "a", "b"):
        await node.schedule("two", tenant)
    await until(lambda: any(worker.kind == "two" for worker in node.workers()))
    _, text = await Metrics(node).exposition()
    lines = text.decode().splitlines()
    assert 'peerjob_limit_concurrency{limit="few"} 2.0' in lines
    assert any(line.startswith('peerjob_limit_running{limit="few"}') for line in lines)
    assert "tenant" not in text.decode()


async def test_metrics_read_no_further_than_the_shared_limits(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    """Thousands of kinds with key limits come behind them, and a scrape must end in time."""
    first = await node._limit_page()  # pyright: ignore[reportPrivateUsage]

    async def page(cursor: str | None = None) -> LimitPage:
        assert cursor is None
        return LimitPage(first.views, "more")

    monkeypatch.setattr(node, "_limit_page", page)
    _, text = await Metrics(node).exposition()
    assert 'peerjob_limit_concurrency{limit="few"} 2.0' in text.decode().splitlines()


async def test_jobs_that_more_nodes_cannot_start_do_not_count_for_the_scaler(node: Node) -> None:
    def trigger(kinds: str = "") -> Trigger:
        return read_trigger({"kinds": kinds} if kinds else {}, 1)

    await node.pause_kind("free")
    for kind in ("one", "free"):
        for _ in range(10):
            await node.schedule(kind)
    for _ in range(5):
        await node.schedule("two", "a")

    async def full() -> bool:
        return (await limits_of(node))[0].running == 2

    await until(full)
    demand = await DemandReader(node).read()
    assert demand.jobs(trigger()) == 2
    assert demand.jobs(trigger("free")) == 0
    assert demand.jobs(trigger("one,two")) == 2
    await node.resume_kind("free")
    await until(lambda: sum(worker.kind == "free" for worker in node.workers()) == 6)
    demand = await DemandReader(node).read()
    assert demand.jobs(trigger("free")) == 10
