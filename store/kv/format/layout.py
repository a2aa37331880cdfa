"""The stored number of the layout, if it is damaged."""

from __future__ import annotations

import logging
import re

from peerjob.store.rules import LAYOUT

from .base import Compare, Entry, KeyValue, Put, Transaction

LAYOUT_VALUE = str(LAYOUT).encode()
"""The value of the key that stores the layout of this release."""
_NUMBER = re.compile(rb"[0-9]{1,9}")
logger = logging.getLogger("peerjob.store")


async def mended_layout(kv: KeyValue, key: str, entry: Entry) -> bool:
    """Write the layout of this release if the stored one is no number; False if it is one.

    Each release writes a number, so any other text is damage. Without a layout, no node would work any more.
    """
    if _NUMBER.fullmatch(entry.value):
        return False
    applied = await kv.txn([Transaction([Compare(key, mod=entry.mod)], [Put(key, LAYOUT_VALUE)])])
    if applied.answers[0] is not None:
        logger.error("%s: the layout of the namespace cannot be read; the layout %d replaces it", key, LAYOUT)
    return True
