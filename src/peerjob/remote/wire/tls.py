"""The TLS settings of servers and clients."""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import grpc

from peerjob.model.arguments import check_fields
from peerjob.model.errors import OptionError

Pem = str | Path | bytes
"""A file in PEM format, or its content."""
_NO_PAIR = "a file has something else or is damaged, or the key has a password"


class Pems(NamedTuple):
    """The contents of a server's files."""

    certificate: bytes
    key: bytes
    client_ca: bytes | None


@dataclass(frozen=True, kw_only=True)
class ServerTls:
    """The certificate of a server, and the CA of its clients.

    With `client_ca`, a client must have a certificate that this CA has signed (mutual TLS). A missing or invalid file
    raises OptionError when the server starts. Files are read again for each new connection: a renewed certificate needs
    no restart. If the new file is invalid, the old certificate stays.
    """

    certificate: Pem
    key: Pem = field(repr=False)
    client_ca: Pem | None = None

    def __post_init__(self) -> None:
        check_fields(self, ServerTls, secrets=("key",))

    def read(self, known: Pems | None = None) -> Pems:
        """The present contents of the files; raises OptionError for invalid ones, unless they are `known`."""
        while True:
            pems = self._pems()
            if pems == known:
                return pems
            wrong = self._wrong(pems)
            # files that changed during the check are read again: another program is writing them
            if pems == self._pems():
                break
        if wrong is not None:
            raise wrong
        return pems

    def _pems(self) -> Pems:
        ca = None if self.client_ca is None else _read("client_ca", self.client_ca)
        return Pems(_read("certificate", self.certificate), _read("key", self.key), ca)

    def _wrong(self, pems: Pems) -> OptionError | None:
        """The reason for which gRPC would refuse the contents; gRPC itself gives none.

        A certificate and key that are not in files are not checked here.
        """
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        try:
            if not isinstance(self.certificate, bytes) and not isinstance(self.key, bytes):
                context.load_cert_chain(self.certificate, self.key, password="")
        except (ssl.SSLError, OSError) as error:
            pair = f"{_name(self.certificate)} and {_name(self.key)}"
            return OptionError("tls", pair, f"a certificate and its private key ({_reason(error, _NO_PAIR)})")
        if self.client_ca is None or pems.client_ca is None:
            return None
        return _wrong_ca("client_ca", self.client_ca, pems.client_ca)

    @property
    def name(self) -> str:
        """The file of the certificate."""
        return _name(self.certificate)


@dataclass(frozen=True, kw_only=True)
class ClientTls:
    """The servers that a client trusts, and the client's certificate.

    `ca` signed the servers' certificates (default: the CAs of gRPC). `certificate` and `key` are for servers that
    require them. `server_name` is the name in the servers' certificates, if it is not their address.
    """

    ca: Pem | None = None
    certificate: Pem | None = None
    key: Pem | None = field(default=None, repr=False)
    server_name: str | None = None

    def __post_init__(self) -> None:
        check_fields(self, ClientTls, secrets=("key",))

    def credentials(self) -> grpc.ChannelCredentials:
        """The credentials for gRPC; raises OptionError."""
        if (self.certificate is None) != (self.key is None):
            raise OptionError("tls", "one of certificate and key", "both, or none of them")
        ca = None if self.ca is None else _read("ca", self.ca)
        if self.ca is not None and ca is not None and (wrong := _wrong_ca("ca", self.ca, ca)):
            raise wrong
        return grpc.ssl_channel_credentials(
            root_certificates=ca,
            private_key=None if self.key is None else _read("key", self.key),
            certificate_chain=None if self.certificate is None else _read("certificate", self.certificate),
        )


def _wrong_ca(option: str, pem: Pem, content: bytes) -> OptionError | None:
    """The reason for which gRPC would refuse the certificates of a CA."""
    # Python takes ASCII only, and gRPC takes any text between certificates
    text = content.decode("ascii", "backslashreplace")
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_verify_locations(cadata=text)
    except ssl.SSLError as error:
        return OptionError(option, _name(pem), f"certificates ({_reason(error, 'none can be read')})")
    return None


def _name(pem: Pem) -> str:
    """The name of the file. A text that has a key or a certificate instead of a name is not shown."""
    if isinstance(pem, bytes):
        return "bytes"
    return "… (PEM text, which must be bytes)" if "-----BEGIN" in str(pem) else str(pem)


def _reason(error: OSError, without: str) -> str:
    """The reason of an error; `without`, if OpenSSL names none."""
    reason = error.reason if isinstance(error, ssl.SSLError) else error.strerror
    return (reason or without).replace("_", " ").lower()


def _read(option: str, pem: Pem) -> bytes:
    if isinstance(pem, bytes):
        data = pem
    else:
        try:
            data = Path(pem).read_bytes()
        except OSError as error:
            raise OptionError(option, _name(pem), f"a file in PEM format that can be read ({error.strerror})") from None
    if b"-----BEGIN" not in data:
        raise OptionError(option, _name(pem), "PEM: text with -----BEGIN")
    return data
