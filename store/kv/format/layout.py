"""The stored number of the layout, if it is damaged."""

from __future__ import annotations

import logging
import re

from peerjob.store.rules import FLOWS_LAYOUT, LAYOUT, LIMITS_LAYOUT

from .base import Compare, Entry, KeyValue, Put, Range, Transaction
from .keys import Keys, below

LAYOUT_VALUE = str(LAYOUT).encode()
"""The value of the key that stores the layout of a namespace without limits."""
LIMITS_VALUE = str(LIMITS_LAYOUT).encode()
"""The value of that key in a namespace that has used limits."""
FLOWS_VALUE = str(FLOWS_LAYOUT).encode()
"""The value of that key in a namespace that has used steps, signals or children; it may have used limits."""
LAYOUT_VALUES = (LAYOUT_VALUE, LIMITS_VALUE, FLOWS_VALUE)
_NUMBER = re.compile(rb"[0-9]{1,9}")
logger = logging.getLogger("peerjob.store")


async def mended_layout(kv: KeyValue, keys: Keys, entry: Entry) -> bool:
    """Write the layout that the namespace needs if the stored one is no number; False if it is one.

    Each release writes a number, so any other text is damage. Without a layout, no node would work any more.
    """
    if _NUMBER.fullmatch(entry.value):
        return False
    limits = (below(prefix, 1, keys_only=True) for prefix in (keys.limited, keys.limits))
    durable, *answers = await kv.read([Range(keys.durable, keys_only=True), *limits])
    limited = any(answer.count for answer in answers)
    layout = FLOWS_VALUE if durable.count else LIMITS_VALUE if limited else LAYOUT_VALUE
    applied = await kv.txn([Transaction([Compare(keys.layout, mod=entry.mod)], [Put(keys.layout, layout)])])
    if applied.answers[0] is not None:
        text = "%s: the layout of the namespace cannot be read; the layout %s replaces it"
        logger.error(text, keys.layout, layout.decode())
    return True
