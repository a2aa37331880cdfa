"""Limits of texts and counts, the same on every store; `docs/limits.md` has the whole table.

They keep each instance within what the smallest store takes in one step: etcd allows 128 operations and 1.5 MiB.
"""

from __future__ import annotations

from .errors import OptionError

MAX_KIND = 200
"""Characters of a kind."""
MAX_KEY = 1_000
"""Characters of an idempotency key, and of the name of a schedule."""
MAX_TAG = 200
"""Characters of a tag."""
MAX_TAGS = 50
"""Tags of one instance: each is an index entry, written in one step with the instance."""
MAX_ALIASES = 100
"""Aliases of one job."""
MAX_NOTE = 1_000
"""Characters of a note beside a pause, and of a description."""
MAX_ARGUMENTS = 1_000
"""Arguments of one call; a list counts as one."""
MAX_ERROR_TESTS = 100
"""Error classes and functions in `retry_on`, and in `no_retry_on`."""
MAX_NODE_NAME = 200
"""Characters of a node's name."""
MAX_NODE_KINDS = 5_000
"""Kinds and aliases that one node runs."""


def is_text(value: object, most: int, *, least: int = 1) -> bool:
    """Whether a value is text of so many characters that every store can keep: no NUL, and a form in UTF-8."""
    return isinstance(value, str) and least <= len(value) <= most and "\x00" not in value and encodable(value)


def checked_text(option: str, value: object, most: int, *, least: int = 1) -> str:
    """The text; raises OptionError, which shows no more than the beginning of a long one."""
    if isinstance(value, str) and is_text(value, most, least=least):
        return value
    given = f"{value[:100]}… ({len(value):,} characters)" if isinstance(value, str) and len(value) > most else value
    raise OptionError(option, given, text_of(most, least=least))


def text_of(most: int, *, least: int = 1) -> str:
    """What `checked_text` expects, in words."""
    return f"text of {least} to {most:,} characters, without a NUL or half of a surrogate pair"


def encodable(text: str) -> bool:
    """Whether text has a form in UTF-8: it holds no half of a surrogate pair."""
    return text.isascii() or not any("\ud800" <= character <= "\udfff" for character in text)
