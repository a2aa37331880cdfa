"""A cluster that the dashboard shows: its manager, its shared samples, and the pages that it showed last."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from peerjob.handles.manager import Manager
from peerjob.handles.scoped_manager import ScopedManager
from peerjob.model.latest import Latest
from peerjob.model.rights import Rights

from .feeds import Feeds
from .links import Links
from .lookups import SharedLists
from .samples import Samples

MAX_REMEMBERED = 32
"""The most pages that are kept, to be shown again while the store is away."""
MAX_REMEMBERED_TEXT = 512 << 10
"""The most characters of a page that is kept."""
MAX_SCOPES = 50
"""The most sets of kinds whose samples and pages are kept. Each set has samples of its own."""


class RememberedPages:
    """The values of the last pages, by their link and the role of the reader; the oldest is dropped."""

    def __init__(self) -> None:
        self._pages = Latest[object, tuple[int, str, dict[str, Any]]](MAX_REMEMBERED)

    def keep(self, key: object, at_us: int, template: str, values: dict[str, Any], size: int) -> None:
        """Keep a page, unless it is too large."""
        if size <= MAX_REMEMBERED_TEXT:
            self._pages[key] = at_us, template, values
        else:
            self._pages.pop(key, None)

    def find(self, key: object) -> tuple[int, str, dict[str, Any]] | None:
        """The time, template and values of a page."""
        return self._pages.get(key)


class ServedCluster:
    """A manager that the dashboard serves. `name` is "" if it serves only one."""

    def __init__(self, name: str, manager: Manager) -> None:
        self.name = name
        self.manager = manager
        self.samples = Samples(manager)
        self.feeds = Feeds(manager)
        self.lists = SharedLists(manager)
        self.remembered = RememberedPages()
        self.parts: dict[tuple[str, Links], tuple[int, Mapping[str, str]]] = {}
        """The parts of live views that all readers share, with the version of their sample."""

        self._scoped = Latest[tuple[str, ...], ServedCluster](MAX_SCOPES)

    def for_kinds(self, rights: Rights) -> ServedCluster:
        """This cluster, or what rights that are limited to kinds show of it."""
        if not rights.kinds:
            return self
        key = tuple(sorted(rights.kinds))
        cluster = self._scoped.get(key) or ServedCluster(self.name, ScopedManager(self.manager, rights))
        self._scoped[key] = cluster
        return cluster

    def is_within(self, rights: Rights) -> bool:
        """Whether the rights cover the namespace. Only a node tells its namespace."""
        return not rights.namespaces or getattr(self.manager, "namespace", None) in rights.namespaces
