"""TLS between client and node: which clients are accepted, and the errors of the others."""

import contextlib
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from peerjob import (
    AuthError,
    Client,
    ClientTls,
    Job,
    Node,
    NodeUnavailableError,
    OptionError,
    Query,
    Role,
    Server,
    ServerTls,
    TlsMismatchError,
    Token,
    Tokens,
    UnauthenticatedError,
)
from support.etcd import Certificates, other_ca
from support.rpc import served
from support.stalls import Stalls, now_us
from support.waiting import PATIENCE

WORK = Job("work", lambda: 7)
TOKENS = Tokens([Token.of("read", Role.READER), Token.of("act", Role.OPERATOR)])


def server_tls(signed: Certificates, *, mutual: bool = False) -> ServerTls:
    return ServerTls(certificate=signed.server_cert, key=signed.server_key, client_ca=signed.ca if mutual else None)


@contextlib.asynccontextmanager
async def connected(server: Server, tls: ClientTls | None, token: str | None = None) -> AsyncGenerator[Client]:
    async with Client(server.target, tls=tls, token=token, connect_timeout=PATIENCE) as client:
        yield client


async def refusal(server: Server, tls: ClientTls | None) -> NodeUnavailableError:
    """Why a server cannot be reached. A client takes a second to find out, which is enough where the machine runs."""
    while True:
        with Stalls() as stalls:
            began_us = now_us()
            with pytest.raises(NodeUnavailableError) as caught:
                await Client(server.target, tls=tls, connect_timeout=0.2).start()
            if stalls.between(began_us, now_us()) < 0.3:
                return caught.value


async def refused(server: Server, tls: ClientTls | None) -> str:
    return str(await refusal(server, tls))


async def mismatched(server: Server, tls: ClientTls | None, wants: str) -> str:
    error = await refusal(server, tls)
    assert isinstance(error, TlsMismatchError)
    assert error.wants == wants
    return str(error)


async def test_a_client_that_trusts_the_ca_is_served(signed: Certificates) -> None:
    async with (
        served(WORK, tls=server_tls(signed), tokens=TOKENS) as (_, server),
        connected(server, ClientTls(ca=signed.ca), "act") as client,
    ):
        assert await (await client.schedule(WORK)).result(PATIENCE) == 7
        with pytest.raises(UnauthenticatedError):
            await Client(server.target, tls=ClientTls(ca=signed.ca)).start()
        async with connected(server, ClientTls(ca=signed.ca.read_bytes()), "read") as reader:
            with pytest.raises(AuthError, match="operator"):
                await reader.schedule(WORK)


async def test_a_server_takes_its_certificate_from_memory(signed: Certificates) -> None:
    tls = ServerTls(certificate=signed.server_cert.read_bytes(), key=signed.server_key.read_bytes())
    async with served(WORK, tls=tls) as (_, server), connected(server, ClientTls(ca=signed.ca)) as client:
        assert await client.count() == 0


async def test_a_server_that_an_unknown_ca_signed_is_not_trusted(signed: Certificates, tmp_path: Path) -> None:
    async with served(WORK, tls=server_tls(signed)) as (_, server):
        reason = await refused(server, ClientTls(ca=other_ca(tmp_path)))
        assert "no CA that the client trusts has signed the node's certificate" in reason
        assert server.target in reason


def test_a_ca_without_certificates_is_refused_before_a_call(signed: Certificates) -> None:
    with pytest.raises(OptionError, match=r"ca: expected certificates .*, got '.*'"):
        ClientTls(ca=signed.server_key).credentials()


async def test_a_ca_can_have_comments_in_any_language(signed: Certificates, tmp_path: Path) -> None:
    commented = tmp_path / "commented.pem"
    commented.write_bytes("# Főtanúsítvány\n".encode() + signed.ca.read_bytes())
    tls = ServerTls(certificate=signed.server_cert, key=signed.server_key, client_ca=commented)
    async with served(WORK, tls=tls) as (_, server):
        shown = ClientTls(ca=commented, certificate=signed.client_cert, key=signed.client_key)
        async with connected(server, shown) as client:
            assert await client.count() == 0


async def test_a_name_that_is_not_in_the_certificate_is_not_trusted(signed: Certificates) -> None:
    async with served(WORK, tls=server_tls(signed)) as (_, server):
        reason = await refused(server, ClientTls(ca=signed.ca, server_name="elsewhere.example"))
        assert "the node's certificate is for another name" in reason
        async with connected(server, ClientTls(ca=signed.ca, server_name="localhost")) as client:
            assert await client.count() == 0


async def test_plaintext_to_a_port_with_tls_and_the_reverse(signed: Certificates) -> None:
    async with served(WORK, tls=server_tls(signed)) as (_, server):
        reason = await mismatched(server, None, "tls")
        assert "tls=ClientTls(ca=…)" in reason
        assert server.target in reason
    async with served(WORK, tls=server_tls(signed, mutual=True)) as (_, server):
        assert server.target in await mismatched(server, None, "tls")
    async with served(WORK) as (_, server):
        reason = await mismatched(server, ClientTls(ca=signed.ca), "plaintext")
        assert "leave the client's tls= out" in reason
        assert server.target in reason


async def test_mutual_tls_lets_in_who_shows_a_certificate(signed: Certificates, tmp_path: Path) -> None:
    other = Certificates(tmp_path)
    async with served(WORK, tls=server_tls(signed, mutual=True)) as (_, server):
        shown = ClientTls(ca=signed.ca, certificate=signed.client_cert, key=signed.client_key)
        async with connected(server, shown) as client:
            assert await (await client.schedule(WORK)).result(PATIENCE) == 7
        assert "certificate=…" in await mismatched(server, ClientTls(ca=signed.ca), "certificate")
        stranger = ClientTls(ca=signed.ca, certificate=other.client_cert, key=other.client_key)
        assert server.target in await refused(server, stranger)


async def test_certificates_that_have_expired_are_not_trusted(signed: Certificates) -> None:
    cert, key = signed.expired()
    async with served(WORK, tls=ServerTls(certificate=cert, key=key)) as (_, server):
        reason = await refused(server, ClientTls(ca=signed.ca))
        assert "certificate has expired" in reason
        assert server.target in reason
    async with served(WORK, tls=server_tls(signed, mutual=True)) as (node, server):
        assert server.target in await refused(server, ClientTls(ca=signed.ca, certificate=cert, key=key))
        assert await node.count() == 0


async def test_a_refusal_says_what_is_wrong_with_the_token(signed: Certificates) -> None:
    async with served(WORK, tls=server_tls(signed), tokens=TOKENS) as (node, server):
        with pytest.raises(UnauthenticatedError, match="a token is needed"):
            await Client(server.target, tls=ClientTls(ca=signed.ca)).start()
        with pytest.raises(UnauthenticatedError, match="not known here"):
            await Client(server.target, tls=ClientTls(ca=signed.ca), token="guessed").start()
        made = await node.schedule(WORK.with_options(after=600))
        async with connected(server, ClientTls(ca=signed.ca), "read") as reader:
            for act in (reader.cancel_instance(made.id), reader.cancel_instances(Query(kind="work")), reader.clear()):
                with pytest.raises(AuthError, match="this token has reader"):
                    await act
        assert not (await node.lookup_instance(made.id)).state.is_final


def test_off_loopback_both_tls_and_authentication_are_asked_for(signed: Certificates) -> None:
    node, listen = Node(), "0.0.0.0:0"
    for tls, tokens in ((None, None), (server_tls(signed), None), (None, TOKENS)):
        with pytest.raises(OptionError, match="insecure"):
            Server(node, listen, tls=tls, tokens=tokens)
    Server(node, listen, tls=server_tls(signed), tokens=TOKENS)
    Server(node, listen, tls=server_tls(signed, mutual=True))


@pytest.mark.parametrize("pem", ["nowhere.pem", b"no pem", Path("/")], ids=str)
async def test_what_is_no_certificate_is_named(signed: Certificates, pem: str | bytes | Path) -> None:
    with pytest.raises(OptionError, match="PEM"):
        await Client(tls=ClientTls(ca=pem)).start()
    with pytest.raises(OptionError, match="both"):
        await Client(tls=ClientTls(certificate=signed.client_cert)).start()
    with pytest.raises(OptionError, match="PEM"):
        await Server(Node(), "127.0.0.1:0", tls=ServerTls(certificate=pem, key=signed.server_key)).start()
