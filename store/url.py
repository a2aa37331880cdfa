"""Store URLs: how to read and how to show them. This module imports no engine and no driver."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, parse_qsl, urlsplit

from peerjob.model.errors import OptionError

_HOSTS_END = re.compile("[/?#]")
_ESCAPED = "a URL whose password has %2F for /, %3F for ?, %23 for #, %5B for [ and %40 for @"


def scheme_of(url: str) -> str:
    """The scheme of a URL; raises OptionError if the URL cannot be read."""
    return split_url(url).scheme


def split_url(url: str) -> SplitResult:
    """The parts of a URL, also of one with several IPv6 hosts, which urlsplit refuses; raises OptionError."""
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
    """The URL without its password, even if the password has unescaped characters that end the host for a parser."""
    scheme, slashes, rest = url.partition("://")
    credentials, at, host = rest.rpartition("@")
    user, colon, _ = credentials.partition(":")
    # A single credential can be a password in the place of the user name, so hide the credential.
    shown = f"{user}:***" if colon else "***" if at else ""
    return f"{scheme}{slashes}{shown}{at}{host}"


def query_options(url: str, known: Mapping[str, type[Any]]) -> dict[str, Any]:
    """The query part of a URL as typed options; raises OptionError for an unknown name."""
    found: dict[str, Any] = {}
    for name, text in parse_qsl(split_url(url).query, keep_blank_values=True):
        if name not in known:
            # An option with `@` is a part of a password with an unescaped `?`, so the error must not show the option.
            if "@" in name + text:
                raise OptionError("store", redact(url), _ESCAPED)
            raise OptionError(f"store option {name!r}", text, f"one of {', '.join(sorted(known)) or 'none'}")
        wanted = known[name]
        try:
            found[name] = text.lower() in ("1", "true", "yes", "on") if wanted is bool else wanted(text)
        except ValueError:
            raise OptionError(f"store option {name!r}", text, f"a {wanted.__name__}") from None
    return found


def file_options(url: str, options: Mapping[str, Any], names: tuple[str, ...]) -> dict[str, Path]:
    """The options that name files, the last two of them a certificate and its key; raises OptionError.

    Each file must exist, and the certificate and its key come together.
    """
    paths = {name: Path(options[name]) for name in names if name in options}
    for path in paths.values():
        if not path.is_file():
            raise OptionError("store", redact(url), f"a file at {path}")
    certificate, key = names[-2:]
    if (certificate in paths) != (key in paths):
        raise OptionError("store", redact(url), f"{certificate} and {key} together")
    return paths
