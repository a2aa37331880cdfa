"""A reply that announces more than a server of jobs ever sends, and the texts of jobs that look like one."""

from typing import Any

import pytest

from peerjob.store.lua.client.announced import MAX_ELEMENTS, ReplyReader
from peerjob.store.lua.client.replies import ProtocolError

HUGE = b"*9999999\r\n"


def read(*parts: bytes) -> list[Any]:
    reader, replies = ReplyReader(), list[Any]()
    for part in filter(None, parts):  # asyncio gives no empty data
        reader.read(part, replies)
    return replies


def bulk(text: bytes) -> bytes:
    return b"$%d\r\n%s\r\n" % (len(text), text)


@pytest.mark.parametrize("kind", [b"*", b"%", b"~", b">", b"|"])
@pytest.mark.parametrize("before", [b"", b":1\r\n", b"*2\r\n$1\r\na\r\n", bulk(HUGE)])
def test_a_length_that_no_server_of_jobs_sends_is_refused_before_its_list_is_made(kind: bytes, before: bytes) -> None:
    """Also if it comes in parts, within another reply or behind a text that looks the same."""
    data = before + kind + b"9999999\r\n"
    for at in range(len(data)):
        with pytest.raises(ProtocolError, match="more than 999,999 elements"):
            read(data[:at], data[at:])
    with pytest.raises(ProtocolError):
        read(*(bytes([byte]) for byte in data))


@pytest.mark.parametrize(
    "text", [HUGE, b"x" + HUGE, HUGE + HUGE, b"*12345678", b"a*", b"*1", b"%7654321|", b"\r\n*99999999\r\n", b"*" * 99]
)
def test_the_text_of_a_job_that_looks_like_a_length_is_read(text: bytes) -> None:
    line = b"OK " + text.replace(b"\r\n", b"")
    data = b"*2\r\n" + bulk(text) + b":7\r\n+" + line + b"\r\n" + bulk(b"")
    expected: list[Any] = [[text, 7], line, b""]
    for at in range(len(data)):
        assert read(data[:at], data[at:]) == expected
    assert read(*(bytes([byte]) for byte in data)) == expected


def test_the_longest_list_is_read() -> None:
    (reply,) = read(b"*%d\r\n" % MAX_ELEMENTS, b":1\r\n" * MAX_ELEMENTS)
    assert len(reply) == MAX_ELEMENTS
