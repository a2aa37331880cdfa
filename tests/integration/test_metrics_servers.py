"""Metrics of nodes on real servers: sums over nodes are right, deep queues cost a scrape little, outages show."""

import asyncio
import time

import httpx

from peerjob import Job, MetricsServer, Node, Query, serve_metrics
from support.factories import until
from support.scrapes import Samples, samples_of
from support.servers import ServerProcess


async def sleep(seconds: float) -> None:
    await asyncio.sleep(seconds)


SLEEP = Job("sleep", sleep)


async def scraped(server: MetricsServer) -> Samples:
    async with httpx.AsyncClient(timeout=10) as http:
        answer = await http.get(server.url)
    assert answer.status_code == 200
    return samples_of(answer.text)


async def test_the_counts_of_all_nodes_sum_up_to_what_there_was(durable_server: ServerProcess, namespace: str) -> None:
    one = Node(durable_server.url, jobs=SLEEP, namespace=namespace, name="one", workers=4)
    two = Node(durable_server.url, jobs=SLEEP, namespace=namespace, name="two", workers=4)

    async def told() -> list[Samples]:
        return [await scraped(first), await scraped(second)]

    async def all_counted() -> bool:
        """A node counts what it ended when it hears that this was accepted, which others may know before it."""
        return sum(samples["peerjob_completed_total"]["sleep",] for samples in await told()) >= 300

    async with (
        await serve_metrics(one, "127.0.0.1:0") as first,
        await serve_metrics(two, "127.0.0.1:0") as second,
        one,
        two,
    ):
        await one.schedule_many(SLEEP.call(0.01) for _ in range(300))
        await one.wait(Query.all(), timeout=30)
        await until(all_counted)
        samples_of_both = await told()
        leaders = [node.is_leader for node in (one, two)]

    # each node told of both what is shared, and of itself what is its own
    assert [samples["peerjob_nodes"] for samples in samples_of_both] == [{(): 2}] * 2
    assert [samples["peerjob_leader"][()] for samples in samples_of_both] == leaders
    assert min(samples["peerjob_completed_total"]["sleep",] for samples in samples_of_both) > 0
    for name in ("peerjob_completed_total", "peerjob_executed_total", "peerjob_duration_seconds_count"):
        assert sum(samples[name]["sleep",] for samples in samples_of_both) == 300
    assert sum(samples["peerjob_duration_seconds_sum"]["sleep",] for samples in samples_of_both) > 2.9
    assert all(samples["peerjob_commit_seconds_sum"][()] > 0 for samples in samples_of_both)


async def test_a_deep_queue_costs_a_scrape_little(durable_server: ServerProcess, namespace: str) -> None:
    node = Node(durable_server.url, jobs=SLEEP, namespace=namespace, workers=0)
    async with await serve_metrics(node, "127.0.0.1:0") as server, node:
        seconds: list[float] = []
        for count in (100, 9_900):
            await node.schedule_many(SLEEP.call(0) for _ in range(count))
            await asyncio.sleep(1.1)  # until the namespace is read again
            began = time.perf_counter()
            told = await scraped(server)
            seconds.append(time.perf_counter() - began)

    assert told["peerjob_queued"] == {("sleep",): 10_000}
    assert told["peerjob_unserved"] == {("sleep",): 10_000}
    assert told["peerjob_queue_age_seconds"]["sleep",] > 1
    assert seconds[1] < 10 * seconds[0] + 0.1


async def test_an_outage_shows_while_it_lasts_and_scrapes_go_on(durable_server: ServerProcess, namespace: str) -> None:
    node = Node(durable_server.url, jobs=SLEEP, namespace=namespace, lease_ttl=2)

    async def trusted() -> bool:
        return (await scraped(server))["peerjob_lease_trusted"] == {(): 1}

    async def store_up() -> bool:
        return (await scraped(server))["peerjob_store_up"] == {(): 1}

    async with await serve_metrics(node, "127.0.0.1:0") as server, node:
        await (await node.schedule(SLEEP, 0)).wait(10)
        before = await scraped(server)
        durable_server.pause()
        await asyncio.sleep(3)
        began = time.perf_counter()
        during = await scraped(server)
        took = time.perf_counter() - began
        durable_server.resume()
        await until(trusted)
        await until(store_up)
        after = await scraped(server)

    assert took < 5
    assert during["peerjob_store_up"] == during["peerjob_lease_trusted"] == {(): 0}
    assert during["peerjob_lease_age_seconds"][()] > 2
    assert during["peerjob_errors_total"]["lease",] > before["peerjob_errors_total"]["lease",]
    assert during["peerjob_completed_total"] == after["peerjob_completed_total"] == {("sleep",): 1}
