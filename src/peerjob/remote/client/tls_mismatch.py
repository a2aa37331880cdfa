"""Why a node that listens does not answer: it speaks TLS and was called without, or the other way round.

gRPC tells of both only that a socket was closed, so that the address is asked once more, without gRPC. Nothing that is
secret is sent, and nothing that is heard is trusted: it only makes a better error.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl

from peerjob.model.errors import TlsMismatchError

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))
"""How a client begins in HTTP/2, with a frame of settings that has none."""
FRAME, SETTINGS = 9, 4
"""Bytes of a frame's head, and the type of the frame that comes first from whoever speaks HTTP/2."""
LACKING = ("CERTIFICATE_REQUIRED", "HANDSHAKE_FAILURE")
"""How OpenSSL names what a server may say that wants to see a certificate, by TLS 1.3 and before."""


async def mismatch(address: str, *, tls: bool, certificate: bool, within: float) -> TlsMismatchError | None:
    """What is wrong with how the address was called, if that can be told in so many seconds."""
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
        return str(error.reason).endswith(LACKING)
    return True


async def _asks_for_certificate(address: str) -> bool:
    """Whether it ends the connection when the client believes in it, as TLS 1.3 refuses; who does not says more."""
    try:
        reader, writer = await _connect(address, _unverified())
        try:
            return not await reader.read(1)
        finally:
            await _close((reader, writer))
    except ConnectionResetError:
        return True
    except ssl.SSLError as error:
        return str(error.reason).endswith(LACKING)


async def _speaks_plaintext(address: str) -> bool:
    reader, writer = await _connect(address, None)
    try:
        writer.write(PREFACE)
        head = await reader.readexactly(FRAME)
    except (OSError, EOFError):
        return False
    finally:
        await _close((reader, writer))
    return head[3] == SETTINGS and not any(head[5:])


async def _connect(address: str, tls: ssl.SSLContext | None) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    host, _, port = address.rpartition(":")
    return await asyncio.open_connection(host.strip("[]"), int(port), ssl=tls)


async def _close(streams: tuple[asyncio.StreamReader, asyncio.StreamWriter]) -> None:
    streams[1].transport.abort()
    with contextlib.suppress(OSError):
        await streams[1].wait_closed()


def _unverified() -> ssl.SSLContext:
    """Whoever it is may answer."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    return context
