"""Store URLs: how to read and how to show them. This module imports no engine and no driver."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import SplitResult, parse_qsl, urlsplit

from peerjob.model.errors import OptionError

_HOSTS_END = re.compile("[/?#]")
_ESCAPED = "a URL whose password has %2F for /, %3F for ?, %23 for #, %5B for [ and %40 for @"


def scheme_of(url: str) -> str:
    """What a URL begins with; raises OptionError for one that cannot be read."""
    return split_url(url).scheme


def split_url(url: str) -> SplitResult:
    """A URL taken apart, also one with several hosts, of which urlsplit takes no IPv6; raises OptionError."""
    scheme, slashes, rest = url.partition("://")
    netloc = _HOSTS_END.split(rest, maxsplit=1)[0] if slashes else ""
    credentials, _, hosts = netloc.rpartition("@")
    try:
        if "[" in credentials or "]" in credentials:
            raise ValueError
        for host in hosts.split(","):
            urlsplit(f"//{host}")
        bare = urlsplit(f"{scheme}://{rest[len(netloc) :]}" if slashes else url)
    except ValueError:
        raise OptionError("store", redact(url), _ESCAPED) from None
    return bare._replace(netloc=netloc)


def redact(url: str) -> str:
    """The URL without its password, also when that holds what ought to be escaped and ends the host for a parser."""
    scheme, slashes, rest = url.partition("://")
    credentials, at, host = rest.rpartition("@")
    user, colon, _ = credentials.partition(":")
    # what stands alone is as often a password in the wrong place as a user without one
    shown = f"{user}:***" if colon else "***" if at else ""
    return f"{scheme}{slashes}{shown}{at}{host}"


def query_options(url: str, known: Mapping[str, type[Any]]) -> dict[str, Any]:
    """The query part of a URL as typed options; raises OptionError for a name that is not known."""
    found: dict[str, Any] = {}
    for name, text in parse_qsl(split_url(url).query, keep_blank_values=True):
        if name not in known:
            if "@" in name + text:  # it is the rest of a password
                raise OptionError("store", redact(url), _ESCAPED)
            raise OptionError(f"store option {name!r}", text, f"one of {', '.join(sorted(known)) or 'none'}")
        wanted = known[name]
        try:
            found[name] = text.lower() in ("1", "true", "yes", "on") if wanted is bool else wanted(text)
        except ValueError:
            raise OptionError(f"store option {name!r}", text, f"a {wanted.__name__}") from None
    return found
