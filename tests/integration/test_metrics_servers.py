"""Metrics of nodes on real servers: sums over nodes are right, deep queues cost a scrape little, outages show."""

import asyncio
import os
from typing import Any

import httpx
import pytest

from peerjob import INJECTED, Instance, Job, MetricsServer, Node, Query, serve_metrics
from support.division import in_matrix
from support.effort import cpu_seconds
from support.scrapes import Samples, samples_of
from support.servers import ServerProcess
from support.waiting import IN_TIME, PATIENCE, until


async def sleep(seconds: float) -> None:
    await asyncio.sleep(seconds)


SLEEP = Job("sleep", sleep)
pytestmark = pytest.mark.parametrize("durable_server", ["redis", in_matrix("etcd")], indirect=True)


async def scraped(server: MetricsServer) -> Samples:
    async with httpx.AsyncClient(timeout=PATIENCE) as http:
        answer = await http.get(server.url)
    assert answer.status_code == 200
    return samples_of(answer.text)


async def test_the_counts_of_all_nodes_sum_up_to_what_there_was(durable_server: ServerProcess, namespace: str) -> None:
    at_work, all_are = set[str](), asyncio.Event()

    async def share(instance: Instance[Any] = INJECTED) -> None:
        """Take a moment, once both nodes are at work."""
        at_work.add(str(instance.node))
        if len(at_work) == 2:
            all_are.set()
        await all_are.wait()
        await asyncio.sleep(0.01)

    job = Job("sleep", share)
    one = Node(durable_server.url, jobs=job, namespace=namespace, name="one", workers=4)
    two = Node(durable_server.url, jobs=job, namespace=namespace, name="two", workers=4)

    async def scrape_both() -> list[Samples]:
        return [await scraped(first), await scraped(second)]

    async def all_counted() -> bool:
        """A node counts what it ended when it hears that this was accepted, which others may know before it.

        It can renew its lease, and be elected, later than that.
        """
        found = await scrape_both()
        renewed = all(("renew",) in samples["peerjob_store_seconds_sum"] for samples in found)
        leads = one.is_leader or two.is_leader
        return sum(samples["peerjob_completed_total"]["sleep",] for samples in found) >= 300 and renewed and leads

    async with (
        await serve_metrics(one, "127.0.0.1:0") as first,
        await serve_metrics(two, "127.0.0.1:0") as second,
        one,
        two,
    ):
        await one.schedule_many(job.call() for _ in range(300))
        await one.wait(Query.all(), timeout=PATIENCE)
        await until(all_counted)
        samples_of_both = await scrape_both()
        leaders = [node.is_leader for node in (one, two)]

    # both nodes show the same shared values, and each its own
    assert [samples["peerjob_nodes"] for samples in samples_of_both] == [{(): 2}] * 2
    assert [samples["peerjob_leader"][()] for samples in samples_of_both] == leaders
    assert min(samples["peerjob_completed_total"]["sleep",] for samples in samples_of_both) > 0
    for name in ("peerjob_completed_total", "peerjob_executed_total", "peerjob_duration_seconds_count"):
        assert sum(samples[name]["sleep",] for samples in samples_of_both) == 300
    assert sum(samples["peerjob_duration_seconds_sum"]["sleep",] for samples in samples_of_both) > 2.9
    assert all(samples["peerjob_commit_seconds_sum"][()] > 0 for samples in samples_of_both)
    for verb in ("join", "renew", "turn"):
        assert all(samples["peerjob_store_seconds_sum"][verb,] > 0 for samples in samples_of_both)


async def test_a_deep_queue_costs_a_scrape_little(durable_server: ServerProcess, namespace: str) -> None:
    node = Node(durable_server.url, jobs=SLEEP, namespace=namespace, workers=0)
    async with await serve_metrics(node, "127.0.0.1:0") as server, node:
        seconds: list[float] = []
        """Seconds of the processor that a scrape costs. Other work on the machine does not count."""
        scrape_both: Samples = {}
        for count in (100, 9_900):
            await node.schedule_many(SLEEP.call(0) for _ in range(count))
            await asyncio.sleep(1.1)  # until the namespace is read again
            before = sum(map(cpu_seconds, (os.getpid(), durable_server.child.pid)))
            scrape_both = await scraped(server)
            seconds.append(sum(map(cpu_seconds, (os.getpid(), durable_server.child.pid))) - before)

    assert scrape_both["peerjob_queued"] == {("sleep",): 10_000}
    assert scrape_both["peerjob_unserved"] == {("sleep",): 10_000}
    assert scrape_both["peerjob_queue_age_seconds"]["sleep",] > 1
    assert seconds[1] < 10 * seconds[0] + 0.1


async def test_an_outage_shows_while_it_lasts_and_scrapes_go_on(durable_server: ServerProcess, namespace: str) -> None:
    node = Node(durable_server.url, jobs=SLEEP, namespace=namespace, lease_ttl=2)

    async def trusted() -> bool:
        return (await scraped(server))["peerjob_lease_trusted"] == {(): 1}

    async def store_up() -> bool:
        return (await scraped(server))["peerjob_store_up"] == {(): 1}

    async def counted() -> bool:
        """A node counts what it ended when it hears that this was accepted, which others may know before it."""
        return (await scraped(server)).get("peerjob_completed_total") == {("sleep",): 1}

    async with await serve_metrics(node, "127.0.0.1:0") as server, node:
        await (await node.schedule(SLEEP, 0)).wait(PATIENCE)
        await until(counted)
        before = await scraped(server)

        async def outage_shows() -> bool:
            now = await scraped(server)
            more = now["peerjob_errors_total"]["lease",] > before["peerjob_errors_total"]["lease",]
            return more and now["peerjob_store_up"] == now["peerjob_lease_trusted"] == {(): 0}

        durable_server.pause()
        await asyncio.sleep(2)  # for as long as the lease
        await until(outage_shows)
        async with asyncio.timeout(IN_TIME):
            during = await scraped(server)
        durable_server.resume()
        await until(trusted)
        await until(store_up)
        after = await scraped(server)

    assert during["peerjob_lease_age_seconds"][()] > 2
    assert during["peerjob_completed_total"] == after["peerjob_completed_total"] == {("sleep",): 1}
