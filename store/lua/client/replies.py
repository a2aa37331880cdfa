"""Errors of a server and of a connection to it."""

from __future__ import annotations

_ENDING = ("LOADING ", "NOAUTH ", "WRONGPASS ", "ERR max number of clients ")


class DisconnectedError(Exception):
    """There is no connection: it was closed, or could not be opened."""


def not_connected(server: object, cause: BaseException) -> DisconnectedError:
    """The error for a connection that could not be opened."""
    if isinstance(cause, TimeoutError):
        return DisconnectedError(f"Timeout connecting to {server}")
    number, *rest = cause.args or (type(cause).__name__,)
    return DisconnectedError(f"Error {number} connecting to {server}." + (f" {rest[0]}." if rest else ""))


class ProtocolError(DisconnectedError):
    """The server sent data that is no reply, or a reply to no command."""


class CallTimeoutError(TimeoutError):
    """The server did not answer in time."""

    def __init__(self, late: float) -> None:
        super().__init__()
        self.late = late
        """How many seconds after its time the event loop ran the timer."""


class ServerError(Exception):
    """An error that the server sent as a reply. Its text is that of the server, and begins with a code."""

    @property
    def code(self) -> str:
        """The first word of the text, for example `NOSCRIPT`."""
        return str(self).split(" ", 1)[0]

    @property
    def ends_connection(self) -> bool:
        """Whether the connection is of no use: the server loads its data, or wants other credentials."""
        return str(self).startswith(_ENDING)

    @property
    def refuses_credentials(self) -> bool:
        """Whether the server does not accept the user or the password of a new connection."""
        return self.code in ("NOAUTH", "WRONGPASS") or "called without any password" in str(self)
