"""A gRPC client that never makes room for an answer, which the libraries of gRPC do by themselves."""

from __future__ import annotations

import asyncio

from google.protobuf.message import Message

from peerjob.remote.wire.rpcs import SERVICE

_DATA, _HEADERS, _SETTINGS = 0, 1, 4
_END_STREAM, _END_HEADERS = 1, 4
_INITIAL_WINDOW = 4


class UnreadCalls:
    """Calls on one connection, whose window for answers is zero."""

    def __init__(self, target: str) -> None:
        self._host, _, self._port = target.rpartition(":")
        self._streams = 0
        self._writer: asyncio.StreamWriter | None = None

    async def __aenter__(self) -> UnreadCalls:
        _, self._writer = await asyncio.open_connection(self._host, int(self._port))
        no_window = _INITIAL_WINDOW.to_bytes(2) + bytes(4)
        self._writer.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + _frame(_SETTINGS, 0, 0, no_window))
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._writer is not None:
            self._writer.close()

    def call(self, name: str, request: Message, token: str) -> None:
        """Send a call, and never read its answer."""
        assert self._writer is not None
        stream, self._streams = 2 * self._streams + 1, self._streams + 1
        headers = {
            ":method": "POST",
            ":scheme": "http",
            ":path": f"/{SERVICE.full_name}/{name}",
            ":authority": "localhost",
            "te": "trailers",
            "content-type": "application/grpc",
            "authorization": f"Bearer {token}",
        }
        block = b"".join(b"\0" + _text(name) + _text(value) for name, value in headers.items())
        data = request.SerializeToString()
        self._writer.write(_frame(_HEADERS, _END_HEADERS, stream, block))
        self._writer.write(_frame(_DATA, _END_STREAM, stream, b"\0" + len(data).to_bytes(4) + data))


def _text(text: str) -> bytes:
    """A text of a header, not compressed."""
    assert len(text) < 127
    return bytes([len(text)]) + text.encode()


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3) + bytes([kind, flags]) + stream.to_bytes(4) + payload
