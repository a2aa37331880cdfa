"""Where nodes, and their processes for bodies, find the body of a task by its name."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import django
from django.apps import apps

from .body import make_body
from .tasks import find_task


@functools.lru_cache(maxsize=4096)
def body_of(alias: str, path: str) -> Callable[..., Any]:
    """The body of the task with this module path, on nodes of the backend `alias`; the same one at each call."""
    return make_body(find_task(path), alias, ":".join((alias, *path.split("."))))


def set_up() -> None:
    """Set up Django, unless it is; keep the handler by which a process sends log lines to its node."""
    if apps.ready:
        return
    root = logging.getLogger()
    handlers = root.handlers[:]
    django.setup()
    for handler in handlers:
        if handler not in root.handlers:
            root.addHandler(handler)


if not TYPE_CHECKING:

    def __getattr__(name: str) -> Callable[..., Any]:
        """A body by its name, `alias:app:tasks:function`: a reference has no dots, which would mean attributes."""
        alias, colon, path = name.partition(":")
        if not colon:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        set_up()
        return body_of(alias, path.replace(":", "."))
