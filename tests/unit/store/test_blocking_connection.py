"""A blocking connection with a server that sends what no server of jobs sends."""

import contextlib
import socket
import threading
import time
from collections.abc import Generator

import pytest

from peerjob.store.lua.client.address import Tls
from peerjob.store.lua.client.blocking_connection import BlockingConnection
from peerjob.store.lua.client.connection_options import ConnectionOptions
from peerjob.store.lua.client.redis_py import connect_blocking
from peerjob.store.lua.client.replies import DisconnectedError, ProtocolError
from peerjob.store.url import Host
from support.waiting import IN_TIME

OPTIONS = ConnectionOptions(username="", password="", tls=None, timeout=1.0, db=3, name="peerjob")
Pair = tuple[BlockingConnection, socket.socket]


@pytest.fixture
def pair() -> Generator[Pair]:
    """A connection, and the end of the server."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        connection = BlockingConnection(ours, "server", ("user", "secret"))
        connection.limit(2.0)
        yield connection, theirs


def test_a_sign_in_of_one_byte_after_the_other_ends(pair: Pair) -> None:
    connection, server = pair
    ended = threading.Event()

    def trickle() -> None:
        while not ended.wait(0.02):
            server.sendall(b"+")

    thread = threading.Thread(target=trickle)
    thread.start()
    try:
        with pytest.raises((TimeoutError, ProtocolError)):
            connection.sign_in(OPTIONS, 0.2)
    finally:
        ended.set()
        thread.join()


def test_a_sign_in(pair: Pair) -> None:
    connection, server = pair
    server.sendall(b"+OK\r\n+OK\r\n+OK\r\n")
    connection.sign_in(OPTIONS, 1.0)
    sent = server.recv(1000)
    assert [word for word in sent.split(b"\r\n") if word[:1] not in b"*$"] == [
        *(b"AUTH", b"user", b"secret", b"CLIENT", b"SETNAME", b"peerjob", b"SELECT", b"3")
    ]


def test_a_refused_sign_in(pair: Pair) -> None:
    connection, server = pair
    server.sendall(b"-WRONGPASS invalid\r\n-NOAUTH\r\n-NOAUTH\r\n")
    with pytest.raises(DisconnectedError, match="WRONGPASS"):
        connection.sign_in(OPTIONS, 1.0)


@pytest.mark.parametrize("sent", [b":1\r\n", b":", b""], ids=["a reply", "half a reply", "the end"])
def test_what_comes_between_two_calls_is_no_answer(pair: Pair, sent: bytes) -> None:
    connection, server = pair
    server.sendall(b":1\r\n")
    assert connection.call(b"first", 1, 1.0) == [1]
    assert connection.is_usable
    server.sendall(b":2\r\n")
    assert connection.call(b"second", 1, 1.0) == [2]
    server.sendall(sent) if sent else server.shutdown(socket.SHUT_WR)
    assert not connection.is_usable


def test_half_a_reply_behind_an_answer_is_no_answer(pair: Pair) -> None:
    connection, server = pair
    server.sendall(b":1\r\n:2")
    assert connection.call(b"first", 1, 1.0) == [1]
    assert not connection.is_usable


def test_a_server_that_gives_no_answer(pair: Pair) -> None:
    connection, _ = pair
    connection.limit(0.2)
    began = time.monotonic()
    with pytest.raises(TimeoutError, match=r"no complete answer within 0\.2 s"):
        connection.call(b"first", 1, 0.2)
    assert 0.15 < time.monotonic() - began < IN_TIME


def test_a_server_that_reads_nothing(pair: Pair) -> None:
    connection, _ = pair
    connection.limit(0.2)
    with pytest.raises(TimeoutError):
        connection.call(b"x" * 10_000_000, 1, 0.2)


def test_a_server_that_reads_slowly_gets_all(pair: Pair) -> None:
    connection, server = pair
    sent = bytes(range(256)) * 20_000
    got = bytearray()

    def read() -> None:
        while len(got) < len(sent):
            got.extend(server.recv(5_000))
        server.sendall(b":1\r\n")

    thread = threading.Thread(target=read)
    thread.start()
    try:
        assert connection.call(sent, 1, IN_TIME) == [1]
    finally:
        thread.join()
    assert got == sent


def test_a_handshake_of_one_byte_after_the_other_ends() -> None:
    """The whole of it has a limit, and not only each read."""
    options = ConnectionOptions(username="", password="", tls=Tls(), timeout=1.0)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port, ended = listening.getsockname()[1], threading.Event()

        def trickle() -> None:
            accepted, _ = listening.accept()
            with accepted, contextlib.suppress(OSError):
                accepted.sendall(b"\x16\x03\x03\x40\x00")  # a handshake message of 16 KiB follows
                while not ended.wait(0.02):
                    accepted.sendall(b"\x02")

        thread = threading.Thread(target=trickle)
        thread.start()
        began = time.monotonic()
        try:
            with pytest.raises(DisconnectedError, match="Timeout"):
                connect_blocking(Host("localhost", port), "127.0.0.1", options, 0.5)
        finally:
            ended.set()
            thread.join()
        assert time.monotonic() - began < IN_TIME
