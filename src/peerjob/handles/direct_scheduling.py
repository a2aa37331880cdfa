"""How a thread without an event loop stores a run, and reads an instance."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any

from .instance import Instance


class DirectScheduling:
    """A base of `Manager`, apart from it: its methods are no verbs for users, and check no types."""

    def schedule_directly(
        self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any], id: str | None = None
    ) -> Instance[Any] | Coroutine[Any, Any, Instance[Any]]:
        """Store one run from a thread without an event loop: `schedule`, or `schedule_as` with an id.

        Returns the instance, or a coroutine that is left to run on the event loop of the manager.
        """
        manager: Any = self
        rest: Coroutine[Any, Any, Instance[Any]] = (
            manager.schedule(target, *args, **kwargs) if id is None else manager.schedule_as(id, target)
        )
        return rest

    def store_directly(self, call: Any) -> str | Coroutine[Any, Any, Instance[Any]]:
        """Like `schedule_directly`, for a caller that needs only the id: no instance is made."""
        manager: Any = self
        rest: Coroutine[Any, Any, Instance[Any]] = manager.schedule(call)
        return rest

    def lookup_directly(self, uuid: object, job: object = None) -> Instance[Any] | None:
        """Read one instance from a thread without an event loop; None if only `lookup_instance` can do that now."""
        return None
