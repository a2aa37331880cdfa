"""A blocking connection with a server that sends what no server of jobs sends."""

import socket
import threading
from collections.abc import Generator

import pytest

from peerjob.store.lua.client.blocking_connection import BlockingConnection
from peerjob.store.lua.client.connection_options import ConnectionOptions
from peerjob.store.lua.client.replies import DisconnectedError, ProtocolError

OPTIONS = ConnectionOptions(username="", password="", tls=None, timeout=1.0, db=3, name="peerjob")
Pair = tuple[BlockingConnection, socket.socket]


@pytest.fixture
def pair() -> Generator[Pair]:
    """A connection, and the end of the server."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.settimeout(2.0)
        yield BlockingConnection(ours, "server", ("user", "secret")), theirs


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
