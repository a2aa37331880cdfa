"""Finds out whether a connection fails because one side uses TLS and the other does not.

In both cases gRPC reports only a closed socket. So the client connects once more, without gRPC. It sends no secret, and
uses the answer only for a better error.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl

from peerjob.model.errors import TlsMismatchError

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))
"""The start of an HTTP/2 connection: the preface, and an empty frame of settings."""
FRAME_HEAD, SETTINGS_TYPE = 9, 4
"""The size of a frame's head, and the type of the first frame of an HTTP/2 server."""
CERTIFICATE_REASONS = ("CERTIFICATE_REQUIRED", "HANDSHAKE_FAILURE")
"""The OpenSSL errors if a server requires a client certificate: in TLS 1.3, and in older versions."""


async def mismatch(address: str, *, tls: bool, certificate: bool, within: float) -> TlsMismatchError | None:
    """The mismatch of an address, if the check finds one within so many seconds."""
    with contextlib.suppress(OSError, EOFError, TimeoutError):
        async with asyncio.timeout(within):
            if not tls:
                return TlsMismatchError(address, "tls") if await _speaks_tls(address) else None
            if await _speaks_plaintext(address):
                return TlsMismatchError(address, "plaintext")
            if not certificate and await _asks_for_certificate(address):
                return TlsMismatchError(address, "certificate")
    return None


async def _speaks_tls(address: str) -> bool:
    try:
        await _close(await _connect(address, _unverified()))
    except ssl.SSLError as error:
        return str(error.reason).endswith(CERTIFICATE_REASONS)
    return True


async def _asks_for_certificate(address: str) -> bool:
    """Whether the server closes the connection after the handshake, since the client sent no certificate (TLS 1.3)."""
    try:
        reader, writer = await _connect(address, _unverified())
        try:
            return not await reader.read(1)
        finally:
            await _close((reader, writer))
    except ConnectionResetError:
        return True
    except ssl.SSLError as error:
        return str(error.reason).endswith(CERTIFICATE_REASONS)


async def _speaks_plaintext(address: str) -> bool:
    reader, writer = await _connect(address, None)
    try:
        writer.write(PREFACE)
        head = await reader.readexactly(FRAME_HEAD)
    except (OSError, EOFError):
        return False
    finally:
        await _close((reader, writer))
    return head[3] == SETTINGS_TYPE and not any(head[5:])


async def _connect(address: str, tls: ssl.SSLContext | None) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    host, _, port = address.rpartition(":")
    return await asyncio.open_connection(host.strip("[]"), int(port), ssl=tls)


async def _close(streams: tuple[asyncio.StreamReader, asyncio.StreamWriter]) -> None:
    streams[1].transport.abort()
    with contextlib.suppress(OSError):
        await streams[1].wait_closed()


def _unverified() -> ssl.SSLContext:
    """An SSL context that accepts every certificate."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    return context
