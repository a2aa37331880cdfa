"""TLS of both sides."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import grpc

from peerjob.errors import OptionError

Pem = str | Path | bytes
"""A file in PEM format, or what is in one."""


@dataclass(frozen=True, kw_only=True)
class ServerTls:
    """What a server shows, and whom it lets in.

    With `client_ca` a client must show a certificate that this CA has signed (mutual TLS). A missing or unreadable
    file raises OptionError when the server starts.
    """

    certificate: Pem
    key: Pem
    client_ca: Pem | None = None

    def credentials(self) -> grpc.ServerCredentials:
        """As gRPC takes them."""
        ca = None if self.client_ca is None else _read("client_ca", self.client_ca)
        pair = _read("key", self.key), _read("certificate", self.certificate)
        return grpc.ssl_server_credentials([pair], root_certificates=ca, require_client_auth=ca is not None)


@dataclass(frozen=True, kw_only=True)
class ClientTls:
    """Which servers a client trusts, and what it shows them.

    `ca` is who signed the servers' certificates (default: the CAs that gRPC brings), `certificate` and `key` are for
    servers that ask for them, `server_name` is the name in the servers' certificates where it is not their address.
    """

    ca: Pem | None = None
    certificate: Pem | None = None
    key: Pem | None = None
    server_name: str | None = None

    def credentials(self) -> grpc.ChannelCredentials:
        """As gRPC takes them; raises OptionError."""
        if (self.certificate is None) != (self.key is None):
            raise OptionError("tls", "one of certificate and key", "both, or none of them")
        return grpc.ssl_channel_credentials(
            root_certificates=None if self.ca is None else _read("ca", self.ca),
            private_key=None if self.key is None else _read("key", self.key),
            certificate_chain=None if self.certificate is None else _read("certificate", self.certificate),
        )


def _read(option: str, pem: Pem) -> bytes:
    if isinstance(pem, bytes):
        data = pem
    else:
        try:
            data = Path(pem).read_bytes()
        except OSError as error:
            raise OptionError(option, str(pem), f"a file in PEM format that can be read ({error.strerror})") from None
    if b"-----BEGIN" not in data:
        raise OptionError(option, "bytes" if isinstance(pem, bytes) else str(pem), "PEM: text with -----BEGIN")
    return data
