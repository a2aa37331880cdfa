"""Why a server refused a command or a connection, and the error that the store raises for it."""

from __future__ import annotations

import enum
import re

from peerjob.model.errors import (
    StoreCommandError,
    StoreCredentialsError,
    StoreError,
    StoreFullError,
    StorePermissionError,
    StoreRefusedError,
    StoreUnavailableError,
)
from peerjob.store.rules import check_layout

from .address import Address
from .credentials import Credentials

PASSING_CODES = (
    "ASK",
    "BUSY",
    "CLUSTERDOWN",
    "LOADING",
    "MASTERDOWN",
    "MISCONF",
    "MOVED",
    "NOREPLICAS",
    "READONLY",
    "TRYAGAIN",
    "UNBLOCKED",
)
NOT_LOCAL = "Script attempted to access a non local key"
"""While the hash slot of a namespace moves, a script can get the text NOT_LOCAL instead of TRYAGAIN. The script has
written nothing in that case."""

_LAYOUT = re.compile(r"\bLAYOUT:? (\S+)")
"""The pattern fits both client libraries, which word the error of a script differently."""

_DISK_ADVICE = (
    "when its disk has room again, run BGREWRITEAOF before it restarts, because it may refuse to load the file that it "
    "has now"
)
"""What to do after a failed write of the append-only file.

A server with `appendfsync everysec` goes on when its disk has space. If it has rewritten the file since it started, the
file now has zeros between two commands: the server removed the incomplete command, and wrote the next one where the
incomplete one had ended. Seen with Redis 8.0.2 and Valkey 8.1.1.
"""

_DEMOTED = re.compile(r"\b(READONLY|ReadOnly|UNBLOCKED)\b|read only replica")


class Cause(enum.Enum):
    """Why a server refused a command."""

    FULL = "out of memory"
    MOVED = "another server of the cluster has the slot"
    PASSING = "a later call may succeed"
    CREDENTIALS = "the server refuses the user name or the password"
    FORBIDDEN = "the user lacks a right"
    NO_COMMAND = "the server does not have the command"
    NO_SCRIPT = "the server does not know the script"
    OTHER = "anything else"


_CAUSES = (
    (re.compile(r"ACL failure in script|\bNOPERM\b|o permissions to "), Cause.FORBIDDEN),
    (
        re.compile(r"\bunknown (?:sub)?command\b|\bUnknown \w+ command called from|Invalid command passed"),
        Cause.NO_COMMAND,
    ),
    (re.compile(r"\b(?:NOAUTH|WRONGPASS)\b|called without any password|Authentication required"), Cause.CREDENTIALS),
    (re.compile(r"max number of clients |Script killed by user"), Cause.PASSING),
)
"""Texts of the servers that both client libraries pass on without a class of their own."""
_GLIDE_PREFIX = re.compile(r"^.*?An error was signalled by the server: - (?:ResponseError: |PermissionDenied: )?")
_ARGUMENTS = re.compile(r",? with args beginning with: .*", re.DOTALL)


def cause_in_text(text: str) -> Cause:
    """Return the cause that the text of an error tells, with either client library."""
    return next((cause for pattern, cause in _CAUSES if pattern.search(text)), Cause.OTHER)


def user_of(address: Address, credentials: Credentials | None) -> str:
    """The user that signs in: of the provider, or of the URL."""
    return (credentials.user if credentials is not None else address.username) or "default"


def refusal(
    error: Exception,
    cause: Cause,
    *,
    address: Address,
    namespace: str,
    prefix: str,
    credentials: Credentials | None,
    connecting: bool,
) -> StoreError:
    """The error to raise for an error of the server: its answer to a command, or to a new connection."""
    url = address.url
    text = _ARGUMENTS.sub("", _GLIDE_PREFIX.sub("", str(error).strip())).removeprefix("ERR ")
    code = text.split(" ", 1)[0].split(":", 1)[0]
    if cause is Cause.MOVED and not address.cluster:
        return StoreError(f"the server at {url} is one of a cluster: add ?cluster=true to the URL")
    if code == "MISCONF" and "AOF" in text:
        return StoreUnavailableError(url, f"{text}; {_DISK_ADVICE}")
    if cause in (Cause.MOVED, Cause.PASSING, Cause.NO_SCRIPT) or code in PASSING_CODES or NOT_LOCAL in text:
        return StoreUnavailableError(url, text)
    if (layout := _LAYOUT.search(text)) is not None:
        check_layout(layout[1], namespace=namespace, url=url)
    user = repr(user_of(address, credentials))
    if cause is Cause.FULL:
        return StoreFullError(f"the store at {url} is out of memory: {text}")
    if cause is Cause.CREDENTIALS:
        if credentials is not None:
            return StoreCredentialsError(f"the store at {url} refused user {user} of the provider: {text}")
        with_or_without = "with" if address.password else "without"
        return StoreCredentialsError(f"the store at {url} refused user {user} {with_or_without} a password: {text}")
    if cause is Cause.FORBIDDEN:
        return StorePermissionError(f"user {user} of the store at {url} lacks a right on keys {prefix}*: {text}")
    if cause is Cause.NO_COMMAND:
        return StoreCommandError(f"the store at {url} lacks a command that peerjob needs: {text}")
    if connecting:
        return StoreError(f"the store at {url} refused the connection: {text}")
    return StoreRefusedError(f"the store at {url} refused a command: {text}")


def is_demoted(error: Exception) -> bool:
    """Whether the server says that it is no longer a primary: every connection to it must be closed.

    The same address may lead to the new primary while connections to the old one stay open.
    """
    return _DEMOTED.search(str(error)) is not None
