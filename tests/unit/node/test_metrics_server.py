"""The endpoint that Prometheus scrapes."""

import asyncio
import functools
import socket
from collections.abc import AsyncIterator

import httpx
import pytest

from peerjob import Job, MetricsServer, Node, OptionError, serve_metrics
from peerjob.node.observe.metrics.http import MAX_CONNECTIONS
from support.scrapes import samples_of
from support.waiting import until

# a busy machine is no error, and a proxy of the environment must not get requests to this machine
http_client = functools.partial(httpx.AsyncClient, timeout=60, trust_env=False)


def nothing() -> None:
    pass


@pytest.fixture
async def server() -> AsyncIterator[MetricsServer]:
    async with Node("memory://", jobs=Job("nothing", nothing)) as node:
        server = await serve_metrics(node, "127.0.0.1:0")
        try:
            yield server
        finally:
            await server.stop()


async def raw(server: MetricsServer, request: bytes) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    try:
        writer.write(request)
        return await reader.read()
    finally:
        writer.close()


async def test_a_scrape_reads_the_metrics(server: MetricsServer) -> None:
    async with http_client() as http:
        answer = await http.get(server.url)

    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain; version=")
    assert samples_of(answer.text)["peerjob_registered"] == {(): 1}
    assert "process_resident_memory_bytes" in answer.text


async def test_openmetrics_is_served_on_request(server: MetricsServer) -> None:
    async with http_client() as http:
        answer = await http.get(server.url, headers={"Accept": "application/openmetrics-text; version=1.0.0"})

    assert answer.headers["content-type"].startswith("application/openmetrics-text")
    assert answer.text.endswith("# EOF\n")


@pytest.mark.parametrize("version", ["x", "1.x", "", "9" * 5_000, "-1", "1.0.0.0.0"])
async def test_a_version_that_is_none_is_answered_all_the_same(server: MetricsServer, version: str) -> None:
    async with http_client() as http:
        answer = await http.get(server.url, headers={"Accept": f"application/openmetrics-text; version={version}"})
    assert answer.status_code == 200
    assert "peerjob_" in answer.text


async def test_many_scrapes_at_a_time_are_answered(server: MetricsServer) -> None:
    async with http_client() as http:
        answers = await asyncio.gather(*(http.get(server.url) for _ in range(20)))

    assert {answer.status_code for answer in answers} == {200}


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("HEAD", "/metrics", 200), ("GET", "/metrics?x=1", 200), ("GET", "/", 404), ("POST", "/metrics", 405)],
)
async def test_other_requests_get_the_reason(server: MetricsServer, method: str, path: str, status: int) -> None:
    async with http_client() as http:
        answer = await http.request(method, server.url.removesuffix("/metrics") + path)

    assert answer.status_code == status
    if method == "HEAD":
        assert answer.content == b""
    if status == 404:
        assert answer.text == "there are /metrics, /livez, /readyz, /startupz and /drainz\n"


async def test_probes_are_answered_by_status_and_tell_why(server: MetricsServer) -> None:
    async def ask(path: str) -> tuple[int, str]:
        async with http_client() as http:
            answer = await http.get(server.url.replace("/metrics", path))
        assert answer.headers["content-type"] == "text/plain; charset=utf-8"
        return answer.status_code, answer.text

    for path in ("/livez", "/readyz", "/startupz"):
        status, text = await ask(path)
        assert (status, text.splitlines()[0]) == (200, "ok")
    assert (await ask("/drainz"))[0] == 503

    await server.metrics.node.drain()

    status, text = await ask("/readyz?verbose")
    assert (status, text.splitlines()[0]) == (503, "failed")
    assert "fail  intake: drains or stops, and takes no work" in text
    assert (await ask("/drainz"))[0] == (await ask("/livez"))[0] == 200


@pytest.mark.parametrize(
    "request_", [b"\x00\xff\r\n\r\n", b"GET\r\n\r\n", b"GET /metrics\r\n\r\n", b"\x16\x03\x01" * 9000]
)
async def test_rubbish_is_refused_and_the_next_scrape_answered(server: MetricsServer, request_: bytes) -> None:
    assert (await raw(server, request_)).startswith(b"HTTP/1.1 400 ")
    assert (await raw(server, b"GET /metrics HTTP/1.1\r\n\r\n")).startswith(b"HTTP/1.1 200 ")


def taken_up(server: MetricsServer) -> int:
    """How many connections it is about."""
    return len(server._http._answering)  # pyright: ignore[reportPrivateUsage]


async def about(server: MetricsServer, connections: int) -> bool:
    return taken_up(server) == connections


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """What ends in spite of it ends for another reason."""
    monkeypatch.setattr("peerjob.node.observe.metrics.http.IO_TIMEOUT", 3600)


@pytest.mark.usefixtures("patient")
async def test_who_says_nothing_does_not_hold_up_the_end(server: MetricsServer) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    await until(lambda: about(server, 1))

    async with asyncio.timeout(60):
        await server.stop()
        await server.stop()
        assert await reader.read() == b""
    writer.close()


@pytest.mark.usefixtures("patient")
async def test_who_has_just_come_at_the_end_is_let_go(server: MetricsServer) -> None:
    complaints: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, about: complaints.append(about))
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as connection:
        while not taken_up(server):  # noqa: ASYNC110  # so that its answer has not taken a step yet
            await asyncio.sleep(0)
        async with asyncio.timeout(60):
            await server.stop()
        assert await asyncio.to_thread(connection.recv, 1) == b""
    assert complaints == []


async def test_who_says_nothing_is_let_go(server: MetricsServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("peerjob.node.observe.metrics.http.IO_TIMEOUT", 0.05)
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)

    async with asyncio.timeout(60):
        assert await reader.read() == b""
    writer.close()


@pytest.mark.usefixtures("patient")
async def test_silent_connections_keep_no_probe_out(server: MetricsServer) -> None:
    silent = [await asyncio.open_connection("127.0.0.1", server.port) for _ in range(MAX_CONNECTIONS)]
    await until(lambda: about(server, MAX_CONNECTIONS))

    for closed in range(3):
        assert (await raw(server, b"GET /livez HTTP/1.1\r\n\r\n")).startswith(b"HTTP/1.1 200 ")
        async with asyncio.timeout(60):
            assert await silent[0][0].read() == b"", "the oldest one makes room"
        assert not any(reader.at_eof() for reader, _ in silent[1:]), closed
    for _, writer in silent:
        writer.close()
        await writer.wait_closed()
    await until(lambda: about(server, 0))


async def test_a_taken_port_is_refused_in_one_line(server: MetricsServer) -> None:
    with pytest.raises(OptionError, match="metrics_listen: expected an address of this machine") as caught:
        await serve_metrics(Node("memory://"), f"127.0.0.1:{server.port}")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("listen", ["", "9090", "localhost", "localhost:port", "localhost:70000", ":9090"])
async def test_what_is_no_address_is_refused(listen: str) -> None:
    with pytest.raises(OptionError, match=r"metrics_listen: expected host:port, such as 127\.0\.0\.1:9090"):
        await serve_metrics(Node("memory://"), listen)


async def test_it_may_be_there_before_the_node_and_after_it() -> None:
    node = Node("memory://", jobs=Job("nothing", nothing))
    async with await serve_metrics(node, "127.0.0.1:0") as server, http_client() as http:
        before = samples_of((await http.get(server.url)).text)
        async with node:
            pass
        after = samples_of((await http.get(server.url)).text)

    assert before["peerjob_node_up"] == after["peerjob_node_up"] == {(): 0}
