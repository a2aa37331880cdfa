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

# A literal first character makes these patterns fast.
_LONG_LIST = re.compile(rb"\*[0-9]{7}")
_LONG_OTHER = re.compile(rb"[%~>|][0-9]{7}")
"""Maps, sets, messages and attributes: hiredis reads them, although peerjob does not ask for them."""
_LONG = re.compile(rb"[*%~>|][0-9]{7}")
_BEGUN = re.compile(rb"[*%~>|][0-9]{0,6}\Z")
_PARTIAL = object()
"""hiredis returns this if a reply has not arrived completely."""


class ReplyReader:
    """The replies in the data of one connection."""

    def __init__(self) -> None:
        self._reader = hiredis.Reader(protocolError=ProtocolError, replyError=ServerError, notEnoughData=_PARTIAL)
        self._held = b""
        """The begin of a length at the end of the last data."""

    def read(self, data: bytes, replies: list[Any]) -> None:
        """Append the replies that `data` completes; raises ProtocolError."""
        if self._held or not data.endswith(b"\n") or _may_be_long(data):
            data = self._checked(data, replies)
        self._feed(data, replies)

    def _checked(self, data: bytes, replies: list[Any]) -> bytes:
        """Feed the data up to the last length that is too large if it is one; return the rest."""
        data, self._held = self._held + data, b""
        if not data.endswith(b"\n") and (begun := _BEGUN.search(data, max(0, len(data) - 7))) is not None:
            data, self._held = data[: begun.start()], data[begun.start() :]
        begin = 0
        for length in _LONG.finditer(data):
            self._feed(data[begin : length.start()], replies)
            begin = length.start()
            # The text of a job can look like a length. Then hiredis still has the begin of that text, unread.
            if not self._reader.has_data():
                raise ProtocolError(f"the server announced a reply of more than {MAX_ELEMENTS:,} elements")
        return data[begin:]

    def _feed(self, data: bytes, replies: list[Any]) -> None:
        self._reader.feed(data)
        while (reply := self._reader.gets(False)) is not _PARTIAL:
            replies.append(reply)


def _may_be_long(data: bytes) -> bool:
    if _LONG_LIST.search(data) is not None:
        return True
    rare = b"%" in data or b"~" in data or b">" in data or b"|" in data
    return rare and _LONG_OTHER.search(data) is not None
