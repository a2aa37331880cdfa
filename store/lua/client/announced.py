"""Reads replies with hiredis, and refuses one that announces more elements than a server of jobs ever sends.

hiredis makes a list as soon as it reads its length: for 2**31 elements, it takes 16 GiB and stops the process for long.
"""

from __future__ import annotations

import re
from typing import Any

import hiredis

from .replies import ProtocolError, ServerError

MAX_ELEMENTS = 999_999
"""A script ends its reply after 1 MiB, and each element has six bytes or more."""

_LONG = re.compile(rb"[*%~>|][0-9]{7}")
"""The lengths of lists, maps, sets, messages and attributes: hiredis reads all of them, although a connection asks for
lists only."""
# Each length stands behind a line, or begins the data. A pattern with a literal begin is much faster.
_is_behind_line = re.compile(rb"\r\n[*%~>|][0-9]{7}").search
_is_first = re.compile(rb"\n?[*%~>|][0-9]{7}").match
_SHORTEST = 8
"""A length of seven digits and its type have as many bytes."""
_BEGUN = re.compile(rb"[*%~>|][0-9]{0,6}\Z")
_LINE_END = ord("\n")
_PARTIAL = object()
"""hiredis returns this if a reply has not arrived completely."""


def _announces(data: bytes) -> bool:
    return _is_behind_line(data) is not None or _is_first(data) is not None


class ReplyReader:
    """The replies in the data of one connection."""

    def __init__(self) -> None:
        self._reader = hiredis.Reader(protocolError=ProtocolError, replyError=ServerError, notEnoughData=_PARTIAL)
        self._feed = self._reader.feed
        self._gets = self._reader.gets
        self._held = b""
        """The begin of a length at the end of the last data."""

    def read(self, data: bytes, replies: list[Any]) -> None:
        """Append the replies that `data` completes; raises ProtocolError."""
        if self._held or data[-1] != _LINE_END or (len(data) >= _SHORTEST and _announces(data)):
            data = self._checked(data, replies)
        self._feed(data)
        gets = self._gets
        while (reply := gets(False)) is not _PARTIAL:
            replies.append(reply)

    @property
    def has_rest(self) -> bool:
        """Whether a reply has arrived in part."""
        return bool(self._held) or self._reader.has_data()

    def _checked(self, data: bytes, replies: list[Any]) -> bytes:
        """Feed the data up to the last length that is too large if it is one; return the rest."""
        data, self._held = self._held + data, b""
        if data[-1] != _LINE_END and (begun := _BEGUN.search(data, max(0, len(data) - 7))) is not None:
            data, self._held = data[: begun.start()], data[begun.start() :]
        begin = 0
        for length in _LONG.finditer(data):
            self._feed(data[begin : length.start()])
            while (reply := self._gets(False)) is not _PARTIAL:
                replies.append(reply)
            begin = length.start()
            # The text of a job can look like a length. Then hiredis still has the begin of that text, unread.
            if not self._reader.has_data():
                raise ProtocolError(f"the server announced a reply of more than {MAX_ELEMENTS:,} elements")
        return data[begin:]
