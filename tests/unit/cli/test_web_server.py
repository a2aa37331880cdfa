"""The dashboard of jobd on a real port."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import httpx
import pytest

from peerjob import Job, Node, OptionError, Role, ServerTls, Token, Tokens
from peerjob.cli import web_server
from peerjob.cli.web_server import WebServer
from support.waiting import IN_TIME, until


async def test_loopback_without_tokens_needs_no_sign_in_but_a_name_of_loopback() -> None:
    async with Node("memory://", jobs=Job("echo", str)) as node:
        server = WebServer(node, "127.0.0.1:0")
        await server.start()
        async with httpx.AsyncClient(base_url=server.url) as client:
            page, static = await client.get("/"), await client.get("/static/app.js")
            rebound = await client.get("/", headers={"host": "evil.example"})
        await server.stop()
    assert (page.status_code, static.status_code, rebound.status_code) == (200, 200, 400)
    assert "anonymous (admin)" in page.text
    assert "server" not in page.headers
    assert "default-src 'self'" in page.headers["content-security-policy"]


async def test_each_address_of_loopback_answers_by_its_own_name() -> None:
    async with Node("memory://") as node:
        server = WebServer(node, "127.0.0.2:0")
        await server.start()
        async with httpx.AsyncClient(base_url=server.url) as client:
            own = await client.get("/")
            named = await client.get("/", headers={"host": "localhost"})
            rebound = [await client.get("/", headers={"host": host}) for host in ("evil.example", "127.0.0.2.evil")]
        await server.stop()
    assert (own.status_code, named.status_code) == (200, 200)
    assert [one.status_code for one in rebound] == [400, 400]


async def test_live_views_end_when_the_server_stops() -> None:
    async with Node("memory://", jobs=Job("echo", str)) as node:
        server = WebServer(node, "127.0.0.1:0")
        await server.start()
        async with (
            httpx.AsyncClient(base_url=server.url) as client,
            client.stream("GET", "/live/overview", timeout=30) as stream,
        ):
            lines = stream.aiter_lines()
            async for line in lines:
                if line.startswith("data: "):
                    break
            await server.stop()
            assert [line async for line in lines if line] == []


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"GET / HTTP/1.1\r\nHost: localhost\r\n",
        b"GET /static/app.css HTTP/1.1\r\nHost: localhost\r\n\r\nGET /",
        (
            b"POST /signin HTTP/1.1\r\nHost: localhost\r\nSec-Fetch-Site: same-origin\r\nContent-Length: 9\r\n"
            b"Content-Type: application/x-www-form-urlencoded\r\n\r\na="
        ),
    ],
    ids=["silent", "part of the headers", "part of a second request", "part of a form"],
)
async def test_a_connection_without_a_whole_request_is_closed(sent: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web_server, "REQUEST_SECONDS", 0.2)
    tokens = Tokens([Token.of("secret-token", Role.READER, "ada")])
    async with Node("memory://") as node:
        server = WebServer(node, "127.0.0.1:0", authenticators=[tokens])
        await server.start()
        url = httpx.URL(server.url)
        reader, writer = await asyncio.open_connection(url.host, url.port)
        writer.write(sent)
        async with asyncio.timeout(4):
            await reader.read()
        writer.close()
        await server.stop()


async def test_a_request_with_two_sizes_is_refused_and_its_connection_closed() -> None:
    async with Node("memory://") as node:
        server = WebServer(node, "127.0.0.1:0")
        await server.start()
        url = httpx.URL(server.url)
        reader, writer = await asyncio.open_connection(url.host, url.port)
        next_request = b"GET /static/app.css HTTP/1.1\r\nHost: localhost\r\n\r\n"
        sizes = b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
        writer.write(b"POST /instance/cancel HTTP/1.1\r\nHost: localhost\r\n" + sizes + next_request)
        async with asyncio.timeout(IN_TIME):
            answer = await reader.read()
        writer.close()
        await server.stop()
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert answer.count(b"HTTP/1.1 ") == 1


@pytest.mark.parametrize("trusted", [False, True])
async def test_one_address_leaves_connections_to_others(
    trusted: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(web_server, "MAX_CONNECTIONS_ADDRESS", 3)
    async with Node("memory://") as node:
        server = WebServer(node, "127.0.0.1:0", trusted_proxies=["127.0.0.2"] if trusted else ["127.0.0.1"])
        await server.start()
        url = httpx.URL(server.url)

        async def connected(host: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
            return await asyncio.open_connection(url.host, url.port, local_addr=(host, 0))

        opened = [await connected("127.0.0.2") for _ in range(5)]

        async def answered(number: int) -> bool:
            reader, writer = opened[number]
            writer.write(b"GET /static/app.css HTTP/1.1\r\nHost: localhost\r\n\r\n")
            with contextlib.suppress(ConnectionError):
                async with asyncio.timeout(IN_TIME):
                    return (await reader.read(12)).startswith(b"HTTP/1.1 200")
            return False

        assert [await answered(number) for number in range(5)] == [True] * 3 + [trusted] * 2
        opened[0][1].close()
        opened.append(await connected("127.0.0.1"))
        assert await answered(5), "another address"
        if not trusted:
            await until(lambda: _is_closed(server))
            opened.append(await connected("127.0.0.2"))
            assert await answered(6), "a connection that has ended counts no more"
        for _, writer in opened:
            writer.close()
        await server.stop()
    warned = [record.getMessage() for record in caplog.records if "closes a connection" in record.getMessage()]
    assert len(warned) == (0 if trusted else 1)
    assert trusted or "from 127.0.0.2: one address may have 3 of 500" in warned[0]


async def _is_closed(server: WebServer) -> bool:
    return server._limits._shares._held.get("127.0.0.2", 0) < 3  # pyright: ignore[reportPrivateUsage]


async def test_the_environment_trusts_no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORWARDED_ALLOW_IPS", "*")
    async with Node("memory://") as node:
        server = WebServer(node, "127.0.0.1:0", trusted_proxies=["10.0.0.7"])
        await server.start()
        async with httpx.AsyncClient(base_url=server.url, headers={"X-Forwarded-Proto": "https"}) as client:
            assert "Secure" not in (await client.get("/")).headers["set-cookie"]
        await server.stop()


async def test_a_form_that_arrives_slowly_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web_server, "REQUEST_SECONDS", 0.5)
    monkeypatch.setattr(web_server, "SLOWEST", 10)
    async with Node("memory://") as node:
        server = WebServer(node, "127.0.0.1:0")
        await server.start()

        async def slow() -> AsyncGenerator[bytes]:
            begun = node.clock.elapsed()
            yield b"a="
            while node.clock.elapsed() - begun < 2:
                yield b"x" * 10
                await asyncio.sleep(0.02)

        headers = {"content-type": "application/x-www-form-urlencoded", "sec-fetch-site": "same-origin"}
        async with httpx.AsyncClient(base_url=server.url, headers=headers) as client:
            answer = await client.post("/instance/cancel", content=slow())
        await server.stop()
    assert "The session of this form is over" in answer.text


async def test_a_client_that_takes_no_answer_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web_server, "REQUEST_SECONDS", 0.2)
    protocol, stalls = web_server._HttpProtocol, list[int]()  # pyright: ignore[reportPrivateUsage]
    look = protocol._look  # pyright: ignore[reportPrivateUsage]

    def recorded(self: Any, *given: Any) -> None:
        look(self, *given)
        stalls.append(self._stalls)

    monkeypatch.setattr(protocol, "_look", recorded)
    async with Node("memory://") as node:
        server = WebServer(node, "127.0.0.1:0")
        await server.start()
        url = httpx.URL(server.url)
        with socket.socket() as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
            client.setblocking(False)
            await asyncio.get_running_loop().sock_connect(client, (url.host, url.port))
            asked = b"GET /static/vendor/htmx.min.js HTTP/1.1\r\nHost: localhost\r\n\r\n" * 200
            await asyncio.get_running_loop().sock_sendall(client, asked)
            ports = (f":{url.port:04X}", f":{client.getsockname()[1]:04X}")

            def is_open() -> bool:
                # the client does not hear of the end, since it takes nothing: see the socket of the server
                rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()]
                return any((row[1][-5:], row[2][-5:], row[3]) == (*ports, "01") for row in rows)

            assert is_open()
            await until(lambda: not is_open(), IN_TIME)
        await server.stop()
    most = web_server.MAX_STALLS
    assert stalls[-most - 1 :] == [*range(1, most + 2)]


async def test_a_live_view_stays_longer_than_the_time_of_a_request(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web_server, "REQUEST_SECONDS", 0.2)
    async with Node("memory://") as node:
        server = WebServer(node, "127.0.0.1:0")
        await server.start()
        async with (
            httpx.AsyncClient(base_url=server.url) as client,
            client.stream("GET", "/live/overview", timeout=30) as stream,
        ):
            reading = asyncio.create_task(stream.aread())
            await asyncio.sleep(1)
            assert not reading.done()
            reading.cancel()
        await server.stop()


async def test_a_change_reaches_a_live_view() -> None:
    async with Node("memory://", jobs=Job("echo", str), workers=0) as node:
        server = WebServer(node, "127.0.0.1:0")
        await server.start()
        async with (
            httpx.AsyncClient(base_url=server.url) as client,
            client.stream("GET", "/live/overview", timeout=30) as stream,
        ):
            lines = stream.aiter_lines()
            async for line in lines:
                if line.startswith("data: "):
                    break
            await node.schedule("echo", 1)
            async for line in lines:
                if "tiles" in line:
                    assert '>1</span> <span class=\\"label\\">Queued' in line
                    break
        await server.stop()


async def test_tokens_sign_in_behind_a_proxy_with_a_path() -> None:
    tokens = Tokens([Token.of("act", Role.OPERATOR, "otto")])
    async with Node("memory://", jobs=Job("echo", str)) as node:
        server = WebServer(node, "127.0.0.1:0", authenticators=[tokens], hosts=["jobs.example"], root_path="/jobs")
        await server.start()
        forwarded = {"host": "jobs.example", "x-forwarded-proto": "https", "x-forwarded-for": "192.0.2.9"}
        async with httpx.AsyncClient(base_url=server.url.removesuffix("/jobs/"), headers=forwarded) as client:
            answer = await client.get("/instances")
            form = await client.get("/signin")
        await server.stop()
    assert answer.headers["location"] == "/jobs/signin?to=%2Finstances"
    assert 'action="/jobs/signin"' in form.text
    assert "Secure" in form.headers["set-cookie"]
    assert "Path=/jobs" in form.headers["set-cookie"]


async def test_an_open_dashboard_is_refused(tmp_path: Path) -> None:
    node, tokens = Node("memory://"), Tokens([Token.of("t", Role.READER)])
    tls = ServerTls(certificate="c.pem", key="k.pem")
    for accepted, secured in (((), None), ([tokens], None), ((), tls)):
        with pytest.raises(OptionError, match="web_listen: expected an address of loopback, or TLS and tokens"):
            WebServer(node, "0.0.0.0:0", authenticators=accepted, tls=secured)
    WebServer(node, "0.0.0.0:0", authenticators=[tokens], tls=tls)
    WebServer(node, "0.0.0.0:0", insecure=True)
    with pytest.raises(OptionError, match="web_host"):
        WebServer(node, "127.0.0.1:0", hosts=["jobs.example"])
    for root in ("jobs", "/jobs/", "/"):
        with pytest.raises(OptionError, match="web_root_path"):
            WebServer(node, "127.0.0.1:0", root_path=root)
    with pytest.raises(OptionError, match="web_listen"):
        WebServer(node, "8080")
    missing = WebServer(node, "127.0.0.1:0", tls=ServerTls(certificate=tmp_path / "c", key=tmp_path / "k"))
    expected = r"certificate: expected a file in PEM format that can be read \(No such file or directory\)"
    with pytest.raises(OptionError, match=expected):
        await missing.start()


async def test_a_port_in_use_is_named() -> None:
    async with Node("memory://") as node:
        first = WebServer(node, "127.0.0.1:0")
        await first.start()
        second = WebServer(node, first.url.removeprefix("http://").rstrip("/"))
        with pytest.raises(OptionError, match="web_listen: expected an address of this machine"):
            await second.start()
        await first.stop()
        await first.stop()
