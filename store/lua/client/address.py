"""The address in a redis or valkey URL, for both client libraries."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from peerjob.model.errors import OptionError
from peerjob.store.url import (
    Host,
    credentials_of,
    file_options,
    hosts_of,
    query_options,
    redact,
    split_url,
    unquoted,
)

from .durability import Durability, parse_durability

DEFAULT_PORT = 6379
SENTINEL_PORT = 26379
MAX_DB = 999_999_999
_DB = re.compile("[0-9]{1,9}")
_TLS = ("rediss", "valkeys")
_FILES = ("ca_certs", "cert_file", "key_file")
_REDIS_PY_NAMES = {"ssl_ca_certs": "ca_certs", "ssl_certfile": "cert_file", "ssl_keyfile": "key_file"}
"""redis-py's names of options, which URLs of other programs have."""
_OPTIONS: Mapping[str, type[Any]] = {"db": int, "durability": str, "durability_timeout": str}
_TLS_OPTIONS: Mapping[str, type[Any]] = {
    **dict.fromkeys((*_FILES, *_REDIS_PY_NAMES), str),
    "ssl_cert_reqs": str,
    "ssl_check_hostname": bool,
}
_SENTINEL_OPTIONS: Mapping[str, type[Any]] = {"sentinel_username": str, "sentinel_password": str}


@dataclass(frozen=True, kw_only=True)
class Tls:
    """How connections use TLS."""

    ca_certs: Path | None = None
    """`?ca_certs=file`: the authorities that sign the certificate of the server. None: the authorities that the machine
    trusts."""
    cert_file: Path | None = None
    """`?cert_file=file&key_file=file`: the certificate of the client, and the private key of that certificate."""
    key_file: Path | None = None
    verify: bool = True
    """`?ssl_cert_reqs=none`: accept any certificate."""
    check_hostname: bool = True
    """`?ssl_check_hostname=false`: accept a certificate for another host."""


@dataclass(frozen=True, kw_only=True)
class SentinelSettings:
    """How to ask the sentinels for the primary."""

    primary: str
    """The name under which the sentinels monitor the primary."""
    username: str = ""
    """`?sentinel_username=&sentinel_password=`: the credentials for the sentinels, not for the server."""
    password: str = ""
    tls: bool = False
    """Whether the sentinels use TLS, as the server does. `?sentinel_tls=false`: they do not."""


@dataclass(frozen=True, kw_only=True)
class Address:
    """The parts of a URL; `url` is the URL without its passwords."""

    url: str
    scheme: Literal["redis", "valkey"]
    library: Literal["own", "glide"] = "own"
    """The client library: valkey-glide for `valkey+glide` and its forms, redis-py for all others."""
    hosts: tuple[Host, ...]
    """One server; with `cluster`, some members of the cluster; with `sentinel`, the sentinels."""
    socket: str = ""
    """The path of the server's Unix socket; then `hosts` is empty."""
    db: int = 0
    username: str = ""
    password: str = ""
    tls: Tls | None = None
    cluster: bool = False
    """`?cluster=true`: the hosts belong to a cluster, which tells the client which server has the namespace."""
    sentinel: SentinelSettings | None = None
    durability: Durability | None = None
    """`?durability=aof` or `replicas:<n>`, and `&durability_timeout=`: the confirmation that each call waits for. None:
    no wait."""


def parse_address(url: str) -> Address:
    """Read the URL of a Redis or Valkey; raises OptionError.

    `redis[s]://[user:password@]host[:port][/db][?options]`, several hosts with `?cluster=true`;
    `redis[s]+sentinel://[user:password@]sentinel[:port],…/primary[?options]`; `redis+unix://[user:password@]/path`.
    The same with valkey; `unix:///path` too. `valkey[s]+glide://` and `valkey[s]+glide+sentinel://` use valkey-glide.
    """
    parts, shown = split_url(url), redact(url)
    transport, *words = parts.scheme.split("+")
    has_tls, glide = transport in _TLS, "glide" in words
    unix, sentinel = "unix" in (transport, *words), "sentinel" in words
    options = _options(url, unix=unix, sentinel=sentinel, tls=has_tls)
    username, password = credentials_of(url)
    socket = _socket(url) if unix else ""
    hosts = () if unix else hosts_of(url, SENTINEL_PORT if sentinel else DEFAULT_PORT)
    cluster = options.get("cluster", False)
    if len(hosts) > 1 and not cluster and not sentinel:
        known = f"{'+'.join([transport, *words, 'sentinel'])}:// for sentinels"
        raise OptionError("store", shown, f"one host, or several with ?cluster=true for a cluster, or {known}")
    db = _db("" if unix or sentinel else parts.path.strip("/"), options.get("db"), shown)
    if cluster and db:
        raise OptionError("store", shown, "database 0, the only one that a cluster has")
    return Address(
        url=shown,
        scheme="valkey" if transport.startswith("valkey") else "redis",
        library="glide" if glide else "own",
        hosts=hosts,
        socket=socket,
        db=db,
        username=username,
        password=password,
        tls=_tls(url, options, glide=glide) if has_tls else None,
        cluster=cluster,
        sentinel=_sentinel(url, options, tls=has_tls) if sentinel else None,
        durability=parse_durability(options.get("durability"), options.get("durability_timeout")),
    )


def _options(url: str, *, unix: bool, sentinel: bool, tls: bool) -> dict[str, Any]:
    known = {**_OPTIONS, **(_TLS_OPTIONS if tls else {}), **(_SENTINEL_OPTIONS if sentinel else {})}
    if sentinel and tls:
        known["sentinel_tls"] = bool
    elif not unix and not sentinel:
        known["cluster"] = bool
    options = query_options(url, known)
    for alias, name in _REDIS_PY_NAMES.items():
        if alias in options and options.setdefault(name, options[alias]) != options[alias]:
            raise OptionError("store", redact(url), f"{name} or {alias}, not both")
    return options


def _socket(url: str) -> str:
    parts = split_url(url)
    path = unquoted(parts.path, url)
    if parts.netloc.rpartition("@")[2] or path in ("", "/"):
        raise OptionError(
            "store", redact(url), f"the absolute path of a socket, as in {parts.scheme}:///run/redis.sock"
        )
    return path


def _db(in_path: str, in_query: int | None, shown: str) -> int:
    if in_path and not _DB.fullmatch(in_path):
        raise OptionError("store", shown, "the number of a database after the host")
    if in_query is not None and (not 0 <= in_query <= MAX_DB or (in_path and int(in_path) != in_query)):
        raise OptionError("store", shown, "one database, with a number from 0, after the host or as ?db=")
    return int(in_path or in_query or 0)


def _tls(url: str, options: Mapping[str, Any], *, glide: bool) -> Tls:
    required = options.get("ssl_cert_reqs", "required")
    if required not in ("required", "optional", "none"):
        raise OptionError("store option 'ssl_cert_reqs'", required, "required or none")
    # For a client, `optional` means the same as `required`: a server always sends a certificate.
    verify, check_hostname = required != "none", options.get("ssl_check_hostname", True)
    if glide and verify and not check_hostname:
        # valkey-glide checks the certificate and its host, or nothing.
        other = split_url(url).scheme.replace("+glide", "")
        raise OptionError("store option 'ssl_check_hostname'", "false", f"true, or {other}:// in place of valkey-glide")
    return Tls(verify=verify, check_hostname=check_hostname, **file_options(url, options, _FILES))


def _sentinel(url: str, options: Mapping[str, Any], *, tls: bool) -> SentinelSettings:
    parts = split_url(url)
    primary = unquoted(parts.path.strip("/"), url)
    if not primary or "/" in primary:
        example = f"{parts.scheme}://sentinel:{SENTINEL_PORT}/mymaster?db=0"
        raise OptionError("store", redact(url), f"the name of the primary after the sentinels, as in {example}")
    return SentinelSettings(
        primary=primary,
        username=options.get("sentinel_username", ""),
        password=options.get("sentinel_password", ""),
        tls=tls and options.get("sentinel_tls", True),
    )
