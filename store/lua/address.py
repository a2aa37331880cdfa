"""The address in a redis or valkey URL, for both client libraries."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from peerjob.model.errors import OptionError
from peerjob.store.url import file_options, query_options, redact

from .durability import Durability, parse_durability

DEFAULT_PORT = 6379
_OPTIONS = {
    "cluster": bool,
    "ca_certs": str,
    "cert_file": str,
    "key_file": str,
    "durability": str,
    "durability_timeout": str,
}


@dataclass(frozen=True, kw_only=True)
class Address:
    """The parts of a URL; `url` is the URL without its password."""

    url: str
    scheme: str
    host: str
    port: int
    db: int = 0
    username: str | None = None
    password: str | None = None
    tls: bool = False
    cluster: bool = False
    """`?cluster=true`: the host belongs to a cluster, which tells the client which server has the namespace."""
    ca_certs: Path | None = None
    """`?ca_certs=file`: the authorities that sign the certificate of the server. None: the authorities that the machine
    trusts."""
    cert_file: Path | None = None
    """`?cert_file=file&key_file=file`: the certificate of the client, and the private key of that certificate."""
    key_file: Path | None = None
    durability: Durability | None = None
    """`?durability=aof` or `replicas:<n>`, and `&durability_timeout=`: the confirmation that each step waits for. None:
    no wait."""


def parse_address(url: str) -> Address:
    """Read `redis[s]://[user:password@]host[:port][/db][?options]` or the same with valkey; raises OptionError."""
    parts = urlsplit(url)
    options = query_options(url, _OPTIONS)
    address = Address(
        url=redact(url),
        scheme="valkey" if parts.scheme.startswith("valkey") else "redis",
        host=parts.hostname or "localhost",
        port=_port(url),
        db=_db(url),
        username=unquote(parts.username) if parts.username else None,
        password=unquote(parts.password) if parts.password else None,
        tls=parts.scheme in ("rediss", "valkeys"),
        cluster=options.get("cluster", False),
        durability=parse_durability(options.get("durability"), options.get("durability_timeout")),
        **file_options(url, options, ("ca_certs", "cert_file", "key_file")),
    )
    if address.cluster and address.db:
        raise OptionError("store", address.url, "database 0, the only one that a cluster has")
    return address


def _port(url: str) -> int:
    try:
        return urlsplit(url).port or DEFAULT_PORT
    except ValueError:
        raise OptionError("store", redact(url), "a port from 1 to 65535") from None


def _db(url: str) -> int:
    text = urlsplit(url).path.strip("/")
    if not text.isdecimal() and text:
        raise OptionError("store", redact(url), "the number of a database after the host")
    return int(text or 0)
