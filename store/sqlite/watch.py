"""A watch: keys that were put, in this process or in another one."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from peerjob.store.kv.format.local_watch import LocalWatch


class SqliteWatch(LocalWatch):
    """A watch that the thread of the file tells of keys."""

    def __init__(self, prefixes: tuple[str, ...], seen: int, on_close: Callable[[SqliteWatch], None]) -> None:
        super().__init__(prefixes)
        self.seen = seen
        """The revision up to which the thread of the file has looked for keys."""
        self._on_close = on_close

    def tell_all(self, puts: Mapping[str, bytes]) -> None:
        """Remember keys that were put; called from the thread of the file."""
        for key, value in puts.items():
            self.tell(key, value)

    def close(self) -> None:
        self._on_close(self)
