"""The OPTIONS of the backend in the setting TASKS."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from django.conf import settings

from peerjob import Duration, Job, Node

from .framework import InvalidTaskBackend

if TYPE_CHECKING:
    from redis.credentials import CredentialProvider

    from peerjob.sql import OutboxRelay

DEFAULT_FILE = "peerjob.db"
"""The file of the default store, in BASE_DIR of the project; without a BASE_DIR, in the current folder."""


@dataclass(frozen=True, kw_only=True)
class BackendOptions:
    """The checked OPTIONS."""

    store: str = field(repr=False)  # the URL can contain a password
    coordinator: str | None = field(default=None, repr=False)
    credentials: CredentialProvider | None = field(default=None, repr=False, hash=False)  # may have none
    namespace: str = "default"
    store_retry: Duration = 30.0
    enqueue_on_commit: bool = True
    outbox: bool | str = False

    @property
    def outbox_alias(self) -> str | None:
        """The alias of the database with the outbox; None without one."""
        if isinstance(self.outbox, str):
            return self.outbox
        return "default" if self.outbox else None

    def node(
        self,
        jobs: Iterable[Job[..., Any, Any]] = (),
        *,
        workers: int = 0,
        name: str | None = None,
        lease_ttl: Duration = 5.0,
        relays: bool = False,
    ) -> Node:
        """A node of these options, not started; raises OptionError for a value that no node accepts.

        With `relays`, it relays the outbox, if the options name one.
        """
        return Node(
            self.store,
            jobs=jobs,
            workers=workers,
            coordinator=self.coordinator,
            credentials=self.credentials,
            namespace=self.namespace,
            store_retry=self.store_retry,
            name=name,
            lease_ttl=lease_ttl,
            timezone=settings.TIME_ZONE,
            allow_unknown=True,
            outbox=self._relay() if relays else None,
        )

    def _relay(self) -> OutboxRelay | None:
        if self.outbox_alias is None:
            return None
        from peerjob.sql import OutboxRelay

        from .outbox.database import DjangoDatabase

        return OutboxRelay(DjangoDatabase(self.outbox_alias))


EXPECTED: dict[str, tuple[type[Any] | tuple[type[Any], ...], str]] = {
    "store": (str, "a URL, such as redis://localhost:6379"),
    "coordinator": ((str, type(None)), "a URL, such as etcd://localhost:2379"),
    "credentials": (object, "a CredentialProvider of redis-py"),
    "namespace": (str, "a name"),
    "store_retry": ((str, int, float, timedelta), "a duration, such as 2s"),
    "enqueue_on_commit": (bool, "True or False"),
    "outbox": ((bool, str), "True, False or an alias of DATABASES"),
}


def read_options(alias: str, given: Mapping[str, Any]) -> BackendOptions:
    """Check the OPTIONS of a backend; raises InvalidTaskBackend for an unknown name or a value of a wrong type."""
    where = f"TASKS[{alias!r}]['OPTIONS']"
    known = [field.name for field in fields(BackendOptions)]
    for name, value in given.items():
        if name not in EXPECTED:
            raise InvalidTaskBackend(f"{where}: expected options among {', '.join(known)}, got {name!r}")
        kind, expected = EXPECTED[name]
        if not isinstance(value, kind):
            raise InvalidTaskBackend(f"{where}[{name!r}]: expected {expected}, got {type(value).__name__} {value!r}")
    options: Mapping[str, Any] = given if "store" in given else {"store": default_store(), **given}
    return BackendOptions(**options)


def default_store() -> str:
    """The URL of a SQLite file in the folder of the project."""
    folder = Path(getattr(settings, "BASE_DIR", None) or ".").absolute()
    return f"sqlite://{folder / DEFAULT_FILE}"
