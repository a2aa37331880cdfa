"""Limits of texts and counts, the same on every store; `docs/limits.md` lists all limits.

With them, each instance fits into one transaction of the smallest store: etcd allows 128 operations and 1.5 MiB.
"""

from __future__ import annotations

from .errors import OptionError

MAX_KIND = 200
"""Most characters of a kind."""
MAX_KEY = 1_000
"""Most characters of an idempotency key, and of the name of a schedule."""
MAX_TAG = 200
"""Most characters of a tag."""
MAX_TAGS = 50
"""Most tags of one instance. One transaction of the store writes the instance and an index entry for each tag."""
MAX_ALIASES = 100
"""Most aliases of one job."""
MAX_NOTE = 1_000
"""Most characters of the note of a pause, and of a description."""
MAX_LIMIT_NAME = 200
"""Most characters of the name of a shared limit, and of the key of a key limit."""
MAX_ARGUMENTS = 1_000
"""Most arguments of one call. A list counts as one argument."""
MAX_ERROR_TESTS = 100
"""Most error classes and functions in `retry_on`, and the same for `no_retry_on`."""
MAX_NODE_NAME = 200
"""Most characters of a node's name."""
MAX_WORKERS = 10_000
"""Most workers of a node. The node creates each of them, and each takes memory."""
MAX_SIZE = 2**31 - 1
"""The largest limit of a payload or a message, in bytes. gRPC has 31 bits for it."""
MAX_LEASE = 86_400
"""The longest lease of a node, in seconds. Peers take over from a lost node after its lease."""
MAX_NODE_KINDS = 5_000
"""Most kinds and aliases that one node runs."""


def is_text(value: object, most: int, *, least: int = 1) -> bool:
    """Whether a value is text of an allowed length that every store can keep: without NUL, and valid in UTF-8."""
    return isinstance(value, str) and least <= len(value) <= most and "\x00" not in value and encodable(value)


def checked_text(option: str, value: object, most: int, *, least: int = 1) -> str:
    """Return the text; raises OptionError, which shows only the beginning of a long text."""
    if isinstance(value, str) and is_text(value, most, least=least):
        return value
    given = f"{value[:100]}… ({len(value):,} characters)" if isinstance(value, str) and len(value) > most else value
    raise OptionError(option, given, text_of(most, least=least))


def text_of(most: int, *, least: int = 1) -> str:
    """Describe the text that `checked_text` expects."""
    return f"text of {least} to {most:,} characters, without a NUL or half of a surrogate pair"


def encodable(text: str) -> bool:
    """Whether text is valid in UTF-8: it has no lone surrogate."""
    return text.isascii() or not any("\ud800" <= character <= "\udfff" for character in text)


MAX_COUNT = 2**31 - 1
"""The most retries, and the most crashes. A record on Redis has 32 bits for such a number."""
MAX_SEED = 2**256
"""The largest seed of tests. Seeds of UUIDs and of other test tools have 128 bits."""
MAX_NUMBER = 2**53
"""The largest number that every store, message and language keeps exactly."""
