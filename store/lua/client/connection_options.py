"""How connections to servers and to sentinels are opened, from an address."""

from __future__ import annotations

import ssl
from dataclasses import dataclass

from .address import Address, Tls
from .credentials import Credentials, Given


@dataclass(frozen=True, kw_only=True)
class ConnectionOptions:
    """How a connection is opened, without its host."""

    username: str
    password: str
    tls: Tls | None
    timeout: float
    """Seconds until the connection is open, without the sign-in."""
    credentials: Credentials | None = None
    """The credentials of a provider, instead of a user and a password."""
    db: int = 0
    name: str = ""
    """The name of the connection in `CLIENT LIST`."""

    async def given(self) -> Given:
        """The credentials for a new connection; an empty password is none."""
        if self.credentials is not None:
            return await self.credentials.current()
        return self._own()

    def latest(self) -> Given | None:
        """The credentials for a connection at once, without a question; None if a provider has given none yet."""
        if self.credentials is not None:
            return self.credentials.renewed()
        return self._own()

    def _own(self) -> Given:
        return (self.username, self.password) if self.username else (self.password,)

    def tls_context(self) -> ssl.SSLContext | None:
        """Read the certificates; they may have changed since the last connection."""
        if self.tls is None:
            return None
        # Given here, so that the authorities of the machine are trusted only if the URL names none.
        context = ssl.create_default_context(cafile=self.tls.ca_certs)
        context.check_hostname = self.tls.verify and self.tls.check_hostname
        context.verify_mode = ssl.CERT_REQUIRED if self.tls.verify else ssl.CERT_NONE
        if self.tls.cert_file is not None:
            # An empty pass phrase: without one, OpenSSL asks the terminal for it, and the event loop waits.
            context.load_cert_chain(self.tls.cert_file, self.tls.key_file, password="")
        return context


def server_options(address: Address, timeout: float, credentials: Credentials | None = None) -> ConnectionOptions:
    """The options of a connection to the server."""
    return ConnectionOptions(
        credentials=credentials,
        username=address.username,
        password=address.password,
        tls=address.tls,
        timeout=timeout,
        db=address.db,
        name="peerjob",
    )


def sentinel_options(address: Address, timeout: float) -> ConnectionOptions:
    """The options of a connection to a sentinel."""
    settings = address.sentinel
    assert settings is not None, "the address has sentinels"
    return ConnectionOptions(
        username=settings.username,
        password=settings.password,
        tls=address.tls if settings.tls else None,
        timeout=timeout,
    )
