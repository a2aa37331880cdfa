"""The address in an etcd URL."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from peerjob.model.errors import OptionError
from peerjob.store.url import credentials_of, file_options, hosts_of, query_options, redact, split_url

DEFAULT_PORT = 2379
DEFAULT_QUOTA = 2 << 30
"""The limit on the size of the database, in bytes, that etcd has by default."""
_FILES = ("ca", "cert", "key")


@dataclass(frozen=True, kw_only=True)
class EtcdAddress:
    """The parts of a URL; `url` is the URL without its password."""

    url: str
    endpoints: tuple[str, ...]
    """The `host:port` of each member of the etcd cluster."""
    username: str = ""
    password: str = ""
    tls: bool = False
    ca: Path | None = None
    """`?ca=file`: the authorities that sign the certificates of the servers. None: the authorities that gRPC trusts."""
    cert: Path | None = None
    """`?cert=file&key=file`: the certificate of the client, and the private key of that certificate."""
    key: Path | None = None
    quota: int | None = None
    """`?quota=bytes`: the quota of the servers; used only if the servers do not report a quota."""


def parse_address(url: str) -> EtcdAddress:
    """Read `etcd[s]://[user:password@]host[:port][,host[:port]...][?options]`; raises OptionError."""
    parts = split_url(url)
    tls = parts.scheme == "etcds"
    options = query_options(url, {"quota": int} | (dict.fromkeys(_FILES, str) if tls else {}))
    if options.get("quota", 1) <= 0:
        raise OptionError("store option 'quota'", options["quota"], "a number of bytes above 0")
    if parts.path.strip("/"):
        raise OptionError("store", redact(url), "nothing but options after the hosts")
    username, password = credentials_of(url)
    if password and not username:
        raise OptionError("store", redact(url), "the name of a user before the password")
    return EtcdAddress(
        url=redact(url),
        endpoints=tuple(map(str, hosts_of(url, DEFAULT_PORT))),
        username=username,
        password=password,
        tls=tls,
        quota=options.get("quota"),
        **file_options(url, options, _FILES),
    )
