"""Store URLs: which engine and driver a URL names, checked before anything connects."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import parse_qsl, urlsplit, urlunsplit

from peerjob.clock import Clock
from peerjob.errors import OptionError
from peerjob.record import StoreLimits

from .base import Elections, Store

NAMESPACE = re.compile(r"[A-Za-z0-9._-]{1,64}")
SCHEMES = ("memory", "redis", "rediss", "valkey", "valkeys", "etcd", "etcds")


def open_store(url: str, *, namespace: str, clock: Clock, limits: StoreLimits, retry_for: float = 30.0) -> Store:
    """The store that a URL names, not opened yet; raises OptionError for a URL that names none.

    `memory://` is private to its caller, `memory://name` is shared in the process. `redis://` and `valkey://` take
    `?cluster=true`, credentials and a database number in the usual places; `rediss://` and `valkeys://` use TLS.
    `etcd://` and, with TLS, `etcds://` take the hosts of all members, with commas between them.
    `retry_for` is how many seconds a call is retried while the server is away.
    """
    if not NAMESPACE.fullmatch(namespace):
        raise OptionError("namespace", namespace, "1 to 64 letters, digits, '.', '_' or '-'")
    scheme = urlsplit(url).scheme
    if scheme == "memory":
        from .kv.memory import memory_store

        return memory_store(url, namespace=namespace, clock=clock, limits=limits)
    if scheme in ("redis", "rediss", "valkey", "valkeys"):
        from .lua.store import lua_store

        return lua_store(url, namespace=namespace, clock=clock, limits=limits, retry_for=retry_for)
    if scheme in ("etcd", "etcds"):
        try:
            from .kv.etcd import etcd_store
        except ModuleNotFoundError as missing:
            raise OptionError("store", redact(url), f"peerjob[etcd] installed ({missing})") from missing

        return etcd_store(url, namespace=namespace, clock=clock, limits=limits, retry_for=retry_for)
    raise OptionError("store", redact(url), f"a URL that starts with {', '.join(f'{s}://' for s in SCHEMES)}")


def open_elections(url: str, *, namespace: str, clock: Clock) -> Callable[[], Elections]:
    """Makes clients for the leadership that the server of a URL keeps, whatever the store is; see `open_store`."""
    try:
        return open_store(url, namespace=namespace, clock=clock, limits=StoreLimits()).elections
    except OptionError as error:
        if error.option != "store":
            raise
        raise OptionError("coordinator", error.given, error.expected) from None


def redact(url: str) -> str:
    """The URL without its password."""
    parts = urlsplit(url)
    if "@" not in parts.netloc:
        return url
    credentials, _, host = parts.netloc.rpartition("@")
    user = credentials.partition(":")[0]
    return urlunsplit(parts._replace(netloc=f"{user}:***@{host}" if ":" in credentials else f"{user}@{host}"))


def query_options(url: str, known: Mapping[str, type[Any]]) -> dict[str, Any]:
    """The query part of a URL as typed options; raises OptionError for a name that is not known."""
    found: dict[str, Any] = {}
    for name, text in parse_qsl(urlsplit(url).query, keep_blank_values=True):
        if name not in known:
            raise OptionError(f"store option {name!r}", text, f"one of {', '.join(sorted(known)) or 'none'}")
        wanted = known[name]
        try:
            found[name] = text.lower() in ("1", "true", "yes", "on") if wanted is bool else wanted(text)
        except ValueError:
            raise OptionError(f"store option {name!r}", text, f"a {wanted.__name__}") from None
    return found
