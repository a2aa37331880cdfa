"""Store URLs: which engine and driver a URL names, checked before anything connects."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Generator, Mapping
from typing import Any, Protocol
from urllib.parse import SplitResult, parse_qsl, urlsplit

from peerjob.model.clock import Clock
from peerjob.model.errors import OptionError
from peerjob.model.record import StoreLimits

from .base import Elections, Store

NAMESPACE = re.compile(r"[A-Za-z0-9._-]{1,64}")
SCHEMES = ("memory", "redis", "rediss", "valkey", "valkeys", "etcd", "etcds")
_HOSTS_END = re.compile("[/?#]")
_ESCAPED = "a URL whose password has %2F for /, %3F for ?, %23 for #, %5B for [ and %40 for @"


class Engine(Store, Protocol):
    """A store of this package."""

    async def wipe(self) -> int:
        """Instead of `open`: connect, and remove every key of the namespace, whatever its layout; returns how many."""
        ...


def open_store(url: str, *, namespace: str, clock: Clock, limits: StoreLimits, retry_for: float = 30.0) -> Engine:
    """The store that a URL names, not opened yet; raises OptionError for a URL that names none.

    `memory://` is private to its caller, `memory://name` is shared in the process. `redis://` and `valkey://` take
    `?cluster=true`, credentials and a database number in the usual places; `rediss://` and `valkeys://` use TLS.
    `etcd://` and, with TLS, `etcds://` take the hosts of all members, with commas between them.
    `retry_for` is how many seconds a call is retried while the server is away.
    """
    if not NAMESPACE.fullmatch(namespace):
        raise OptionError("namespace", namespace, "1 to 64 letters, digits, '.', '_' or '-'")
    scheme = scheme_of(url)
    if scheme == "memory":
        from .memory.driver import memory_store

        return memory_store(url, namespace=namespace, clock=clock, limits=limits)
    if scheme in ("redis", "rediss", "valkey", "valkeys"):
        from .lua.store import lua_store

        return lua_store(url, namespace=namespace, clock=clock, limits=limits, retry_for=retry_for)
    if scheme in ("etcd", "etcds"):
        with needs_etcd(url):
            from .etcd.driver import etcd_store

        return etcd_store(url, namespace=namespace, clock=clock, limits=limits, retry_for=retry_for)
    raise OptionError("store", redact(url), f"a URL that starts with {', '.join(f'{s}://' for s in SCHEMES)}")


async def wipe_namespace(url: str, *, namespace: str, clock: Clock) -> int:
    """Remove every key of a namespace, also one whose layout this release cannot read; returns how many there were.

    No node may run on it.
    """
    store = open_store(url, namespace=namespace, clock=clock, limits=StoreLimits())
    try:
        return await store.wipe()
    finally:
        await store.close()


def open_elections(url: str, *, namespace: str, clock: Clock) -> Callable[[], Elections]:
    """Makes clients for the leadership that the server of a URL keeps, whatever the store is; see `open_store`."""
    try:
        return open_store(url, namespace=namespace, clock=clock, limits=StoreLimits()).elections
    except OptionError as error:
        if error.option != "store":
            raise
        raise OptionError("coordinator", error.given, error.expected) from None


@contextlib.contextmanager
def needs_etcd(url: str) -> Generator[None]:
    """Around the import of what talks to etcd: raises OptionError where the extra is not installed."""
    try:
        yield
    except ModuleNotFoundError as missing:
        raise OptionError("store", redact(url), f"peerjob[etcd] installed ({missing})") from missing


def scheme_of(url: str) -> str:
    """What a URL begins with; raises OptionError for one that cannot be read."""
    return split_url(url).scheme


def split_url(url: str) -> SplitResult:
    """A URL taken apart, also one with several hosts, of which urlsplit takes no IPv6; raises OptionError."""
    scheme, slashes, rest = url.partition("://")
    netloc = _HOSTS_END.split(rest, maxsplit=1)[0] if slashes else ""
    credentials, _, hosts = netloc.rpartition("@")
    try:
        if "[" in credentials or "]" in credentials:
            raise ValueError
        for host in hosts.split(","):
            urlsplit(f"//{host}")
        bare = urlsplit(f"{scheme}://{rest[len(netloc) :]}" if slashes else url)
    except ValueError:
        raise OptionError("store", redact(url), _ESCAPED) from None
    return bare._replace(netloc=netloc)


def redact(url: str) -> str:
    """The URL without its password, also when that holds what ought to be escaped and ends the host for a parser."""
    scheme, slashes, rest = url.partition("://")
    credentials, at, host = rest.rpartition("@")
    user, colon, _ = credentials.partition(":")
    # what stands alone is as often a password in the wrong place as a user without one
    shown = f"{user}:***" if colon else "***" if at else ""
    return f"{scheme}{slashes}{shown}{at}{host}"


def query_options(url: str, known: Mapping[str, type[Any]]) -> dict[str, Any]:
    """The query part of a URL as typed options; raises OptionError for a name that is not known."""
    found: dict[str, Any] = {}
    for name, text in parse_qsl(split_url(url).query, keep_blank_values=True):
        if name not in known:
            if "@" in name + text:  # it is the rest of a password
                raise OptionError("store", redact(url), _ESCAPED)
            raise OptionError(f"store option {name!r}", text, f"one of {', '.join(sorted(known)) or 'none'}")
        wanted = known[name]
        try:
            found[name] = text.lower() in ("1", "true", "yes", "on") if wanted is bool else wanted(text)
        except ValueError:
            raise OptionError(f"store option {name!r}", text, f"a {wanted.__name__}") from None
    return found
