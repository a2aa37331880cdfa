"""Opens the store of a URL, its elections and its diagnosis.

The module of an engine is imported when its URL asks for it, and only here, so no unused client library is imported.
No module of `store` imports this one.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from peerjob.model.arguments import finite_number, typed_except_secrets
from peerjob.model.clock import Clock
from peerjob.model.durations import MAX_SECONDS
from peerjob.model.errors import OptionError
from peerjob.model.extras import needs_extra
from peerjob.model.findings import Finding
from peerjob.model.record import StoreLimits

from .base import Elections, Store
from .calls import RETRY_FOR
from .url import credentials_of, redact, scheme_of

if TYPE_CHECKING:
    from redis.credentials import CredentialProvider

NAMESPACE = re.compile(r"[A-Za-z0-9._-]{1,64}")
LUA_SCHEMES = (
    *("redis", "rediss", "redis+sentinel", "rediss+sentinel", "redis+unix"),
    *("valkey", "valkeys", "valkey+sentinel", "valkeys+sentinel", "valkey+unix"),
    *("valkey+glide", "valkeys+glide", "valkey+glide+sentinel", "valkeys+glide+sentinel"),
    "unix",
)
_ETCD = ("etcd", "etcds")


class Engine(Store, Protocol):
    """A store that this package implements, which can also wipe its namespace."""

    async def wipe(self) -> int:
        """Connect without `open`, and remove every key of the namespace, in any layout; returns the number."""
        ...


@typed_except_secrets("url")
def open_store(
    url: str,
    *,
    namespace: str,
    clock: Clock,
    limits: StoreLimits,
    retry_for: float = RETRY_FOR,
    credentials: CredentialProvider | None = None,
) -> Engine:
    """The store that a URL names, not opened yet; raises OptionError for a URL that names none.

    `memory://` is private to its caller, `memory://name` is shared in the process. `sqlite:///path/file.db` is a file
    that the processes of this machine share; it takes `?sync=full|normal`. `redis://` and `valkey://` take
    `?cluster=true`, credentials and a database number in the usual places; `rediss://` and `valkeys://` use TLS.
    `redis+sentinel://` takes the hosts of sentinels and the name of the primary, `redis+unix://` the path of a socket.
    `valkey+glide://`, `valkeys+glide://` and the same with `+sentinel` use valkey-glide.
    `etcd://` and, with TLS, `etcds://` take the hosts of all members, with commas between them.
    The store retries a call for `retry_for` seconds while the server is away. On Redis and Valkey, `credentials` gives
    the user and the password in place of the URL.
    """
    finite_number("retry_for", retry_for, "seconds, of zero or more and at most 1,000 years", 0, MAX_SECONDS)
    if not NAMESPACE.fullmatch(namespace):
        raise OptionError("namespace", namespace, "1 to 64 letters, digits, '.', '_' or '-'")
    scheme = scheme_of(url)
    _check_provider(credentials)
    if credentials is not None and scheme not in LUA_SCHEMES:
        raise OptionError("credentials", type(credentials).__name__, "none, except with a store on Redis or Valkey")
    if scheme == "memory":
        from .memory.driver import memory_store

        return memory_store(url, namespace=namespace, clock=clock, limits=limits)
    if scheme == "sqlite":
        from .sqlite.driver import sqlite_store

        return sqlite_store(url, namespace=namespace, clock=clock, limits=limits, retry_for=retry_for)
    if scheme in LUA_SCHEMES:
        from .lua.scripts.script import load_scripts

        load_scripts()  # before redis-py, whose import then fills the memory that the load frees
        from .lua.store import lua_store

        return lua_store(
            url, namespace=namespace, clock=clock, limits=limits, retry_for=retry_for, credentials=credentials
        )
    if scheme in _ETCD:
        with needs_extra("etcd", redact(url)):
            from .etcd.driver import etcd_store

        return etcd_store(url, namespace=namespace, clock=clock, limits=limits, retry_for=retry_for)
    raise _unknown(url)


@typed_except_secrets("url")
async def wipe_namespace(url: str, *, namespace: str, clock: Clock) -> int:
    """Remove every key of a namespace, in any layout; returns how many there were.

    No node may run on it. Raises OptionError for a SQLite file that does not exist.
    """
    check_exists(url)
    store = open_store(url, namespace=namespace, clock=clock, limits=StoreLimits())
    try:
        return await store.wipe()
    finally:
        await store.close()


@typed_except_secrets("url")
def missing_file(url: str) -> Path | None:
    """The SQLite file of a store if it does not exist: a store that is opened would make it. Raises OptionError."""
    if scheme_of(url) != "sqlite":
        return None
    from .sqlite.location import file_at

    path, exists = file_at(url)
    return None if exists else path


@typed_except_secrets("url")
def check_file(url: str) -> None:
    """Raise OptionError for a SQLite file that cannot be at its path, as the first call of its store would."""
    if scheme_of(url) == "sqlite":
        from .sqlite.location import check_location_of

        check_location_of(url)


def check_exists(url: str) -> None:
    """Raise OptionError for a SQLite file that does not exist."""
    if (path := missing_file(url)) is not None:
        raise OptionError("store", str(path), "a file that exists")


@typed_except_secrets("url")
def open_elections(
    url: str, *, namespace: str, clock: Clock, credentials: CredentialProvider | None = None
) -> Callable[[], Elections]:
    """A factory of clients for the leadership that the server of a URL keeps; see `open_store`.

    `credentials` is for a URL that takes it, as `takes_credentials` tells; others ignore it.
    """
    _check_provider(credentials)
    try:
        if not takes_credentials(url):
            credentials = None
        store = open_store(url, namespace=namespace, clock=clock, limits=StoreLimits(), credentials=credentials)
        return store.elections
    except OptionError as error:
        if error.option != "store":
            raise
        raise OptionError("coordinator", error.given, error.expected) from None


@typed_except_secrets("url")
async def diagnose(url: str, *, namespace: str, clock: Clock) -> Sequence[Finding]:
    """Ask the server of a store about its own health; a memory store has none.

    Raises OptionError for a URL that names no store, StoreError if the server does not answer or is too old.
    """
    scheme = scheme_of(url)
    if scheme in _ETCD:
        with needs_extra("etcd", redact(url)):
            from .etcd.diagnosis import diagnose_etcd

        return await diagnose_etcd(url, namespace, clock)
    if scheme in LUA_SCHEMES:
        from .lua.check.diagnosis import diagnose_lua

        return await diagnose_lua(url, namespace)
    if scheme == "sqlite":
        from .sqlite.diagnosis import diagnose_sqlite

        return diagnose_sqlite(url)
    if scheme != "memory":
        raise _unknown(url)
    return ()


def takes_credentials(url: object) -> bool:
    """Whether a provider can sign in: to a Redis or Valkey by redis-py, with a URL that has no user and no password."""
    return (
        isinstance(url, str)
        and scheme_of(url) in LUA_SCHEMES
        and "glide" not in scheme_of(url)
        and not any(credentials_of(url))
    )


def _check_provider(credentials: CredentialProvider | None) -> None:
    if credentials is not None and not callable(getattr(credentials, "get_credentials_async", None)):
        raise OptionError("credentials", type(credentials).__name__, "a CredentialProvider of redis-py")


def _unknown(url: str) -> OptionError:
    usual = "redis://, valkey://, etcd://, sqlite:// or memory://"
    return OptionError(
        "store", redact(url), f"a URL that starts with {usual}; for TLS, rediss://, valkeys:// or etcds://"
    )


def elections_of(
    coordinator: str | Callable[[], Elections] | None,
    store: Store,
    *,
    namespace: str,
    clock: Clock,
    credentials: CredentialProvider | None,
) -> Callable[[], Elections]:
    """A function that makes clients of the service that elects the leader; raises OptionError."""
    if coordinator is None:
        return store.elections
    if isinstance(coordinator, str):
        return open_elections(coordinator, namespace=namespace, clock=clock, credentials=credentials)
    if not callable(coordinator):  # pyright: ignore[reportUnnecessaryComparison]  # untyped callers pass any object
        raise OptionError("coordinator", coordinator, "a URL, or a function that makes a client of elections")
    return coordinator
