"""What a verb asks a store for: the commands with their arguments, where ids and times of the call have fixed texts."""

from __future__ import annotations

import inspect
import re
import time
from collections.abc import Awaitable, Callable
from dataclasses import fields, is_dataclass
from datetime import datetime
from typing import Any

import msgspec

from peerjob import OptionError, Query, Store
from peerjob.model.clock import to_us
from support.flaky import FlakyStore, Verb

READS = frozenset(
    {"activity", "audit", "descriptors", "fires", "get", "get_schedules", "key_limits", "limit_keys", "logs", "lookup"}
    | {"limits", "steps"}
)
"""Commands that are answered."""
WRITES = frozenset(
    {"cancel", "clear", "clear_history", "clear_instances", "clear_logs", "enqueue", "fire", "instruct", "pause_kind"}
    | {"put_schedule", "remove_schedule", "restore", "run_now", "set_limit", "signal"}
)
"""Commands that are refused while a verb is watched: the next verb finds the same state."""
WRITES_OF_A_NODE = {name for name in WRITES if "node" in inspect.signature(getattr(Store, name)).parameters}
"""Commands that keep the name of the node in the history."""
_ID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")
_MINUTE = 60_000_000
"""Microseconds. A time that is no multiple was computed from the present time."""


class AskedStore(FlakyStore):
    """A store that notes what it is asked for."""

    known: tuple[str, ...] = ()
    """Ids that are arguments, so that each of them counts as another one."""
    _asked: list[str] | None = None

    async def asked(self, call: Callable[[], Awaitable[object]]) -> list[str]:
        """What a call asks for, in order; the same request again counts once."""
        self._asked = []
        try:
            await call()
        except OptionError as error:
            if "told to refuse" not in str(error):
                raise
        finally:
            asked, self._asked = self._asked, None
        return list(dict.fromkeys(asked))

    def wrap(self, verb: str, target: Verb) -> Verb:
        inner = super().wrap(verb, target)

        async def call(*args: Any, **kwargs: Any) -> Any:
            if self._asked is not None and verb in READS | WRITES:
                self._asked.append(self._text(verb, args, kwargs))
                if verb in WRITES:
                    raise OptionError("store", verb, "another one: it was told to refuse")
            return await inner(*args, **kwargs)

        return call

    def _text(self, verb: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
        text = f"{verb} {_plain(args)} {_plain(kwargs)}"
        return _ID.sub(lambda found: found[0] if found[0] in self.known else "ID", text)


def _plain(value: Any) -> Any:
    """A value without what differs between two equal calls."""
    match value:
        case Query():
            criteria = {one.name: _plain(getattr(value, one.name)) for one in fields(value)}
            return criteria | {"uuid": value.id, "instance": None, "level": value.level and int(value.level)}
        case msgspec.Struct():
            return {name: _plain(getattr(value, name)) for name in value.__struct_fields__}
        case bytes():
            return _decoded(value)
        case msgspec.msgpack.Ext():
            return value.code, _decoded(bytes(value.data))
        case datetime():
            return _plain(to_us(value))
        case int() if value > 10**15 and value % _MINUTE:
            return f"now{round((value - time.time_ns() // 1000) / _MINUTE):+} min"
        case dict():
            named: dict[Any, Any] = value
            return {name: _plain(one) for name, one in named.items()}
        case list() | tuple():
            listed: list[Any] | tuple[Any, ...] = value
            return [_plain(one) for one in listed]
        case _ if is_dataclass(value):
            return {one.name: _plain(getattr(value, one.name)) for one in fields(value)}
        case _:
            return value


def _decoded(data: bytes) -> Any:
    try:
        return _plain(msgspec.msgpack.decode(data))
    except msgspec.DecodeError:
        return data
