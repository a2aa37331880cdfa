"""How long the enqueue of an instance can come again."""

from __future__ import annotations

from .ids import is_outbox_id

REPEAT_US = 120_000_000
"""Period after an instance's creation in which a caller that got no answer may enqueue the instance again:
a client retries for 30 s, and the node behind the client retries its store for 30 s more."""
OUTBOX_REPEAT_US = 86_400_000_000
"""The same period for an instance of an outbox: a relay enqueues a row again for almost a day. A final instance is kept
for as long by default, so it needs no mark."""


def repeat_us(id: str) -> int:
    """Period after the creation of an instance in which its enqueue can come again."""
    return OUTBOX_REPEAT_US if is_outbox_id(id) else REPEAT_US
